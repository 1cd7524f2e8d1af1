r"""One logistic regression with an L2 penalty for each label, solved to convergence.

    min over w, b of  (1/n) Σ_i log(1 + exp(−(2 y_i − 1)(w·x_i + b))) + (λ/2) ‖w‖²      for each label

The labels share features and λ and nothing else; their sum is minimised at once by L-BFGS, on features that are centred
and scaled by one number as in `bequest.optim.design`. A label that all samples carry, or none, has no optimum: its
weights are 0, and its intercept is that of half a sample of either kind more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from bequest.optim.design import Array, Design, parts, warm_path


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


def path(
    x: Design, labels: Array, num_labels: int, penalties: Sequence[float], tolerance: float, last: float
) -> list[tuple[Array, Array]]:
    """Weight (labels, width) and bias (labels,) for each penalty; arguments as for `fit_labels` and `warm_path`."""

    def fit(penalty: float, start: Array | None, exactness: float) -> Array:
        return fit_labels(x, labels, penalty, start, exactness)

    return warm_path(fit, x, penalties, tolerance, last)


def tally(logits: Array, labels: Array) -> Array:
    """For each label samples, summed log-loss, hits (carried and taken), and how often it is carried or taken."""
    true, taken = labels > 0, logits > 0
    losses = np.logaddexp(0.0, logits) - labels * logits
    counts = np.full(labels.shape[1], len(labels))
    return np.stack([counts, losses.sum(0), (true & taken).sum(0), true.sum(0) + taken.sum(0)])


def scores(tallied: Array) -> dict[str, float]:
    """Mean log-loss, and F1 (mean over the labels; 0 for one that is never carried nor taken)."""
    counts, losses, hits, named = tallied
    return {"loss": float(losses.sum() / counts.sum()), "f1": float(np.mean(2 * hits / np.maximum(named, 1)))}


def _log_loss(logits: Array, y: Array) -> float:
    return float(np.sum(np.logaddexp(0.0, logits) - y * logits))
