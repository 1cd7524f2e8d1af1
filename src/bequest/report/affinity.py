"""How well the source knows the task's domain: what its frozen features are worth beside training from nothing."""

from __future__ import annotations

from dataclasses import dataclass

from bequest.core.intervals import Difference, paired
from bequest.core.results import Leaderboard
from bequest.report.units import gap, metric_name

_METHODS = ("linear_probe", "from_scratch")


@dataclass(frozen=True)
class Affinity:
    """The domain affinity: the linear probe's test metric minus that of training from scratch.

    Evci et al. 2022, arXiv:2201.03529, who compare accuracies.

    Attributes:
        metric: What is compared.
        difference: Over the seeds that both methods finished; its interval counts seeds and test samples.
    """

    metric: str
    difference: Difference


def measure(board: Leaderboard) -> Affinity | None:
    """The domain affinity, in the score that rows are ranked by; None of no seed that both methods finished."""
    found = board.difference(*_METHODS) or paired(*map(board.tested, _METHODS))
    metric = next((row.metric for row in board.judged() if row.method == _METHODS[0]), "")
    return None if found is None else Affinity(metric, found)


def in_words(board: Leaderboard) -> list[str]:
    """The domain affinity and what it means, one paragraph; none where it was not measured."""
    found = measure(board)
    if found is None:
        return []
    mean, seeds = found.difference.mean, found.difference.seeds
    over = "one seed" if seeds == 1 else f"mean over {seeds} seeds"
    return [
        f"Domain affinity {_signed(mean, found.metric)}: the test {metric_name(found.metric)} of linear_probe "
        f"minus that of from_scratch, {over}{_certainty(found)} Far above 0, the source knows the domain; near or "
        "below 0, its features are hardly better than none."
    ]


def _certainty(found: Affinity) -> str:
    """The interval, and no more than it allows to say."""
    ends = [end for end in (found.difference.low, found.difference.high) if end is not None]
    if not ends:
        if found.difference.seeds == 1:
            return ", which gives no interval: it may be chance; run more seeds to tell."
        return ", the same with each, which gives no interval: how far chance moves it cannot be told."
    low, high = (_signed(end, found.metric) for end in ends)
    text = f", 95 % interval from {low.removesuffix(' points')} to {high}."
    # By the ends as they are read: one that reads as zero is not called different from it.
    below, above = (round(end, 3) for end in ends)
    if below > 0:
        return text + " The interval is above 0: here the features are better than none."
    if above < 0:
        return text + " The interval is below 0: here the network learns more without what the source knows."
    return text + " The interval holds 0: whether the features are better than none cannot be told."


def _signed(value: float, metric: str) -> str:
    return gap(value, metric, signed=True)
