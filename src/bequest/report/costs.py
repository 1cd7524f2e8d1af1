"""What a method costs, one record a kind: the axes of the plots of metric against cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from bequest.core.results import Leaderboard, Row, TrialRecord, goodness
from bequest.report import units


@dataclass(frozen=True)
class Cost:
    """One kind of cost; less is better.

    Attributes:
        name: Short, for ids.
        label: In words.
        of: A row's or a trial's; None where it was not measured.
        text: A value with its unit.
    """

    name: str
    label: str
    of: Callable[[Row | TrialRecord], float | None]
    text: Callable[[float], str]


def _recorded(field: str, scored: Row | TrialRecord) -> float | None:
    return getattr(scored, field)


def _inference_s(scored: Row | TrialRecord) -> float | None:
    return 1 / scored.inference_per_s if scored.inference_per_s else None


def _latency_s(scored: Row | TrialRecord) -> float | None:
    return None if scored.latency_p50_ms is None else scored.latency_p50_ms / 1000


COSTS = (
    Cost("training", "training time", partial(_recorded, "train_s"), units.duration),
    Cost("memory", "memory added while fitting", partial(_recorded, "added_memory_bytes"), units.size),
    Cost("accelerator", "accelerator memory", partial(_recorded, "accelerator_memory_bytes"), units.size),
    Cost("alone", "peak memory of a process of its own", partial(_recorded, "peak_memory_bytes"), units.size),
    Cost("optimizer", "optimizer state", partial(_recorded, "optimizer_bytes"), units.size),
    Cost("trainable", "trainable parameters", partial(_recorded, "trainable_parameters"), units.quantity),
    Cost("stored", "what is stored", partial(_recorded, "stored_bytes"), units.size),
    Cost("inference", "inference time a sample, in batches", _inference_s, units.milliseconds),
    Cost("latency", "latency of a sample alone", _latency_s, units.milliseconds),
    Cost("operations", "operations of a prediction", partial(_recorded, "forward_flops"), units.operations),
)
"""In the order in which they are offered."""


def measured(board: Leaderboard) -> list[Cost]:
    """The costs that were measured of some row that was tested; the first always."""
    rows = tested(board)
    return [cost for cost in COSTS if cost is COSTS[0] or any(cost.of(row) for row in rows)]


def tested(board: Leaderboard, cost: Cost = COSTS[0]) -> list[Row]:
    """The rows that have a result on the test part and this cost."""
    return [r for r in board.rows if r.validation is not None and r.test is not None and cost.of(r) is not None]


def frontier(rows: Sequence[Row], cost: Cost) -> list[Row]:
    """The rows of which no other is as cheap and better or as good and cheaper, by means on test; cheapest first."""
    found: list[Row] = []
    for row in sorted(rows, key=lambda r: (_value(r, cost), -_quality(r))):
        if not found or _quality(row) > _quality(found[-1]):
            found.append(row)
    return found


def _value(row: Row, cost: Cost) -> float:
    value = cost.of(row)
    assert value is not None
    return value


def _quality(row: Row) -> float:
    assert row.test is not None
    return goodness(row, row.test.mean)
