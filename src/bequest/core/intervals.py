"""How far a mean over seeds can be trusted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_TOLERANCE = 1e-9
_SHARES = ("accuracy", "f1", "auroc", "agreement", "calibration")
_MOST_SEEDS = 1000


@dataclass(frozen=True)
class Difference:
    """By how much one method's scores exceed another's.

    Attributes:
        mean: Over the seeds that both finished.
        low: Lower end of its interval at 95 %; None where there is none.
        high: Upper end of it.
        seeds: How many.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: int

    def reversed(self) -> Difference:
        """By how much the other's scores exceed these."""
        low, high = (None if end is None else -end for end in (self.high, self.low))
        return Difference(-self.mean, low, high, self.seeds)

    @property
    def is_told(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    """The difference of two methods with its t-interval over the seeds that both finished; None without any.

    The interval is None with one seed, or where all differences are equal.

    Args:
        ours: A score a seed.
        theirs: Those of the other method.
    """
    differences = [score - theirs[seed] for seed, score in ours.items() if seed in theirs]
    if not differences:
        return None
    low, high = t_interval(differences) or (None, None)
    return Difference(statistics.mean(differences), low, high, len(differences))


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Ends of the mean's t-interval at 95 %; None with one value, or where all are equal.

    Args:
        values: One a seed; for a comparison of two methods their differences, seed by seed.
    """
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    if spread <= _TOLERANCE:
        return None
    mean, sem = statistics.mean(values), spread / math.sqrt(len(values))
    reach = _reach(len(values)) * sem
    return mean - reach, mean + reach


def within_range(value: float, metric: str) -> float:
    """A value, or the nearest one that the metric can have: the end of an interval may lie beyond.

    Args:
        value: Of the metric.
        metric: Its name.
    """
    name = metric.lower()
    if any(share in name for share in _SHARES):
        return min(max(value, 0.0), 1.0)
    if name in ("r²", "r2"):
        return min(value, 1.0)
    return max(value, 0.0)


def seeds_for(half: float, seeds: int, wanted: float) -> int:
    """How many seeds would narrow a t-interval at 95 % so far, were the spread to stay as it is; 1001 for more yet.

    Args:
        half: Half its width.
        seeds: How many it is over, 2 or more.
        wanted: Half the width that is wanted.
    """
    deviation = half * math.sqrt(seeds) / _reach(seeds)
    number = 2
    while number <= _MOST_SEEDS and _reach(number) * deviation / math.sqrt(number) > wanted:
        number += 1
    return number


def _reach(seeds: int) -> float:
    """How many standard errors a t-interval at 95 % reaches to each side."""
    from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

    return float(stdtrit(seeds - 1, 0.975))
