"""Solvers are tested as users have them."""

from __future__ import annotations

import pytest

from bequest.optim import linear

ALL = linear.PENALTIES


@pytest.fixture(autouse=True)
def all_penalties(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than the few of other tests."""
    monkeypatch.setattr(linear, "PENALTIES", ALL)
