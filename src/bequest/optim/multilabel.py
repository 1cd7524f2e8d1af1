r"""One logistic regression with an L2 penalty for each label, solved to convergence.

    min over w, b of  (1/n) Σ_i log(1 + exp(−(2 y_i − 1)(w·x_i + b))) + (λ/2) ‖w‖²      for each label

The labels share features and λ and nothing else; their sum is minimised at once by L-BFGS, on features that are centred
and scaled by one number as in `bequest.optim.logistic`. A label that all samples carry, or none, has no optimum: its
weights are 0, and its intercept is that of half a sample of either kind more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from bequest.core.plan import Features
from bequest.optim.logistic import PENALTIES, Array, folds_of, linear, standardise


def fit_labels(x: Array, labels: Array, penalty: float, start: Array | None = None, tolerance: float = 1e-7) -> Array:
    """The optimum for one penalty.

    Args:
        x: float64 (samples, width).
        labels: 0 or 1 (samples, labels).
        penalty: λ.
        start: (labels, width + 1), e.g. the solution for a stronger penalty; None for zeros.
        tolerance: On the largest component of the gradient.

    Returns:
        Weights and, in the last column, intercepts: (labels, width + 1).
    """
    y = labels.astype(np.float64)
    carried = y.sum(0)
    varies = (carried > 0) & (carried < len(y))
    theta = np.zeros((y.shape[1], x.shape[1] + 1))
    theta[:, -1] = np.log((carried + 0.5) / (len(y) - carried + 0.5))
    if varies.any():
        begin = theta[varies] if start is None else start[varies]
        theta[varies] = _minimise(x, y[:, varies], penalty, begin, tolerance)
    return theta


def _minimise(x: Array, y: Array, penalty: float, begin: Array, tolerance: float) -> Array:
    def objective(flat: Array) -> tuple[float, Array]:
        theta = flat.reshape(begin.shape)
        logits = x @ theta[:, :-1].T + theta[:, -1]
        loss = float(_log_loss(logits, y)) / len(y) + 0.5 * penalty * float(np.sum(theta[:, :-1] ** 2))
        residual = (expit(logits) - y) / len(y)
        gradient = np.empty(begin.shape)
        gradient[:, :-1] = residual.T @ x + penalty * theta[:, :-1]
        gradient[:, -1] = residual.sum(0)
        return loss, gradient.ravel()

    options = {"maxiter": 2000, "maxfun": 4000, "gtol": tolerance, "ftol": 0.0, "maxcor": 20}
    return minimize(objective, begin.ravel(), jac=True, method="L-BFGS-B", options=options).x.reshape(begin.shape)


@dataclass(frozen=True)
class MultiLabelSolver:
    """A linear head by a logistic regression a label, one penalty for all chosen by stratified cross-validation.

    The penalty with the highest held-out F1 (mean over the labels) is taken, among equals the one with the lowest
    held-out log-loss.

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
            penalty = max(path, key=lambda step: (step["f1"], -step["loss"]))["penalty"]
        scaled = standardise(part.values)
        theta = None
        for stronger in (p for p in self.penalties if p > penalty):
            theta = fit_labels(scaled.values, part.labels, stronger, theta, tolerance=1e-3)
        theta = fit_labels(scaled.values, part.labels, penalty, theta)
        head = linear(*scaled.original(theta[:, :-1], theta[:, -1]))
        return head, {"solver": "logistic for each label", "penalty": penalty, "path": path}

    def _path(self, part: Features, rng: np.random.Generator) -> list[dict[str, float]]:
        """Held-out F1 and mean log-loss of every penalty."""
        folds = folds_of(part, self.folds, rng)
        y = part.labels.astype(np.float64)
        logits = np.empty((len(self.penalties), *y.shape))
        for fold in range(folds.max() + 1):
            held = folds == fold
            scaled = standardise(part.values[~held])
            theta: Array | None = None
            for i, penalty in enumerate(self.penalties):
                theta = fit_labels(scaled.values, y[~held], penalty, theta, tolerance=1e-4)
                weight, bias = scaled.original(theta[:, :-1], theta[:, -1])
                logits[i, held] = part.values[held] @ weight.T + bias
        return [
            {"penalty": p, "loss": _log_loss(logits[i], y) / y.size, "f1": _f1(logits[i] > 0, y > 0)}
            for i, p in enumerate(self.penalties)
        ]


def _log_loss(logits: Array, y: Array) -> float:
    return float(np.sum(np.logaddexp(0.0, logits) - y * logits))


def _f1(taken: Array, true: Array) -> float:
    """Mean F1 over the labels, 0 for one that is never true nor taken."""
    named = taken.sum(0) + true.sum(0)
    return float(np.mean(2 * (taken & true).sum(0) / np.maximum(named, 1)))
