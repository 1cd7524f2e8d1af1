"""The linear head of any kind of task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from threadpoolctl import threadpool_limits

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

_SMALL = 4_000_000
"""Numbers in the features below which one thread solves faster than several."""


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
        # Waking threads for many tiny products costs more than the products: 200 × 384 features, 2 cores, 1.5 → 0.13 s.
        small = sum(part.values.size for part in parts) < _SMALL
        with threadpool_limits(1 if small else None, user_api="blas"):
            return solver(*parts, seed=seed)
