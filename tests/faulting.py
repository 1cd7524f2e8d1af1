"""Rows of the table of faults in docs/reliability.md, each declared by the test that holds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest

_Test = TypeVar("_Test", bound=Callable[..., object])


def fault(what: str, *, happens: str, outcome: str, slow: bool = False) -> Callable[[_Test], _Test]:
    """Decorator of a test; docs/generate.py reads its words from the source, so they are plain strings.

    Args:
        what: What goes wrong.
        happens: What bequest does about it.
        outcome: What the user is left with.
        slow: Of `make faults` alone.
    """
    return pytest.mark.faults if slow else lambda test: test
