"""Which layers can carry a low-rank update, and which of them patterns name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from torch import nn

from bequest.core.errors import MethodError, nearest
from bequest.nn.lowrank.attention import PROJECTION, can_open

_Number = TypeVar("_Number", int, float)


def targets(body: nn.Module, patterns: str = "") -> tuple[str, ...]:
    """Names of the layers that are to carry a low-rank update.

    Args:
        body: A network without its head.
        patterns: With commas between. Each is a layer's name, its end from a dot on, or a module's for all layers that
            it holds, in which * stands for any text, ? for one character and [ab] for either: `query`,
            `*.attention.*`, `layer.5`. Empty for every Linear and Conv1D, the projections of attention among them, and
            every ungrouped Conv2d; by name also embeddings and grouped convolutions.

    Raises:
        MethodError: A pattern fits no such layer; the text names the nearest ones.
    """
    carriers = dict(_carriers(body))
    if not patterns:
        return tuple(name for name, by_default in carriers.items() if by_default)
    wanted = _listed(patterns)
    faults = [_fault(pattern, carriers, body) for pattern in wanted if not any(_fits(n, pattern) for n in carriers)]
    if faults or not wanted:
        raise MethodError(" ".join(faults) or f"The targets are {patterns!r}, expected patterns, e.g. 'query,value'.")
    return tuple(name for name in carriers if any(_fits(name, pattern) for pattern in wanted))


def by_pattern(setting: str, names: Sequence[str], default: _Number, number: Callable[[str], _Number]) -> list[_Number]:
    """A number for each layer: that of the last pattern that fits it, else the default.

    Args:
        setting: Patterns as for `targets`, each with its number: `*.query=16,*.value=4`.
        names: Of the layers that are adapted.
        default: For the layers that no pattern fits.
        number: From text.

    Raises:
        MethodError: Something is no pattern with a number above 0, or a pattern fits none of the layers.
    """
    found, faults = [default] * len(names), list[str]()
    for entry in _listed(setting):
        pattern, _, text = (part.strip() for part in entry.rpartition("="))
        value = _above_zero(text, number)
        fitting = [i for i, name in enumerate(names) if _fits(name, pattern)]
        if not pattern or value is None:
            kind = "a whole number of 1 or more" if number is int else "a number above 0"
            faults.append(f"{entry!r} is no pattern with {kind}, e.g. '*.query=16'.")
        elif not fitting:
            faults.append(f"{pattern!r} fits none of the adapted layers. {nearest(pattern, _known(names))}")
        else:
            found = [value if i in fitting else old for i, old in enumerate(found)]
    if faults:
        raise MethodError(" ".join(faults))
    return found


def is_linear(module: nn.Module) -> bool:
    """Whether it is a Linear that computes what a Linear does, or a Conv1D of transformers."""
    plain = isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward
    # By name, so that transformers need not be imported for networks that are not from it.
    return (plain or type(module).__name__ == "Conv1D") and _owns_weight(module)


def is_convolution(module: nn.Module) -> bool:
    """Whether it is a Conv2d with a kernel of its own."""
    return isinstance(module, nn.Conv2d) and _owns_weight(module)


def is_embedding(module: nn.Module) -> bool:
    """Whether it is an Embedding that looks vectors up and does nothing else."""
    return isinstance(module, nn.Embedding) and type(module).forward is nn.Embedding.forward and _owns_weight(module)


def _owns_weight(module: nn.Module) -> bool:
    # A weight that is computed from others (weight normalisation) is no parameter, and cannot be merged into.
    return "weight" in dict(module.named_parameters(recurse=False))


def _carriers(body: nn.Module) -> Iterable[tuple[str, bool]]:
    """Names of all layers that can carry an update, and whether they do unless told otherwise."""
    for name, module in body.named_modules():
        if can_open(module):
            yield f"{name}.{PROJECTION}".lstrip("."), True
        elif is_linear(module):
            yield name, True
        elif isinstance(module, nn.Conv2d) and is_convolution(module):
            yield name, module.groups == 1
        elif is_embedding(module):
            yield name, False


def _listed(patterns: str) -> list[str]:
    return [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(f".{name}.", f"*.{pattern.removeprefix('*.')}.*")


def _fault(pattern: str, carriers: Iterable[str], body: nn.Module) -> str:
    other = next(((n, m) for n, m in body.named_modules() if n and _fits(n, pattern)), None)
    if other is None:
        return f"{pattern!r} fits no layer. {nearest(pattern, _known(carriers))}"
    kind = type(other[1]).__name__
    return f"{pattern!r} fits {other[0]}, a {kind}, which has no layer that can carry a low-rank update."


def _known(names: Iterable[str]) -> set[str]:
    """The names, and the last part of each."""
    return {known for name in names for known in (name, name.rpartition(".")[2])}


def _above_zero(text: str, number: Callable[[str], _Number]) -> _Number | None:
    try:
        value = number(text)
    except ValueError:
        return None
    return value if value > 0 else None
