"""The leaderboard as a table that fits the terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bequest.core.results import WORST_GROUP, Leaderboard, Row
from bequest.report import units

_GAP = 2
"""Spaces between two columns."""


@dataclass(frozen=True)
class _Column:
    """A column.

    Attributes:
        header: One or two lines.
        cell: A row's text.
        importance: Where the terminal is narrow, the columns of least importance give way.
        justify: How cells are aligned.
        is_told: Whether a leaderboard has it.
    """

    header: str
    cell: Callable[[Leaderboard, Row], str]
    importance: int
    justify: Literal["left", "right"] = "right"
    is_told: Callable[[Leaderboard], bool] = lambda board: True

    def width(self, board: Leaderboard, rows: list[Row]) -> int:
        texts = [*self.header.split("\n"), *(self.cell(board, row) for row in rows)]
        return max(map(cell_len, texts))


def _validation(board: Leaderboard, row: Row) -> str:
    return units.mean_sem(row.validation, row.metric) if row.validation else "failed"


def _epochs(board: Leaderboard, row: Row) -> str:
    if not row.epochs_planned:
        return "solved"
    return f"{row.epochs_run:.1f}".removesuffix(".0") + f" / {row.epochs_planned}"


def _seeds(board: Leaderboard, row: Row) -> str:
    done = row.validation.seeds if row.validation else 0
    planned = board.protocol.get("seeds")
    return f"{done} / {len(planned)}" if isinstance(planned, (list, tuple)) else str(done)


def _judged_by(board: Leaderboard, row: Row) -> str:
    """Name of the score that rows are ranked by."""
    return row.metric if board.select_by == "metric" else WORST_GROUP


def _has_groups(board: Leaderboard) -> bool:
    return any(row.groups for row in board.rows)


_COLUMNS = (
    _Column("method", lambda board, row: row.method, 12, "left"),
    _Column("validation", _validation, 11),
    _Column(
        "validation\nworst group",
        lambda board, row: units.mean_sem(row.validation_worst_group, WORST_GROUP),
        10,
        is_told=lambda board: board.select_by == "worst-group",
    ),
    _Column("test", lambda board, row: units.mean_sem(row.test, row.metric), 9),
    _Column(
        "test\nworst group",
        lambda board, row: units.mean_sem(row.metrics.get(WORST_GROUP), WORST_GROUP),
        8,
        is_told=_has_groups,
    ),
    _Column(
        "against\nthe best",
        lambda board, row: units.against(row.versus_best, _judged_by(board, row)),
        8,
        is_told=lambda board: any(row.versus_best for row in board.rows),
    ),
    _Column("epochs\nrun", _epochs, 2),
    _Column("trainable\nparameters", lambda board, row: units.quantity(row.trainable_parameters), 6),
    _Column("training\ntime", lambda board, row: units.duration(row.train_s), 7),
    _Column("stored\nbytes", lambda board, row: units.size(row.stored_bytes), 4),
    _Column(
        "optimizer\nbytes",
        lambda board, row: units.size(row.optimizer_bytes),
        0,
        is_told=lambda board: any(row.optimizer_bytes for row in board.rows),
    ),
    _Column("memory\nadded", lambda board, row: units.size(row.added_memory_bytes), 3),
    _Column(
        "memory\nalone",
        lambda board, row: units.size(row.peak_memory_bytes),
        3,
        is_told=lambda board: any(row.peak_memory_bytes for row in board.rows),
    ),
    _Column(
        "accelerator\nmemory",
        lambda board, row: units.size(row.accelerator_memory_bytes),
        3,
        is_told=lambda board: any(row.accelerator_memory_bytes for row in board.rows),
    ),
    _Column("inference\nsamples", lambda board, row: units.rate(row.inference_per_s), 1),
    _Column(
        "latency\np50 / p95",
        lambda board, row: units.latency(row.latency_p50_ms, row.latency_p95_ms),
        1,
        is_told=lambda board: any(row.latency_p50_ms is not None for row in board.rows),
    ),
    _Column("seeds\ndone", _seeds, 5),
)


def leaderboard_table(board: Leaderboard, *, width: int | None = None, num_rows: int | None = None) -> Table:
    """The leaderboard, best method first.

    Args:
        board: What to show.
        width: Columns of the terminal; the least important of the table's give way. None shows all.
        num_rows: How many rows there is room for; None shows all.
    """
    rows = board.rows if num_rows is None else board.rows[: max(num_rows, 1)]
    columns = _that_fit(board, rows, width)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
    for column in columns:
        table.add_column(column.header, justify=column.justify, no_wrap=True, overflow="ellipsis")
    for row in rows:
        style = "bold green" if row is board.best else "" if row.validation else "red"
        table.add_row(*(Text(c.cell(board, row)) for c in columns), style=style)
    table.caption = _caption(board, len(rows), columns)
    table.caption_justify = "left"
    return table


def _that_fit(board: Leaderboard, rows: list[Row], width: int | None) -> list[_Column]:
    """The columns in order of importance as long as there is room; method and validation always."""
    chosen: list[_Column] = []
    used = -_GAP
    for column in sorted(_told(board), key=lambda c: -c.importance):
        extent = _GAP + column.width(board, rows)
        if width is None or len(chosen) < 2 or used + extent <= width:
            chosen.append(column)
            used += extent
    return [c for c in _COLUMNS if c in chosen]


def _told(board: Leaderboard) -> list[_Column]:
    return [column for column in _COLUMNS if column.is_told(board)]


def _caption(board: Leaderboard, num_rows: int, columns: list[_Column]) -> str | None:
    """What the numbers are, and what had no room."""
    metrics = dict.fromkeys(units.metric_name(row.metric) for row in board.rows)
    parts = [f"{' and '.join(metrics)}: mean ± standard error over the seeds"] if metrics else []
    if any(not row.higher_is_better for row in board.rows):
        parts[0] += ", lower is better"
    if any(row.versus_best and row.versus_best.indistinguishable for row in board.rows):
        parts.append("≈: indistinguishable from the best on the test part")
    if board.select_by == "worst-group":
        parts.append("ranked by the worst group on validation")
    hidden = [c.header.replace("\n", " ") for c in _told(board) if c not in columns]
    if hidden:
        parts.append(f"not shown: {', '.join(hidden)}")
    if num_rows < len(board.rows):
        parts.append(f"{len(board.rows) - num_rows} more rows")
    parts += [f"{row.method}: {note}" for row in board.rows[:num_rows] for note in row.notes]
    return escape("; ".join(parts)) or None
