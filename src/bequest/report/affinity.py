"""How well the source knows the task's domain: what its frozen features are worth beside training from nothing."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from bequest.core.intervals import t_interval
from bequest.core.results import Leaderboard
from bequest.report.units import gap, metric_name


@dataclass(frozen=True)
class Affinity:
    """The domain affinity: the linear probe's test metric minus that of training from scratch.

    Evci et al. 2022, arXiv:2201.03529, who compare accuracies.

    Attributes:
        metric: What is compared.
        mean: Of the differences, one for each seed that both methods finished.
        bounds: Ends of their t-interval at 95 %; None with one seed, or where all differences are equal.
        seeds: How many.
    """

    metric: str
    mean: float
    bounds: tuple[float, float] | None
    seeds: int


def measure(board: Leaderboard) -> Affinity | None:
    """The domain affinity; None where there is no seed that both methods finished."""
    probe, scratch = (_test_scores(board, method) for method in ("linear_probe", "from_scratch"))
    differences = [score - scratch[seed] for seed, score in probe.items() if seed in scratch]
    if not differences:
        return None
    metric = next(row.metric for row in board.rows if row.method == "linear_probe")
    return Affinity(metric, statistics.mean(differences), t_interval(differences), len(differences))


def in_words(board: Leaderboard) -> list[str]:
    """The domain affinity and what it means, one paragraph; none where it was not measured."""
    found = measure(board)
    if found is None:
        return []
    over = "one seed" if found.seeds == 1 else f"mean over {found.seeds} seeds"
    return [
        f"Domain affinity {_signed(found.mean, found.metric)}: the test {metric_name(found.metric)} of linear_probe "
        f"minus that of from_scratch, {over}{_certainty(found)} Far above 0, the source knows the domain; near or "
        "below 0, its features are hardly better than none."
    ]


def _test_scores(board: Leaderboard, method: str) -> dict[int, float]:
    return {t.seed: t.test for t in board.trials if t.method == method and t.test is not None}


def _certainty(found: Affinity) -> str:
    """The interval, and no more than it allows to say."""
    if found.bounds is None:
        if found.seeds == 1:
            return ", which gives no interval: it may be chance; run more seeds to tell."
        return ", the same with each, which gives no interval: how far chance moves it cannot be told."
    low, high = (_signed(bound, found.metric) for bound in found.bounds)
    text = f", 95 % t-interval over the seeds from {low.removesuffix(' points')} to {high}."
    # By the bounds as they are read: one that reads as zero is not called different from it.
    below, above = (round(bound, 3) for bound in found.bounds)
    if below > 0:
        return text + " The interval is above 0: here the features are better than none."
    if above < 0:
        return text + " The interval is below 0: here the network learns more without what the source knows."
    return text + " The interval holds 0: whether the features are better than none cannot be told."


def _signed(value: float, metric: str) -> str:
    return gap(value, metric, signed=True)
