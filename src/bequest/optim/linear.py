"""The linear head of any kind of task, its L2 penalty chosen by cross-validation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bequest.core.plan import Features
from bequest.core.task import Kind
from bequest.optim import logistic, multilabel, ridge
from bequest.optim.design import Array, outputs, splits, standardise

PENALTIES = tuple(float(10.0**e) for e in np.arange(0, -5.01, -0.5))
"""λ, from strong to weak: each solution is the start of the next."""

_SMALL = 4_000_000
"""Numbers in the features below which one thread solves faster than several."""


@dataclass(frozen=True)
class Regression:
    """One way to fit a linear head.

    Attributes:
        name: For records.
        path: (design, labels, outputs, penalties, tolerance, tolerance of the last) → weight and bias for each penalty.
        tally: (outputs, labels) of held-out samples → sums from which scores follow, for folds to be added up.
        scores: Those sums → `loss`, and the metric by which a penalty is chosen.
        metric: Its name; the highest is taken, among equals the one with the lowest loss.
    """

    name: str
    path: Callable[..., list[tuple[Array, Array]]]
    tally: Callable[[Array, Array], Array]
    scores: Callable[[Array], dict[str, float]]
    metric: str


REGRESSIONS: dict[Kind, Regression] = {
    "classification": Regression("logistic", logistic.path, logistic.tally, logistic.scores, "accuracy"),
    "multi-label": Regression("logistic for each label", multilabel.path, multilabel.tally, multilabel.scores, "f1"),
    "regression": Regression("ridge", ridge.path, ridge.tally, ridge.scores, "r2"),
}
"""The regression that suits each kind of labels."""


@dataclass(frozen=True)
class LinearSolver:
    """A linear head with an L2 penalty, by the regression that suits the labels it is given.

    Attributes:
        folds: Folds of the stratified cross-validation that chooses the penalty.
        penalty: A fixed λ instead.
        penalties: λ to choose from, strong to weak.
    """

    folds: int = 5
    penalty: float | None = None
    penalties: tuple[float, ...] = field(default_factory=lambda: PENALTIES)

    def __call__(
        self, *parts: Features, seed: int, earlier: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """A Linear fitted on the first part, and the penalty with the path that chose it."""
        [part] = parts
        regression = REGRESSIONS[part.kind]
        # Waking threads for many tiny products costs more than the products: 200 × 384 features, 2 cores, 1.5 → 0.13 s.
        with threadpool_limits(1 if part.values.size < _SMALL else None):
            penalty, steps = self.penalty, earlier["path"] if earlier else []
            if penalty is None:
                steps = steps or self._path(regression, part, np.random.default_rng([seed, 3]))
                penalty = max(steps, key=lambda step: (step[regression.metric], -step["loss"]))["penalty"]
            chosen = [*(p for p in self.penalties if p > penalty), penalty]
            design = standardise(part.values)
            [*_, solution] = regression.path(design, part.labels, part.num_classes, chosen, 1e-3, 1e-7)
        return _linear(*solution), {"solver": regression.name, "penalty": penalty, "path": steps}

    def _path(self, regression: Regression, part: Features, rng: np.random.Generator) -> list[dict[str, float]]:
        """Held-out loss and metric of every penalty."""
        tallies: list[Any] = [0] * len(self.penalties)
        for train, held in splits(part, self.folds, rng):
            design = standardise(part.values, train)
            solutions = regression.path(design, part.labels[train], part.num_classes, self.penalties, 1e-4, 1e-4)
            for i, found in enumerate(outputs(part.values, held, solutions)):
                tallies[i] += regression.tally(found, part.labels[held])
        return [{"penalty": p, **regression.scores(t)} for p, t in zip(self.penalties, tallies, strict=True)]


def _linear(weight: Array, bias: Array) -> Any:
    """A Linear layer with these weights (outputs, width) and this bias (outputs,)."""
    import torch

    head = torch.nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(bias))
    return head
