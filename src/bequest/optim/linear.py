"""The linear head of any kind of task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bequest.core.plan import Features, Solver
from bequest.core.task import Kind
from bequest.optim.logistic import LogisticSolver
from bequest.optim.multilabel import MultiLabelSolver
from bequest.optim.ridge import RidgeSolver

_SOLVERS: dict[Kind, Any] = {
    "classification": LogisticSolver,
    "multi-label": MultiLabelSolver,
    "regression": RidgeSolver,
}


@dataclass(frozen=True)
class LinearSolver:
    """A linear head with an L2 penalty, by the regression that suits the labels it is given.

    Attributes:
        folds: Folds of the cross-validation that chooses the penalty.
        penalty: A fixed penalty instead.
    """

    folds: int = 5
    penalty: float | None = None

    def __call__(self, *parts: Features, seed: int) -> tuple[Any, dict[str, Any]]:
        """Multinomial logistic, logistic for each label, or ridge regression."""
        solver: Solver = _SOLVERS[parts[0].kind](folds=self.folds, penalty=self.penalty)
        return solver(*parts, seed=seed)
