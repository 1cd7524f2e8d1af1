"""Modules that heads are made of, one file for each; every kind is found by itself.

A kind is a module class whose `describe` gives, as plain data, the arguments that make one of the same shape; its
parameters and buffers hold the rest. So a head is saved as tensors and a description, and never as Python objects.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, TypeVar

_Class = TypeVar("_Class")
_KINDS: dict[str, Any] = {}


def kind(name: str) -> Callable[[type[_Class]], type[_Class]]:
    """Class decorator: the class is found under a name by `kinds`."""

    def register(cls: type[_Class]) -> type[_Class]:
        if name in _KINDS:
            raise ValueError(f"two kinds of heads are called {name!r}: {_KINDS[name].__name__} and {cls.__name__}")
        _KINDS[name] = cls
        return cls

    return register


def kinds() -> dict[str, Any]:
    """Every kind by its name; the modules of this package are imported on the way."""
    for module in pkgutil.iter_modules(__path__, __name__ + "."):
        importlib.import_module(module.name)
    return _KINDS
