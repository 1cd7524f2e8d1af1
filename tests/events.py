"""Events of training for tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bequest.core.plan import TrainState


@dataclass(frozen=True)
class EveryStep:
    """Calls a function after every step.

    Attributes:
        act: The function.
    """

    act: Callable[[TrainState], None]

    def is_due(self, step: int, num_steps: int) -> bool:
        return True

    def __call__(self, state: TrainState) -> None:
        self.act(state)
