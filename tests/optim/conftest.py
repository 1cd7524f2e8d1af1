"""Solvers are tested as users have them."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def whole_path(all_penalties: None) -> None:
    """Of penalties."""
