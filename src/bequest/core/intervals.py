"""How far a mean over seeds can be trusted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

_TOLERANCE = 1e-9


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Ends of the mean's t-interval at 95 %; None with one value, or where all are equal.

    Args:
        values: One a seed; for a comparison of two methods their differences, seed by seed.
    """
    from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    if spread <= _TOLERANCE:
        return None
    mean, sem = statistics.mean(values), spread / math.sqrt(len(values))
    reach = float(stdtrit(len(values) - 1, 0.975)) * sem
    return mean - reach, mean + reach
