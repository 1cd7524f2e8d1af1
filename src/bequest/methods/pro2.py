r"""Pro²: orthogonal, predictive directions of source data, then a linear head on the target's projection.

    block k:   W_k = argmin (1/n) Σ_i −log softmax(W φ(x_i) + b)[y_i] + (λ/2) ‖W‖²  over W with W Π_{k−1} = 0
    Π_k  =  [Π_{k−1}, an orthonormal basis of W_k's rows],   head:  logistic regression on Πᵀ φ(x)

Paper: Chen et al. 2024, arXiv:2302.05441. The directions come from the source's own labelled data (--source-data);
where none are given the target's own training labels serve for both, and the row says so: then nothing is learned about
what shifts from source to target. Deviations: each block is solved to convergence (L-BFGS in
float64) instead of by AdamW, and its λ takes the place of the paper's learning rate and weight decay; the basis of a
block is ordered by singular values, so that cutting it short keeps what counts most. λ, the number of directions and
the head's penalty are chosen by stratified cross-validation within the target's labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bequest.core.errors import MethodError
from bequest.core.plan import Plan, Solve
from bequest.core.registry import method

if TYPE_CHECKING:
    from bequest.core.task import Task
    from bequest.sources.source import Source


@method("pro2", family="representation", paper="Chen et al. 2024, arXiv:2302.05441")
@dataclass(frozen=True)
class Pro2:
    """Directions that tell the source data's classes, one after another and orthogonal; a linear head on those.

    Attributes:
        directions: How many, 1 or more; unset lets cross-validation choose.
        direction_penalty: λ of the regressions that give them, above 0; unset lets cross-validation choose.
        penalty: λ on half the squared norm of the head's weights, 0 or more; unset lets cross-validation choose.
        folds: Folds of that cross-validation, 2 or more.
    """

    directions: int | None = None
    direction_penalty: float | None = None
    penalty: float | None = None
    folds: int = 5

    def plan(self, source: Source, task: Task) -> Plan:
        """One Solve stage over the embeddings of the source's and the target's data."""
        from bequest.optim.projection import DIRECTION_PENALTIES, DIRECTIONS, PENALTIES, ProjectionSolver

        self._check(task)
        solver = ProjectionSolver(
            DIRECTIONS if self.directions is None else (self.directions,),
            DIRECTION_PENALTIES if self.direction_penalty is None else (self.direction_penalty,),
            PENALTIES if self.penalty is None else (self.penalty,),
            self.folds,
        )
        return Plan(source.network(), (Solve(solver, fit_on=("source", "train"), source_features=True),))

    def _check(self, task: Task) -> None:
        above = self.direction_penalty is None or self.direction_penalty > 0
        faults = [
            f"{name} is {value}, expected {expected}"
            for name, value, valid, expected in (
                ("directions", self.directions, self.directions is None or self.directions >= 1, "1 or more"),
                ("direction_penalty", self.direction_penalty, above, "above 0"),
                ("penalty", self.penalty, self.penalty is None or self.penalty >= 0, "0 or more"),
                ("folds", self.folds, self.folds >= 2, "2 or more"),
            )
            if not valid
        ]
        if task.kind != "classification":
            faults.append(f"pro2 learns directions from classes, but the task is {task.kind}; expected classification")
        if faults:
            raise MethodError("; ".join(faults) + ".")
