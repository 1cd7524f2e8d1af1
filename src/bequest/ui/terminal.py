"""The observer that people see: a leaderboard that grows, and bars for what is under way."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from bequest.core.results import Leaderboard, TrialRecord
from bequest.report import units
from bequest.ui.leaderboard import leaderboard_table

__all__ = ["Terminal", "leaderboard_table"]

_LABEL_WIDTH = 32
_TABLE_FRAME = 6
"""Lines of a table beside its rows: two of header, a rule, two of caption, one blank."""


class Terminal:
    """Shows progress while work runs; a context manager.

    On a terminal the leaderboard so far stands above the progress bars, and both go away at the end. Into a
    file or a pipe goes one line for each finished trial and each note, without control codes.

    Args:
        console: Where to; standard error by default, so that standard output stays for results.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._board: Leaderboard | None = None
        self._notes: set[str] = set()
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._live = Live(
            get_renderable=self._picture,
            console=self._console,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
        )

    def __enter__(self) -> Self:
        if self._console.is_interactive:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()
        # What was reached before an interruption would otherwise vanish with the live display.
        if kind and self._board and self._console.is_interactive:
            self._console.print(leaderboard_table(self._board, width=self._console.width))

    def note(self, text: str) -> None:
        """Something the user should know, said once."""
        if text not in self._notes:
            self._notes.add(text)
            self._line(text, style="yellow")

    def progress(self, label: str, done: int, total: int) -> None:
        """A bar for the work called `label`, gone once all is done."""
        if done < total:
            if label not in self._tasks:
                self._tasks[label] = self._progress.add_task(units.shorten(label, _LABEL_WIDTH))
            self._progress.update(self._tasks[label], completed=done, total=total)
        elif label in self._tasks:
            self._progress.remove_task(self._tasks.pop(label))

    def trial(self, record: TrialRecord, board: Leaderboard) -> None:
        """The leaderboard so far; a line where there is no live display, or where the trial failed."""
        self._board = board
        if record.error is not None:
            self._line(f"{record.method}, seed {record.seed}: failed: {record.error}", style="red")
        elif not self._live.is_started:
            self._line(f"{record.method}, seed {record.seed}: {_outcome(record)}")

    def _line(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style=style), soft_wrap=not self._live.is_started)

    def _picture(self) -> RenderableType:
        bars = self._progress.get_renderable()
        if self._board is None:
            return bars
        room = self._console.height - _TABLE_FRAME - len(self._tasks)
        return Group(leaderboard_table(self._board, width=self._console.width, num_rows=room), "", bars)


def _outcome(record: TrialRecord) -> str:
    parts = [
        f"validation {units.score(record.validation, record.metric)}",
        f"test {units.score(record.test, record.metric)}",
        f"trained in {units.duration(record.train_s)}",
    ]
    return ", ".join(parts)
