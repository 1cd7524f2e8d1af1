"""Whether scores agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from bequest.core.errors import DataError
from bequest.scores.design import Array


def agreement(scores: Mapping[str, Sequence[float | None]]) -> Array:
    """Kendall's τ-b between every two scores over the candidates: (scores, scores), in the mapping's order.

    1 means the same order, −1 the opposite. A candidate counts where both scores are defined. NaN stands where fewer
    than two count, or where a score is the same for all.

    Args:
        scores: By name, one value a candidate (a source, or a layer), in the same order of candidates.

    Raises:
        DataError: Scores of different numbers of candidates.
    """
    lengths = {name: len(values) for name, values in scores.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"Scores must be of the same candidates; their numbers are {lengths}.")
    values = [np.array([np.nan if v is None else v for v in found], dtype=np.float64) for found in scores.values()]
    return np.array([[_tau(a, b) for b in values] for a in values]).reshape(len(values), len(values))


def _tau(a: Array, b: Array) -> float:
    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < 2:
        return float("nan")
    found: Any = kendalltau(a[both], b[both])  # scipy's types do not know its fields
    return float(found.statistic)
