"""Learning-rate schedules: plain functions of the step, factors on a peak rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from bequest.core.plan import Schedule


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


@dataclass(frozen=True)
class WarmupConstant:
    """Linear warm-up, then 1 to the end.

    Attributes:
        warmup: Fraction of the steps over which the factor rises.
    """

    warmup: float

    def __call__(self, step: int, num_steps: int) -> float:
        """Factor at `step` (from 0) of `num_steps`; above 0 at every step."""
        rising = _rising(self.warmup, num_steps)
        return (step + 1) / (rising + 1) if step < rising else 1.0


@dataclass(frozen=True)
class OneCycle:
    """Half a cosine up to 1, half a cosine down to near 0 (Smith 2018, arXiv:1803.09820; cosines as in fastai).

    From 1 / `div` at the first step to 1 after `pct_start` of the steps, then towards 1 / `div_final` at the end. The
    momentum is not cycled.

    Attributes:
        pct_start: Fraction of the steps over which the factor rises.
        div: The peak over the first rate.
        div_final: The peak over the rate after the last step.
    """

    pct_start: float
    div: float = 25.0
    div_final: float = 1e5

    def __call__(self, step: int, num_steps: int) -> float:
        """Factor at `step` (from 0) of `num_steps`; above 0 at every step."""
        position = step / num_steps
        if position < self.pct_start:
            return _half_cosine(1 / self.div, 1.0, position / self.pct_start)
        return _half_cosine(1.0, 1 / self.div_final, (position - self.pct_start) / (1 - self.pct_start))


@dataclass(frozen=True)
class SlantedTriangular:
    """A short linear rise, then a long linear fall (Howard & Ruder 2018, arXiv:1801.06146).

        η_t = η_max · (1 + p · (ratio − 1)) / ratio
        p = t / cut  for t < cut,  else  1 − (t − cut) / (T − cut),    cut = max(1, ⌊T · cut_frac⌋)

    The paper's fall runs over cut · (1 / cut_frac − 1) steps, which is T − cut where T · cut_frac is whole. Elsewhere
    its floor makes short runs divide by zero (T < 10) or ends them on rates below 0 (T = 19: −0.83 η_max).

    Attributes:
        cut_frac: Fraction of the steps over which the factor rises.
        ratio: The peak over the lowest rate.
    """

    cut_frac: float = 0.1
    ratio: float = 32.0

    def __call__(self, step: int, num_steps: int) -> float:
        """Factor at `step` (from 0) of `num_steps`; above 0 at every step."""
        # The small number mends products such as 0.29 * 100, which is just below 29.
        cut = max(1, math.floor(num_steps * self.cut_frac + 1e-9))
        p = step / cut if step < cut else 1 - (step - cut) / max(1, num_steps - cut)
        return (1 + p * (self.ratio - 1)) / self.ratio


SCHEDULES: dict[str, Callable[[float], Schedule]] = {
    "linear": WarmupLinear,
    "cosine": WarmupCosine,
    "one_cycle": OneCycle,
    "slanted": SlantedTriangular,
    "constant": WarmupConstant,
}
"""Every schedule by the name it has in a recipe; each is made from the fraction of the steps over which it rises."""


def _half_cosine(start: float, end: float, position: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * position)) / 2


def _rising(warmup: float, num_steps: int) -> int:
    return min(num_steps - 1, math.ceil(warmup * num_steps))
