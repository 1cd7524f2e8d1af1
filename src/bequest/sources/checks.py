"""Faults of names, options and files, told as `SourceError`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import Any

import torch

from bequest.core.errors import RunError, SourceError
from bequest.nn.network import Network

_SMALLEST = 32


def check_image_size(name: str, untrained: Callable[[], Network], size: int) -> int:
    """The width of the embedding that a network makes of images of a size.

    Args:
        name: Of the source.
        untrained: Makes the network.
        size: Side of the image, pixels.

    Raises:
        SourceError: The network takes no images of that size.
    """
    if size < _SMALLEST:
        raise SourceError(f"--image-size is {size}, expected {_SMALLEST} or more: networks halve it five times.")
    return embedding_width(name, untrained, size)


def embedding_width(name: str, untrained: Callable[[], Network], size: int) -> int:
    """As `check_image_size`, for networks that may be made for small images.

    Raises:
        SourceError: The network takes no images of that size.
    """
    try:
        with torch.device("meta"), torch.no_grad():
            return untrained().body.eval()(torch.zeros(2, 3, size, size)).shape[1]
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        raise SourceError(
            f"{name!r} does not take images of {size} px ({str(error).strip().splitlines()[0]}); expected a size that "
            "fits its patches or windows. Leave --image-size out, or choose a multiple of 32."
        ) from error


def check_description(description: dict[str, Any], known: bool, arguments: Iterable[str]) -> None:
    """Refuse what a saved model's file says of its network if it asks a library for more than a network's shape.

    Args:
        description: With `architecture` and `arguments`.
        known: Whether the library has the architecture.
        arguments: That bequest writes.

    Raises:
        RunError: It does.
    """
    further = sorted(set(description.get("arguments") or ()) - set(arguments))
    if further or not known:
        what = f"the arguments {', '.join(further)}" if further else f"the architecture {description['architecture']!r}"
        raise RunError(
            f"The description of a {description['kind']} network has {what}; expected what bequest writes. Copy the "
            "model's folder again, or run again."
        )


@contextmanager
def explained(spelling: str, where: str) -> Iterator[None]:
    """Turns a library's failure to find or to understand files into a `SourceError` that says what to do."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, UnpicklingError) as error:
        raise SourceError(
            f"The source {spelling!r} cannot be loaded ({str(error).strip().splitlines()[0]}); expected its files on "
            f"{where}, in that library's cache, or in a folder. Check the name and the connection, or choose one that "
            "installs as a package: `bequest ls sources`."
        ) from error


def refuse(source: str, flag: str, value: object) -> None:
    """Raise `SourceError` if an option that has no meaning for a source was given."""
    if value is not None:
        raise SourceError(f"{flag} does not apply to {source!r}. Leave it out.")
