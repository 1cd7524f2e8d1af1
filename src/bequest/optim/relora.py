"""ReLoRA's restarts, and the rate that goes with them: both made from the same cycles.

Lialin et al. 2024, arXiv:2307.05695, section 3. The run is divided into cycles. At the end of each but the last, every
low-rank update is added to its frozen weight and starts again from nothing; the optimizer forgets most of what it knew
of the old factors; and the rate rises anew from near 0, since a forgetful optimizer's first steps at full rate diverge.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bequest.core.plan import Schedule, TrainState


@dataclass(frozen=True)
class Cycles:
    """Where a run's cycles end, and how long the rate rises in each.

    Attributes:
        number: Of cycles of equal length, 1 or more.
        rewarm: Fraction of a cycle over which the rate rises after a restart.
        cycle_steps: Steps of a cycle, in place of `number`; None to divide the run.
        rewarm_steps: Steps over which the rate rises, in place of `rewarm`.
    """

    number: int = 4
    rewarm: float = 0.1
    cycle_steps: int | None = None
    rewarm_steps: int | None = None

    def restarts(self, num_steps: int) -> tuple[int, ...]:
        """The numbers of steps after which a restart comes, ascending; none at the end of the run."""
        if self.cycle_steps is not None:
            return tuple(range(self.cycle_steps, num_steps, self.cycle_steps))
        ends = {round(i * num_steps / self.number) for i in range(1, self.number)}
        return tuple(sorted(ends - {0, num_steps}))

    def rising(self, num_steps: int) -> int:
        """Steps over which the rate rises after a restart, 1 or more."""
        if self.rewarm_steps is not None:
            return self.rewarm_steps
        return max(1, math.ceil(self.rewarm * (self.cycle_steps or num_steps / self.number)))


@dataclass(frozen=True)
class Jagged:
    """A schedule that falls to near 0 at each restart and rises from there, linearly, back onto its way.

    Attributes:
        along: The schedule without restarts.
        cycles: Where the restarts are.
    """

    along: Schedule
    cycles: Cycles

    def __call__(self, step: int, num_steps: int) -> float:
        """Factor at `step` (from 0) of `num_steps`; above 0 at every step where that of `along` is."""
        restarts = self.cycles.restarts(num_steps)
        passed = bisect.bisect_right(restarts, step)
        if not passed:
            return self.along(step, num_steps)
        since = step - restarts[passed - 1]
        return self.along(step, num_steps) * min(1.0, (since + 1) / (self.cycles.rising(num_steps) + 1))


@dataclass(frozen=True)
class Restart:
    """The event that ends a cycle: merge, start again, prune.

    Attributes:
        layers: Names of the low-rank layers in the body.
        cycles: After which steps it acts.
        prune: Fraction of the optimizer's state that is forgotten; see `prune_state`.
    """

    layers: tuple[str, ...]
    cycles: Cycles
    prune: float = 0.99

    def is_due(self, step: int, num_steps: int) -> bool:
        """Whether a cycle but the last ends after so many steps of so many."""
        return step in self.cycles.restarts(num_steps)

    def __call__(self, state: TrainState) -> None:
        """Restart every layer."""
        for name in self.layers:
            layer: Any = state.network.body.get_submodule(name)
            restart(layer)
            for factor in (layer.A, layer.B):
                prune_state(state.optimizer, factor, self.prune)


def restart(layer: Any) -> None:
    """Write a low-rank layer's update into its frozen weight, and start A and B again; the function stays the same."""
    # Into the parameter that is there: optimizer, checkpoints and the cut know it by identity or by name.
    with torch.no_grad():
        layer.base.weight.copy_(layer.weight)
        nn.init.kaiming_uniform_(layer.A, a=math.sqrt(5))
        nn.init.zeros_(layer.B)


def prune_state(optimizer: Optimizer, parameter: Tensor, fraction: float) -> None:
    """Forget most of what an optimizer knows of a parameter, and nothing else.

    Of its state in the parameter's shape, such as Adam's moments, the entries stay at which the first moment is
    largest; all others become 0, in every moment alike. What would be left of one moment without the other makes a
    step of any size.

    Args:
        optimizer: After a step.
        parameter: One of its own.
        fraction: How much is forgotten, from 0 to 1; 1 takes the count of steps too, as if none had been taken.
    """
    state = optimizer.state.get(parameter, {})
    if fraction == 1:
        optimizer.state.pop(parameter, None)
        return
    moments = [value for value in state.values() if isinstance(value, Tensor) and value.shape == parameter.shape]
    if not moments:
        return
    sizes = moments[0].abs().flatten()
    smallest = sizes.topk(math.floor(fraction * sizes.numel()), largest=False).indices
    forgotten = torch.zeros_like(sizes, dtype=torch.bool).index_fill(0, smallest, True).view(parameter.shape)
    for moment in moments:
        moment.masked_fill_(forgotten, 0)
