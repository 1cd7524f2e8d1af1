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

Array = np.ndarray[Any, Any]

PENALTIES = tuple(float(10.0**e) for e in np.arange(0, -5.01, -0.5))
"""λ, from strong to weak: each solution is the start of the next."""


@dataclass(frozen=True)
class Standardised:
    """Features in units in which penalties are comparable.

    Attributes:
        values: float64 (samples, rank): centred, scaled, rotated into the samples' span.
        mean: (width,).
        scale: One number.
        rotation: (width, rank) or None where there was none.
    """

    values: Array
    mean: Array
    scale: float
    rotation: Array | None

    def original(self, weight: Array, bias: Array) -> tuple[Array, Array]:
        """Weight (classes, width) and bias (classes,) for the features as they were."""
        full = (weight if self.rotation is None else weight @ self.rotation.T) / self.scale
        return full, bias - full @ self.mean


def standardise(values: Array) -> Standardised:
    """Centre, scale and rotate features (samples, width)."""
    x = values.astype(np.float64)
    mean = x.mean(0)
    x -= mean
    scale = float(np.sqrt(np.mean(np.sum(x * x, 1)))) or 1.0
    x /= scale
    if x.shape[0] >= x.shape[1]:
        return Standardised(x, mean, scale, None)
    rotation, triangle = np.linalg.qr(x.T)
    return Standardised(triangle.T.copy(), mean, scale, rotation)


def fit_logistic(
    x: Array,
    labels: Array,
    num_classes: int,
    penalty: float,
    start: Array | None = None,
    tolerance: float = 1e-7,
) -> Array:
    """The optimum for one penalty.

    Args:
        x: float64 (samples, width).
        labels: int64 (samples,).
        num_classes: Classes without samples get the intercept that the others leave them.
        penalty: λ.
        start: (classes, width + 1), e.g. the solution for a stronger penalty; None for zeros.
        tolerance: On the largest component of the gradient.

    Returns:
        Weights and, in the last column, intercepts: (classes, width + 1).
    """
    rows = np.arange(len(labels))
    shape = (num_classes, x.shape[1] + 1)

    def objective(flat: Array) -> tuple[float, Array]:
        theta = flat.reshape(shape)
        logits = x @ theta[:, :-1].T + theta[:, -1]
        logits -= logits.max(1, keepdims=True)
        chosen = logits[rows, labels]
        np.exp(logits, out=logits)
        total = logits.sum(1, keepdims=True)
        loss = float(np.mean(np.log(total[:, 0]) - chosen)) + 0.5 * penalty * float(np.sum(theta[:, :-1] ** 2))
        logits /= total
        logits[rows, labels] -= 1
        logits /= len(labels)
        gradient = np.empty(shape)
        gradient[:, :-1] = logits.T @ x + penalty * theta[:, :-1]
        gradient[:, -1] = logits.sum(0)
        return loss, gradient.ravel()

    begin = np.zeros(shape) if start is None else start
    options = {"maxiter": 2000, "maxfun": 4000, "gtol": tolerance, "ftol": 0.0, "maxcor": 20}
    found = minimize(objective, begin.ravel(), jac=True, method="L-BFGS-B", options=options)
    return found.x.reshape(shape)


def stratified_folds(labels: Array, num_folds: int, rng: np.random.Generator) -> Array:
    """The fold of each sample (samples,): classes are spread evenly, and so are the folds' sizes."""
    folds, dealt = np.empty(len(labels), dtype=np.int64), 0
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        folds[members] = (np.arange(len(members)) + dealt) % num_folds
        dealt += len(members)
    return folds


def folds_of(part: Features, num_folds: int, rng: np.random.Generator) -> Array:
    """The fold of each sample, stratified by the features' strata where they have them; at most one fold a sample."""
    strata = np.zeros(len(part.labels), np.int64) if part.strata is None else part.strata
    return stratified_folds(strata, min(num_folds, len(part.labels)), rng)


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
            theta = fit_logistic(scaled.values, part.labels, part.num_classes, stronger, theta, tolerance=1e-3)
        theta = fit_logistic(scaled.values, part.labels, part.num_classes, penalty, theta)
        head = linear(*scaled.original(theta[:, :-1], theta[:, -1]))
        return head, {"solver": "logistic", "penalty": penalty, "path": path}

    def _path(self, part: Features, rng: np.random.Generator) -> list[dict[str, float]]:
        """Held-out accuracy and mean cross-entropy of every penalty."""
        folds = stratified_folds(part.labels, min(self.folds, len(part.labels)), rng)
        loss, hits = np.zeros(len(self.penalties)), np.zeros(len(self.penalties))
        for fold in range(folds.max() + 1):
            held = folds == fold
            scaled = standardise(part.values[~held])
            theta: Array | None = None
            for i, penalty in enumerate(self.penalties):
                theta = fit_logistic(
                    scaled.values, part.labels[~held], part.num_classes, penalty, theta, tolerance=1e-4
                )
                weight, bias = scaled.original(theta[:, :-1], theta[:, -1])
                logits = part.values[held] @ weight.T + bias
                loss[i] += _cross_entropy(logits, part.labels[held])
                hits[i] += np.sum(logits.argmax(1) == part.labels[held])
        return [
            {"penalty": p, "loss": float(a) / len(folds), "accuracy": float(h) / len(folds)}
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
