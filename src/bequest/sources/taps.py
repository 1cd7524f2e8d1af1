"""The layers that a user names, as taps."""

from __future__ import annotations

from collections.abc import Sequence

from bequest.core.errors import SourceError
from bequest.core.task import Task
from bequest.nn.taps import Tap, embedding_tap
from bequest.sources.source import Source


def named_taps(
    source: Source, layers: str | Sequence[str], *, target: int = 0, task: Task | None = None
) -> tuple[Tap, ...]:
    """Taps of a source's body in the order in which they are named.

    Args:
        source: The source.
        layers: `last` for the embedding; `all` for every layer of depth and the embedding; or layers' names, with
            commas between or in a list, each whole or its end, `embedding` among them.
        target: Numbers to pool each layer's output to, about; 0 for means.
        task: Whose samples are tried where no other batch is known.

    Raises:
        SourceError: No layer is named, one twice, or as for `Source.taps`.
    """
    if layers == "last":
        return (embedding_tap(source.width),)
    if layers == "all":
        steps = {layer.name for layer in source.layers}
        return tuple(tap for tap in source.taps(target=target, task=task) if tap.name in steps or not tap.name)
    words = layers.split(",") if isinstance(layers, str) else layers
    names = [word.strip() for word in words if word.strip()]
    if not names:
        raise SourceError(f"layers is {layers!r}; expected names of layers, last or all.")
    taps = source.taps(names, target, task)
    twice = sorted({tap.name or "embedding" for tap in taps if taps.count(tap) > 1})
    if twice:
        raise SourceError(f"layers names {', '.join(twice)} more than once; expected each once.")
    return taps


def column_names(taps: Sequence[Tap]) -> list[str]:
    """`<layer>:<i>` for each feature of some taps."""
    return [f"{tap.name or 'embedding'}:{i}" for tap in taps for i in range(tap.width)]
