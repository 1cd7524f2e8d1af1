"""Parameters chosen by their names, or by the kind of layer that they belong to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from torch import nn

from bequest.core.errors import MethodError, nearest
from bequest.nn.depth import Layer


def matching(patterns: str, names: Sequence[str], layers: Sequence[Layer]) -> set[str]:
    """The parameters that any of some patterns names.

    Args:
        patterns: With commas between. Each is a parameter's full name, or that of a module for all that it holds, in
            which * stands for any text, ? for one character and [ab] for either: `*.bias`, `blocks.5`, `layer?.norm*`.
        names: The parameters'.
        layers: Of the same body; their names are suggested where nothing fits.

    Raises:
        MethodError: A pattern fits no parameter; the text names the nearest ones.
    """
    wanted = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]
    fits = {p: {n for n in names if fnmatchcase(n, p) or fnmatchcase(n, p + ".*")} for p in wanted}
    known = {layer.name for layer in layers} | {"*." + name.rpartition(".")[2] for name in names}
    faults = [f"{pattern!r} fits no parameter. {nearest(pattern, known)}" for pattern, fit in fits.items() if not fit]
    if faults or not wanted:
        raise MethodError(" ".join(faults) or f"{patterns!r} holds no pattern, expected one or more, e.g. '*.bias'.")
    return set().union(*fits.values())


def normalisation(body: nn.Module) -> set[str]:
    """Names of the parameters of every normalisation layer: torch's, and any module that is called so."""
    own = {
        f"{path}.{name}".lstrip("."): type(module).__name__
        for path, module in body.named_modules()
        for name, _ in module.named_parameters(recurse=False)
    }
    return {name for name, kind in own.items() if "norm" in kind.lower()}


def only(layers: Iterable[Layer], names: Iterable[str]) -> tuple[Layer, ...]:
    """The layers with no parameters but some; those that keep none still count as a step of depth."""
    chosen = set(names)
    return tuple(replace(layer, parameters=tuple(n for n in layer.parameters if n in chosen)) for layer in layers)
