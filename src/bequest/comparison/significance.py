"""Rows against each other on the test part: paired over seeds and test samples, against the best corrected as well.

The differences d of two methods, seed by seed and sample by sample, are taken as

    d = μ + seed + sample + rest

with random parts of mean 0 that are independent of each other. The means over samples of each seed tell the variance
that seeds bring to the mean, with few degrees of freedom; the means over seeds of each sample tell that of the samples,
with many:

    V_seeds = s²(means of the k seeds) / k,   V_samples = s²(means of the n samples) / n

and the interval at level 1 − α is

    mean ± √(t²_{k−1} · V_seeds + t²_{n−1} · V_samples),   t at 1 − α/2.

It covers at least that often, whatever the mixture of the two variances: the probability that a squared standard normal
number is below x is concave in x, so the coverage is at least the mean, weighted by each part's share of the variance,
of the coverages of the two t-intervals, each of which is 1 − α. The rest is counted in both variances, which makes it
wider still. A bootstrap over three seeds is far too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtrit

from bequest.core.intervals import Difference
from bequest.core.results import Row, Versus
from bequest.core.task import IntArray

LEVEL = 0.05
"""Corrected probabilities above it are no evidence of a difference."""

_SMALLEST = 1e-12
"""Probabilities below it are not told apart."""

Scores = np.ndarray[Any, np.dtype[np.float64]]


def against_best(rows: Sequence[Row], scores: Mapping[str, Mapping[int, Scores]]) -> list[Row]:
    """The rows, each with its comparison with the first.

    The first is chosen on held-out labels, not on the test part, so that its differences there are not selected.

    Args:
        rows: In order.
        scores: Of each method and seed, the score sample by sample (samples,).
    """
    compared: dict[str, Versus] = {}
    for row in rows[1:]:
        both = _paired(scores.get(row.method, {}), scores.get(rows[0].method, {}))
        if both is not None:
            compared[row.method] = versus(both)
    corrected = dict(zip(compared, holm([found.p for found in compared.values()]), strict=True))
    judged = {
        name: replace(found, p=corrected[name], indistinguishable=corrected[name] > LEVEL)
        for name, found in compared.items()
    }
    return [replace(row, versus_best=judged.get(row.method)) for row in rows]


def pairs(scores: Mapping[str, Mapping[int, Scores]]) -> dict[str, dict[str, Difference]]:
    """By how much each method's scores exceed those of each that comes after it; no level is corrected.

    Args:
        scores: As for `against_best`.
    """
    found: dict[str, dict[str, Difference]] = {}
    for one, other in combinations(scores, 2):
        apart = difference(scores[one], scores[other])
        if apart is not None:
            found.setdefault(one, {})[other] = apart
    return found


def difference(ours: Mapping[int, Scores], theirs: Mapping[int, Scores]) -> Difference | None:
    """By how much one method's scores exceed another's; None where they share fewer than two seeds.

    Args:
        ours: The score sample by sample (samples,) of each seed.
        theirs: Those of the other method.
    """
    both = _paired(ours, theirs)
    if both is None:
        return None
    mean, reach = float(both.mean()), _reach(both)(LEVEL)
    return Difference(mean, mean - reach, mean + reach, len(both))


def versus(differences: Scores) -> Versus:
    """What differences of two methods tell; the probability is not corrected.

    Args:
        differences: float64 (seeds, samples), two or more of both.
    """
    mean, reach = float(differences.mean()), _reach(differences)
    p = _where_zero(lambda level: reach(level) - abs(mean))
    return Versus(mean, mean - reach(LEVEL), mean + reach(LEVEL), p, p > LEVEL, *differences.shape)


def _paired(ours: Mapping[int, Scores], theirs: Mapping[int, Scores]) -> Scores | None:
    """Differences (seeds, samples) over the seeds that both finished; None of fewer than two seeds or samples."""
    seeds = [seed for seed in ours if seed in theirs]
    if len(seeds) < 2 or len(ours[seeds[0]]) < 2:
        return None
    return np.stack([ours[seed] - theirs[seed] for seed in seeds])


def _reach(differences: Scores) -> Callable[[float], float]:
    """How far their mean's interval reaches to each side, by the level."""
    sizes, means = differences.shape, (differences.mean(1), differences.mean(0))
    variances = [float(each.var(ddof=1)) / size for each, size in zip(means, sizes, strict=True)]

    def reach(level: float) -> float:
        quantiles = [float(stdtrit(size - 1, level / 2)) for size in sizes]
        return math.sqrt(sum(t**2 * variance for t, variance in zip(quantiles, variances, strict=True)))

    return reach


def by_unit(scores: Scores, units: IntArray) -> Scores:
    """Scores unit by unit, with the same mean: pieces of one text are not independent of each other.

    Args:
        scores: Piece by piece (samples,).
        units: Of which unit each is a piece (samples,).
    """
    _, numbers = np.unique(units, return_inverse=True)
    sums = np.bincount(numbers, scores)
    return sums * len(sums) / len(scores)


def holm(probabilities: Sequence[float]) -> list[float]:
    """The probabilities corrected for their number (Holm 1979), in the same order."""
    order, count = np.argsort(probabilities, kind="stable"), len(probabilities)
    scaled = [probabilities[index] * (count - step) for step, index in enumerate(order)]
    corrected = np.empty(count)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0) if count else []
    return corrected.tolist()


def _where_zero(falling: Any) -> float:
    """The level at which a falling function of it is 0; 1 or next to nothing where it is so at neither end."""
    if falling(1.0) >= 0:
        return 1.0
    if falling(_SMALLEST) <= 0:
        return _SMALLEST
    root: Any = brentq(lambda logarithm: falling(np.exp(logarithm)), np.log(_SMALLEST), 0.0)
    return float(np.exp(root))
