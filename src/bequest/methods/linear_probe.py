r"""Linear probe: a regression on the frozen embedding, for classes multinomial logistic regression.

    min over W, b of  (1/n) Σ_i −log softmax(W φ(x_i) + b)[y_i] + (λ/2) ‖W‖²

φ is the source's body and never changes. The problem is convex and is solved to convergence (L-BFGS in float64); λ
is chosen by stratified cross-validation within the labels that may be seen. Paper: Alain & Bengio 2017,
arXiv:1610.01644, who probe every layer: `bequest probe` does that, and `layer` names one whose mean over its places is
read in place of the embedding. The features are centred and scaled by one number, so that λ means the same for every
source. Multi-label tasks get a logistic regression a label, regression tasks ridge regression in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bequest.core.errors import MethodError, SourceError
from bequest.core.plan import Plan, Solve
from bequest.core.registry import method

if TYPE_CHECKING:
    from bequest.core.task import Task
    from bequest.sources.source import Source


@method("linear_probe", family="representation", paper="Alain & Bengio 2017, arXiv:1610.01644")
@dataclass(frozen=True)
class LinearProbe:
    """A linear head solved on the frozen source's features; its penalty chosen by cross-validation.

    Attributes:
        penalty: λ on half the squared norm of the weights, features scaled to unit size; 0 or less lets stratified
            cross-validation choose.
        folds: Folds of that cross-validation, 2 or more.
        layer: Name of the layer that is read, whole or its end (`bequest ls layers SOURCE --taps`); empty for the
            embedding.
    """

    penalty: float = 0.0
    folds: int = 5
    layer: str = ""

    def plan(self, source: Source, task: Task) -> Plan:
        """One Solve stage."""
        from bequest.nn.taps import Tapped
        from bequest.optim.linear import LinearSolver

        if self.folds < 2:
            raise MethodError(f"folds is {self.folds}, expected 2 or more.")
        solver = LinearSolver(folds=self.folds, penalty=self.penalty if self.penalty > 0 else None)
        network = source.network()
        if self.layer:
            try:
                network.body = Tapped(network.body, source.taps([self.layer], task=task))
            except SourceError as error:
                raise MethodError(f"layer: {error}") from None
        return Plan(network, (Solve(solver, source_features=True),))
