r"""One logistic regression with an L2 penalty for each label, solved to convergence.

    min over w, b of  (1/n) Σ_i log(1 + exp(−(2 y_i − 1)(w·x_i + b))) + (λ/2) ‖w‖²      for each label

The labels share features and λ and nothing else; their sum is minimised at once by L-BFGS, on features that are centred
and scaled by one number as in `bequest.optim.design`. A label that all samples carry, or none, has no optimum: its
weights are 0, and its intercept is that of half a sample of either kind more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from bequest.core.plan import Features
from bequest.optim.design import Array, Design, outputs, parts, splits, standardise
from bequest.optim.logistic import PENALTIES, linear


def fit_labels(x: Design, labels: Array, penalty: float, start: Array | None = None, tolerance: float = 1e-7) -> Array:
    """The optimum for one penalty.

    Args:
        x: The features.
        labels: 0 or 1 (samples, labels), of its rows in order.
        penalty: λ.
        start: (labels, width + 1), e.g. the solution for a stronger penalty; None for zeros.
        tolerance: On the largest component of the gradient.

    Returns:
        Weights and, in the last column, intercepts: (labels, width + 1).
    """
    y = labels.astype(np.float64)
    carried = y.sum(0)
    varies = (carried > 0) & (carried < len(y))
    theta = np.zeros((y.shape[1], x.rank + 1))
    theta[:, -1] = np.log((carried + 0.5) / (len(y) - carried + 0.5))
    if varies.any():
        begin = theta[varies] if start is None else start[varies]
        theta[varies] = _minimise(x, y[:, varies], penalty, begin, tolerance)
    return theta


def _minimise(x: Design, y: Array, penalty: float, begin: Array, tolerance: float) -> Array:
    def objective(flat: Array) -> tuple[float, Array]:
        theta = flat.reshape(begin.shape)
        loss, gradient = 0.0, np.zeros(begin.shape)
        for block, wanted in parts(x, y):
            logits = block @ theta[:, :-1].T + theta[:, -1]
            loss += _log_loss(logits, wanted)
            residual = expit(logits) - wanted
            gradient[:, :-1] += residual.T @ block
            gradient[:, -1] += residual.sum(0)
        gradient /= len(y)
        gradient[:, :-1] += penalty * theta[:, :-1]
        loss = loss / len(y) + 0.5 * penalty * float(np.sum(theta[:, :-1] ** 2))
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
            theta = fit_labels(scaled, part.labels, stronger, theta, tolerance=1e-3)
        theta = fit_labels(scaled, part.labels, penalty, theta)
        head = linear(*scaled.original(theta[:, :-1], theta[:, -1]))
        return head, {"solver": "logistic for each label", "penalty": penalty, "path": path}

    def _path(self, part: Features, rng: np.random.Generator) -> list[dict[str, float]]:
        """Held-out F1 and mean log-loss of every penalty."""
        y = part.labels.astype(np.float64)
        loss, num_held = np.zeros(len(self.penalties)), 0
        hits, named = np.zeros((len(self.penalties), y.shape[1])), np.zeros((len(self.penalties), y.shape[1]))
        for train, held in splits(part, self.folds, rng):
            scaled, true = standardise(part.values, train), y[held] > 0
            num_held += len(held)
            theta: Array | None = None
            for i, penalty in enumerate(self.penalties):
                theta = fit_labels(scaled, y[train], penalty, theta, tolerance=1e-4)
                logits = outputs(part.values, held, *scaled.original(theta[:, :-1], theta[:, -1]))
                loss[i] += _log_loss(logits, y[held])
                hits[i] += ((logits > 0) & true).sum(0)
                named[i] += (logits > 0).sum(0) + true.sum(0)
        f1 = (2 * hits / np.maximum(named, 1)).mean(1)  # 0 for a label that is never true nor taken
        return [
            {"penalty": p, "loss": float(a) / (num_held * y.shape[1]), "f1": float(b)}
            for p, a, b in zip(self.penalties, loss, f1, strict=True)
        ]


def _log_loss(logits: Array, y: Array) -> float:
    return float(np.sum(np.logaddexp(0.0, logits) - y * logits))
