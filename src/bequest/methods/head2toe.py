r"""Head2Toe: a linear head on a few selected features of all layers.

    h(x) = [φ_1(x) / ‖φ_1(x)‖, …, φ_L(x) / ‖φ_L(x)‖],  every layer pooled to about T numbers
    selection:  min over W, b of  (1/n) Σ_i −log softmax(Wᵀ h_i + b)[y_i] + λ Σ_f ‖w_f‖₂
    head:       logistic regression on the fraction F of all features with the largest ‖w_f‖²

Paper: Evci et al. 2022, arXiv:2201.03529. Nothing of the source changes; one pass gives the features of all layers.
Deviations: the selection is solved to optimality instead of by 500 steps of Adam, so most weights are exactly 0;
features without weight follow those with weight by how near their gradient is to letting them in. λ is a share of the
λ at which every feature drops out, so that it means the same for every source, and features are centred. The head has
an L2 penalty, which may be 0, the paper's. λ, F and that penalty are chosen together by stratified cross-validation
within the labels that may be seen, the selection inside the folds; T is fixed.
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


@method("head2toe", family="representation", paper="Evci et al. 2022, arXiv:2201.03529")
@dataclass(frozen=True)
class Head2Toe:
    """A linear head on features of all layers, the most telling of which are selected by a group lasso.

    Attributes:
        target: Numbers that each layer is pooled to, about; 0 for the mean over all places.
        fraction: Share of all features that is kept, above 0, at most 1; unset lets cross-validation choose.
        strength: λ of the selection as a share of the λ that leaves no feature, above 0, below 1; unset lets
            cross-validation choose.
        penalty: λ on half the squared norm of the head's weights, 0 or more, 0 for none; unset lets cross-validation
            choose.
        folds: Folds of that cross-validation, 2 or more.
    """

    target: int = 512
    fraction: float | None = None
    strength: float | None = None
    penalty: float | None = None
    folds: int = 5

    def plan(self, source: Source, task: Task) -> Plan:
        """One Solve stage over the features of every tap of the body."""
        from bequest.nn.network import Network
        from bequest.nn.taps import Tapped
        from bequest.optim.head2toe import FRACTIONS, PENALTIES, STRENGTHS, Head2ToeSolver

        self._check(task)
        solver = Head2ToeSolver(
            STRENGTHS if self.strength is None else (self.strength,),
            FRACTIONS if self.fraction is None else (self.fraction,),
            PENALTIES if self.penalty is None else (self.penalty,),
            self.folds,
        )
        network = source.network()
        body = Tapped(network.body, source.taps(target=self.target, task=task))
        return Plan(Network(body, network.head), (Solve(solver, source_features=True),))

    def _check(self, task: Task) -> None:
        faults = [
            f"{name} is {value}, expected {expected}"
            for name, value, valid, expected in (
                ("target", self.target, self.target >= 0, "0 or more"),
                ("fraction", self.fraction, self.fraction is None or 0 < self.fraction <= 1, "above 0, at most 1"),
                ("strength", self.strength, self.strength is None or 0 < self.strength < 1, "above 0, below 1"),
                ("penalty", self.penalty, self.penalty is None or self.penalty >= 0, "0 or more"),
                ("folds", self.folds, self.folds >= 2, "2 or more"),
            )
            if not valid
        ]
        if task.kind != "classification":
            faults.append(f"head2toe selects features by classes, but the task is {task.kind}; expected classification")
        if faults:
            raise MethodError("; ".join(faults) + ".")
