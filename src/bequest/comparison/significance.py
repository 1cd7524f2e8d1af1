"""Each row against the best on the test part: paired over seeds and test samples, corrected for many comparisons.

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

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtrit

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
        own, best = scores.get(row.method, {}), scores.get(rows[0].method, {})
        seeds = [seed for seed in own if seed in best]
        if len(seeds) > 1 and len(best[seeds[0]]) > 1:
            compared[row.method] = versus(np.stack([own[seed] - best[seed] for seed in seeds]))
    corrected = dict(zip(compared, holm([found.p for found in compared.values()]), strict=True))
    judged = {
        name: replace(found, p=corrected[name], indistinguishable=corrected[name] > LEVEL)
        for name, found in compared.items()
    }
    return [replace(row, versus_best=judged.get(row.method)) for row in rows]


def versus(differences: Scores) -> Versus:
    """What differences of two methods tell; the probability is not corrected.

    Args:
        differences: float64 (seeds, samples), two or more of both.
    """
    seeds, samples = differences.shape
    mean = float(differences.mean())
    of_seeds, of_samples = (float(differences.mean(axis).var(ddof=1)) / differences.shape[1 - axis] for axis in (1, 0))

    def reach(level: float) -> float:
        few, many = (float(stdtrit(size - 1, level / 2)) for size in (seeds, samples))
        return float(np.sqrt(few**2 * of_seeds + many**2 * of_samples))

    p = _where_zero(lambda level: reach(level) - abs(mean))
    return Versus(mean, mean - reach(LEVEL), mean + reach(LEVEL), p, p > LEVEL, seeds, samples)


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
