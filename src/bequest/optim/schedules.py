"""Learning-rate schedules: plain functions of the step, factors on a peak rate."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class WarmupLinear:
    """Linear from near 0 to 1 over the warm-up, then linear to 0 at the end (Devlin et al. 2019, arXiv:1810.04805).

    Attributes:
        warmup: Fraction of the steps over which the factor rises.
    """

    warmup: float

    def __call__(self, step: int, num_steps: int) -> float:
        """Factor at `step` (from 0) of `num_steps`; above 0 at every step."""
        rising = _rising(self.warmup, num_steps)
        if step < rising:
            return (step + 1) / (rising + 1)
        return (num_steps - step) / max(1, num_steps - rising)


@dataclass(frozen=True)
class WarmupCosine:
    """Linear warm-up, then half a cosine to 0 (Loshchilov & Hutter 2017, arXiv:1608.03983, without restarts).

    Attributes:
        warmup: Fraction of the steps over which the factor rises.
    """

    warmup: float

    def __call__(self, step: int, num_steps: int) -> float:
        """Factor at `step` (from 0) of `num_steps`; above 0 at every step."""
        rising = _rising(self.warmup, num_steps)
        if step < rising:
            return (step + 1) / (rising + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, num_steps - rising)))


def _rising(warmup: float, num_steps: int) -> int:
    return min(num_steps - 1, math.ceil(warmup * num_steps))
