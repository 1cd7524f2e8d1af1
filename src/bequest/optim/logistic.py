r"""Multinomial logistic regression with an L2 penalty, solved to convergence.

    min over W, b of  (1/n) Σ_i −log softmax(W x_i + b)[y_i] + (λ/2) ‖W‖²

in float64 by L-BFGS (Liu & Nocedal 1989). The features are centred and divided by one number, their
root-mean-square norm, so that λ means the same for every source; the solution is then written back in the features'
own units. The intercept has no penalty, so centring does not move the optimum. Where there are more features than
samples the problem is rotated into the samples' span first, which leaves the optimum as it is and the cost small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize

from bequest.core.plan import Features
from bequest.optim.design import Array, Design, outputs, parts, splits, standardise

PENALTIES = tuple(float(10.0**e) for e in np.arange(0, -5.01, -0.5))
"""λ, from strong to weak: each solution is the start of the next."""


def fit_logistic(
    x: Design,
    labels: Array,
    num_classes: int,
    penalty: float,
    start: Array | None = None,
    tolerance: float = 1e-7,
) -> Array:
    """The optimum for one penalty.

    Args:
        x: The features.
        labels: int64 (samples,), of its rows in order.
        num_classes: Classes without samples get the intercept that the others leave them.
        penalty: λ.
        start: (classes, width + 1), e.g. the solution for a stronger penalty; None for zeros.
        tolerance: On the largest component of the gradient.

    Returns:
        Weights and, in the last column, intercepts: (classes, width + 1).
    """
    shape = (num_classes, x.rank + 1)

    def objective(flat: Array) -> tuple[float, Array]:
        theta = flat.reshape(shape)
        loss, gradient = 0.0, np.zeros(shape)
        for block, chosen in parts(x, labels):
            loss += _add_gradient(block, chosen, theta, gradient)
        gradient /= len(labels)
        gradient[:, :-1] += penalty * theta[:, :-1]
        return loss / len(labels) + 0.5 * penalty * float(np.sum(theta[:, :-1] ** 2)), gradient.ravel()

    begin = np.zeros(shape) if start is None else start
    options = {"maxiter": 2000, "maxfun": 4000, "gtol": tolerance, "ftol": 0.0, "maxcor": 20}
    found = minimize(objective, begin.ravel(), jac=True, method="L-BFGS-B", options=options)
    return found.x.reshape(shape)


def _add_gradient(x: Array, labels: Array, theta: Array, gradient: Array) -> float:
    """Summed cross-entropy of a block; its gradient is added to `gradient`."""
    rows = np.arange(len(labels))
    logits = x @ theta[:, :-1].T + theta[:, -1]
    logits -= logits.max(1, keepdims=True)
    chosen = logits[rows, labels]
    np.exp(logits, out=logits)
    total = logits.sum(1, keepdims=True)
    logits /= total
    logits[rows, labels] -= 1
    gradient[:, :-1] += logits.T @ x
    gradient[:, -1] += logits.sum(0)
    return float(np.sum(np.log(total[:, 0]) - chosen))


@dataclass(frozen=True)
class LogisticSolver:
    """A linear head by logistic regression, its penalty chosen by stratified cross-validation.

    The penalty with the highest held-out accuracy is taken, among equals the one with the lowest held-out
    cross-entropy.

    Attributes:
        folds: How many.
        penalties: λ to choose from, strong to weak.
        penalty: A fixed λ instead.
    """

    folds: int = 5
    penalties: tuple[float, ...] = PENALTIES
    penalty: float | None = None

    def __call__(self, *parts: Features, seed: int) -> tuple[Any, dict[str, Any]]:
        """A Linear fitted on the first part, and the penalty with the path that chose it."""
        [part] = parts
        path: list[dict[str, float]] = []
        penalty = self.penalty
        if penalty is None:
            path = self._path(part, np.random.default_rng([seed, 3]))
            penalty = max(path, key=lambda step: (step["accuracy"], -step["loss"]))["penalty"]
        scaled = standardise(part.values)
        theta = None
        for stronger in (p for p in self.penalties if p > penalty):
            theta = fit_logistic(scaled, part.labels, part.num_classes, stronger, theta, tolerance=1e-3)
        theta = fit_logistic(scaled, part.labels, part.num_classes, penalty, theta)
        head = linear(*scaled.original(theta[:, :-1], theta[:, -1]))
        return head, {"solver": "logistic", "penalty": penalty, "path": path}

    def _path(self, part: Features, rng: np.random.Generator) -> list[dict[str, float]]:
        """Held-out accuracy and mean cross-entropy of every penalty."""
        loss, hits, num_held = np.zeros(len(self.penalties)), np.zeros(len(self.penalties)), 0
        for train, held in splits(part, self.folds, rng):
            scaled, labels = standardise(part.values, train), part.labels[held]
            num_held += len(held)
            theta: Array | None = None
            for i, penalty in enumerate(self.penalties):
                theta = fit_logistic(scaled, part.labels[train], part.num_classes, penalty, theta, tolerance=1e-4)
                logits = outputs(part.values, held, *scaled.original(theta[:, :-1], theta[:, -1]))
                loss[i] += _cross_entropy(logits, labels)
                hits[i] += np.sum(logits.argmax(1) == labels)
        return [
            {"penalty": p, "loss": float(a) / num_held, "accuracy": float(h) / num_held}
            for p, a, h in zip(self.penalties, loss, hits, strict=True)
        ]


def _cross_entropy(logits: Array, labels: Array) -> float:
    logits = logits - logits.max(1, keepdims=True)
    return float(np.sum(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]))


def linear(weight: Array, bias: Array) -> Any:
    """A Linear layer with these weights (outputs, width) and this bias (outputs,)."""
    import torch

    head = torch.nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(bias))
    return head
