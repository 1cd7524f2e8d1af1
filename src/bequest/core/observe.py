"""How long work tells whoever watches: the engine calls an `Observer`, the user interface implements one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from bequest.core.results import Leaderboard, TrialRecord


class Observer(Protocol):
    """Hears of progress. Every call returns at once and must not raise."""

    def note(self, text: str) -> None:
        """Something the user should know, said once."""
        ...

    def progress(self, label: str, done: int, total: int) -> None:
        """`done` of `total` units of the work called `label` are done."""
        ...

    def trial(self, record: TrialRecord, board: Leaderboard) -> None:
        """A trial has ended; `board` is the leaderboard so far."""
        ...


class Silent:
    """An observer that ignores everything."""

    def note(self, text: str) -> None:
        """Ignored."""

    def progress(self, label: str, done: int, total: int) -> None:
        """Ignored."""

    def trial(self, record: TrialRecord, board: Leaderboard) -> None:
        """Ignored."""
