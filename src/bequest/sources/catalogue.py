"""Sources by name, for the command line and for models that were saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bequest.core.errors import RunError, SourceError, nearest
from bequest.sources import embedded, preprocess, timm, transformers
from bequest.sources.source import Source

EMBEDDED: dict[str, Callable[..., Source]] = {
    "minilm_l6": embedded.minilm_l6,
    "efficientnet_lite0": embedded.efficientnet_lite0,
}


def names() -> dict[str, str]:
    """Every source by name, with one line on each."""
    return {name: (make.__doc__ or "").split("\n", 1)[0] for name, make in EMBEDDED.items()}


def get(name: str, *, max_tokens: int | None = None, image_size: int | None = None) -> Source:
    """The source of that name.

    Args:
        name: One of `names()`.
        max_tokens: Token limit of a text encoder; None for its default.
        image_size: Side of an image network's input, pixels; None for its default.

    Raises:
        SourceError: The name is unknown (the nearest ones are given), or the weights are not installed.
    """
    if name not in EMBEDDED:
        raise SourceError(f"There is no source {name!r}. {nearest(name, EMBEDDED)} `bequest ls sources` lists all.")
    return EMBEDDED[name](max_tokens=max_tokens, image_size=image_size)


def from_description(name: str, description: dict[str, Any], folder: Path) -> Source:
    """The source of a saved model: its architecture and preprocessing, its weights not yet loaded.

    Raises:
        RunError: The model was made from an `nn.Module` that only Python knows.
    """
    makers = {"transformers": transformers.from_description, "timm": timm.from_description}
    kind = description.get("network", {}).get("kind")
    if kind not in makers:
        raise RunError(
            f"The model in {folder} was adapted from {name!r}, an nn.Module of the user's; its code is not in the "
            "folder. Give the source: bequest.load(folder, source=bequest.from_module(...))."
        )
    prepared = preprocess.load(description["preprocess"], folder)
    return makers[kind](name, description["network"], prepared)
