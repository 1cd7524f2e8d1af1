"""Learning-rate range test: the rate rises geometrically from step to step, and the loss tells where it serves.

Paper: Smith 2017, arXiv:1506.01186, who raises it linearly; the geometric rise, the smoothing, the end at four times
the lowest loss and the rule of the longest valley are fastai's. The stage is trained by the only training loop, under a
schedule and a loss of its own; the network is thrown away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from bequest.core.errors import MethodError, TrainingError
from bequest.core.plan import Method, Plan, Train
from bequest.core.task import Draw
from bequest.engine.context import Context
from bequest.engine.run import run

MIN_STEPS = 20
_MOMENTUM = 0.98
_DIVERGED = 4.0
_LAST = 5


@dataclass(frozen=True)
class RangeTest:
    """What a range test saw, a value a step.

    Attributes:
        rates: Peak rate of the body; the head's is in proportion.
        losses: Of each step's batch, before the step.
        smoothed: Their exponential mean (0.98 of it is kept at each step), corrected for its start.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]

    @property
    def suggestion(self) -> float:
        """The rate in the longest valley of the smoothed loss, its first tenth and last five steps left out.

        Raises:
            TrainingError: The loss falls nowhere.
        """
        first = len(self.rates) // 10
        position = valley(self.smoothed[first : len(self.smoothed) - _LAST])
        if position is None:
            raise TrainingError(
                f"The loss fell at no rate from {self.rates[0]:.2g} to {self.rates[-1]:.2g}; expected a stretch over "
                "which it falls. Start lower, end higher, or take more steps."
            )
        return self.rates[first + position]


def valley(losses: Sequence[float]) -> int | None:
    """Position in the middle of the longest valley; None where nothing falls.

    The valley is the longest subsequence in which every loss is below the one before it. It is taken to lie right
    before its end, as many steps long as it has members; of its three thirds, the middle of the second.
    """
    lengths: list[int] = []
    for i, loss in enumerate(losses):
        lengths.append(1 + max((lengths[j] for j in range(i) if losses[j] > loss), default=0))
    longest = max(lengths, default=0)
    if longest < 2:
        return None
    return lengths.index(longest) - longest + int(longest / 3) + int(longest / 6)


def range_test(
    context: Context,
    method: Method,
    draw: Draw,
    *,
    seed: int,
    learning_rate: float,
    start: float,
    end: float,
    num_steps: int,
) -> RangeTest:
    """Train a method's last Train stage at rising rates; stages before it are carried out as they are.

    The rates of all groups keep their proportions. Only the train part of `draw` is learned from.

    Args:
        context: The run.
        method: The method.
        draw: Which samples are seen.
        seed: Chooses initialisation and order.
        learning_rate: The method's peak rate, to which the rates of its groups are in proportion.
        start: First rate.
        end: Rate of the last step.
        num_steps: Steps; fewer where the smoothed loss comes to four times its lowest before.

    Raises:
        MethodError: The method has no Train stage, or rates or steps are out of range.
    """
    if not 0 < start < end:
        raise MethodError(f"The rates go from {start} to {end}; expected a first one above 0 and a larger last one.")
    if num_steps < MIN_STEPS:
        raise MethodError(f"The steps are {num_steps}, expected {MIN_STEPS} or more.")
    recorder = _Recorder(num_steps)
    rising = _Rising(method, recorder, context, len(draw.train), end / learning_rate, start / end)
    # The run ends inside the last stage, in the recorder.
    try:
        run(context, rising, replace(draw, test=draw.test[:0]), seed=seed)
    except _Ended:
        pass
    except TrainingError:
        # Rates that end in no number at all are the test's to find; before its first step they are the method's.
        if not recorder.losses:
            raise
    factor = _Geometric(start / end, num_steps)
    rates = tuple(end * factor(step, num_steps) for step in range(len(recorder.losses)))
    return RangeTest(rates, tuple(recorder.losses), tuple(recorder.smoothed))


class _Ended(Exception):
    """The range test has seen enough."""


@dataclass
class _Recorder:
    """A loss that notes its values while training, and ends the run."""

    num_steps: int
    loss: Callable[[Tensor, Tensor], Tensor] | None = None
    losses: list[float] = field(default_factory=list[float])
    smoothed: list[float] = field(default_factory=list[float])
    mean: float = 0.0

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        assert self.loss is not None
        loss = self.loss(outputs, labels)
        if loss.requires_grad:
            self.note(float(loss.detach()))
        return loss

    def note(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise _Ended
        self.losses.append(loss)
        self.mean = _MOMENTUM * self.mean + (1 - _MOMENTUM) * loss
        self.smoothed.append(self.mean / (1 - _MOMENTUM ** len(self.losses)))
        if len(self.losses) == self.num_steps or self.smoothed[-1] > _DIVERGED * min(self.smoothed):
            raise _Ended


@dataclass(frozen=True)
class _Geometric:
    """A factor that rises to 1 at the last of a number of steps, whatever number the stage has."""

    first: float
    steps: int

    def __call__(self, step: int, num_steps: int) -> float:
        return self.first ** max(0.0, 1 - step / (self.steps - 1))


@dataclass(frozen=True)
class _Rising:
    """A method whose last Train stage runs at rising rates."""

    method: Method
    recorder: _Recorder = field(repr=False)
    context: Context = field(repr=False)
    num_train: int
    scale: float
    first: float

    def plan(self, source: Any, task: Any) -> Plan:
        plan = self.method.plan(source, task)
        trains = [i for i, stage in enumerate(plan.stages) if isinstance(stage, Train)]
        if not trains:
            raise MethodError("A range test needs a method that trains by gradient descent; this one only solves.")
        stage = plan.stages[trains[-1]]
        assert isinstance(stage, Train)
        steps = self.recorder.num_steps
        self.recorder.loss = stage.loss or self.context.objective.loss
        rising = replace(
            stage,
            groups=tuple(replace(g, learning_rate=g.learning_rate * self.scale) for g in stage.groups),
            epochs=math.ceil(steps / math.ceil(self.num_train / stage.batch_size)),
            schedule=_Geometric(self.first, steps),
            loss=self.recorder,
            patience=0,
            events=(),  # they go with the schedule that is left out
        )
        return replace(plan, stages=(*plan.stages[: trains[-1]], rising))
