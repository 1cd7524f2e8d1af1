r"""Deep feature reweighting: the last layer fitted again on group-balanced labels.

    min over W, b of  C Σ_i −log softmax(W z_i + b)[y_i] + ‖W‖₁,      z = (φ(x) − mean) / standard deviation

W and b are means over refits on random subsets in which every class has as many samples in every group as in every
other. C is chosen by the worst group's accuracy: fitted on one half of the labels, balanced, scored on the other half.
Paper: Kirichenko et al. 2023, arXiv:2204.02937: on the validation part (DFR-Val, `fit_on validation`) or the training
part (DFR-Tr, `fit_on train`). Every row of the comparison is then ranked on held-out labels that this method has not
seen. Deviations: the body is the source's, not one fine-tuned on the biased labels first; one scaler, fitted on all
labels of the part, serves throughout (the published code mixes two); the intercept has no penalty (the published code's
solver has one); more than two classes are one softmax. Groups that make a class in one group all there is leave nothing
to balance: that is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bequest.core.errors import MethodError
from bequest.core.plan import Plan, Solve
from bequest.core.registry import method

if TYPE_CHECKING:
    from bequest.core.task import Task
    from bequest.sources.source import Source


@method("dfr", family="representation", paper="Kirichenko et al. 2023, arXiv:2204.02937")
@dataclass(frozen=True)
class DFR:
    """A linear head averaged over L1 regressions on group-balanced subsets, for the worst group's sake.

    Attributes:
        fit_on: The labels it is fitted on: 'validation' (half of those held out; the others rank), or 'train'.
        cost: C, the weight of the cross-entropy summed over samples against ‖W‖₁, above 0; unset lets the worst group's
            accuracy choose.
        refits: Balanced subsets whose heads are averaged, 1 or more.
    """

    fit_on: Literal["validation", "train"] = "validation"
    cost: float | None = None
    refits: int = 20

    def plan(self, source: Source, task: Task) -> Plan:
        """One Solve stage."""
        from bequest.optim.dfr import COSTS, DFRSolver, balanced_by

        faults = []
        if self.cost is not None and self.cost <= 0:
            faults.append(f"cost is {self.cost}, expected above 0")
        if self.refits < 1:
            faults.append(f"refits is {self.refits}, expected 1 or more")
        if task.kind != "classification":
            faults.append(f"dfr balances classes, but the task is {task.kind}; expected classification")
        if faults:
            raise MethodError("; ".join(faults) + ".")
        known = task.labels >= 0  # those of the test part are not
        groups = None if task.groups is None else task.groups[known]
        balanced_by(task.labels[known], groups, task.classes, task.group_names)
        names = task.grouping.names if task.grouping else ()
        solver = DFRSolver(COSTS if self.cost is None else (self.cost,), self.refits, task.classes, names)
        return Plan(source.network(), (Solve(solver, fit_on=(self.fit_on,), source_features=True),))
