"""Faults of names, options and files, told as `SourceError`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch.nn.modules import module as hooks

from bequest.core.errors import BequestError, RunError, SourceError, first_line
from bequest.core.names import leads_out
from bequest.core.parse import parse_json
from bequest.nn.network import Network

_SMALLEST = 32
_MOST_PARTS = 2**15
"""Modules and parameters of a network that a file describes: several times what the largest have."""
_LARGEST_NUMBER = 2**20
"""What any file's description may count to; above, what is counted has to lie in the file of weights."""


class TooLarge(Exception):
    """A description asks for a network that no weights fill."""


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
            f"{name!r} does not take images of {size} px ({first_line(error)}); expected a size that "
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


def check_numbers(description: Any, num_bytes: int, name: str = "") -> None:
    """Refuse a description with a number that its weights do not bear out: libraries make as many things of it.

    Args:
        description: Plain data.
        num_bytes: Size of the weights.
        name: Of the field that it stands in.

    Raises:
        TooLarge: A whole number is above a million, and above the number of bytes.
    """
    if isinstance(description, dict):
        for key, inner in cast(dict[Any, Any], description).items():
            check_numbers(inner, num_bytes, f"{name}.{key}".lstrip("."))
    elif isinstance(description, list | tuple):
        for number, inner in enumerate(cast(list[Any], description)):
            check_numbers(inner, num_bytes, f"{name}[{number}]")
    elif isinstance(description, int) and description > (most := max(_LARGEST_NUMBER, num_bytes)):
        raise TooLarge(f"{name} is {str(description)[:20]}, expected {most:,} at most beside weights of that size")


@contextmanager
def few_parts(description: dict[str, Any]) -> Iterator[None]:
    """Ends the making of a network in this context once it has more modules and parameters than any network.

    Args:
        description: Of the network; its largest numbers are named.

    Raises:
        TooLarge: It has.
    """
    count = 0

    def counted(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > _MOST_PARTS:
            numbers = sorted(((n, k) for k, n in description.items() if isinstance(n, int)), reverse=True)
            named = ", ".join(f"{key} {number}" for number, key in numbers[:4])
            raise TooLarge(f"a network of more than {_MOST_PARTS:,} modules and parameters is described; see {named}")

    with ExitStack() as registered:
        for register in (
            hooks.register_module_module_registration_hook,
            hooks.register_module_parameter_registration_hook,
        ):
            registered.callback(register(counted).remove)
        yield


@contextmanager
def explained(spelling: str, where: str) -> Iterator[None]:
    """Turns a library's failure to find or to understand files into a `SourceError` that says what to do."""
    try:
        yield
    except (BequestError, MemoryError):
        raise
    except Exception as error:  # libraries meet a stranger's files with whatever those lead them to
        raise SourceError(
            f"The source {spelling!r} cannot be loaded ({first_line(error)}); expected its files on "
            f"{where}, in that library's cache, or in a folder. Check the name and the connection, or that the files "
            "are whole, or choose one that installs as a package: `bequest ls sources`."
        ) from error


def check_indexes(folder: Path) -> None:
    """Refuse a folder of weights one of whose indexes names files outside of it.

    Raises:
        SourceError: One does.
        ValueError: One is no JSON.
    """
    for file in sorted(folder.glob("*.index*.json")):
        index = parse_json(file.read_bytes())
        named = cast(dict[str, Any], index).get("weight_map") if isinstance(index, dict) else None
        names = list(cast(dict[str, Any], named).values()) if isinstance(named, dict) else [named]
        wrong = [name for name in names if not isinstance(name, str) or leads_out(name)]
        if wrong:
            raise SourceError(
                f"{file} names {str(wrong[0])[:100]!r} as a file of weights; expected files in its folder. Copy the "
                "model's folder again."
            )


def refuse(source: str, flag: str, value: object) -> None:
    """Raise `SourceError` if an option that has no meaning for a source was given."""
    if value is not None:
        raise SourceError(f"{flag} does not apply to {source!r}. Leave it out.")
