r"""Multinomial logistic regression with an L2 penalty, solved to convergence.

    min over W, b of  (1/n) Σ_i −log softmax(W x_i + b)[y_i] + (λ/2) ‖W‖²

by L-BFGS (Liu & Nocedal 1989). The features are centred and divided by one number, their root-mean-square norm, so that
λ means the same for every source; the solution is then written back in the features' own units. The intercept has no
penalty, so centring does not move the optimum. Where there are more features than samples the problem is rotated into
the samples' span first, which leaves the optimum as it is and the cost small.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize

from bequest.optim.design import Array, Design, parts, warm_path


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
    begin = np.zeros((num_classes, x.rank + 1)) if start is None else start

    def objective(flat: Array) -> tuple[float, Array]:
        theta = flat.reshape(begin.shape)
        loss, gradient = 0.0, np.zeros(begin.shape)
        for block, chosen in parts(x, labels):
            loss += _add_gradient(block, chosen, theta, gradient)
        gradient /= len(labels)
        weight = theta[:, :-1]
        gradient[:, :-1] += penalty * weight
        return loss / len(labels) + 0.5 * penalty * float(np.vdot(weight, weight)), gradient.ravel()

    options = {"maxiter": 2000, "maxfun": 4000, "gtol": tolerance, "ftol": 0.0, "maxcor": 20}
    return minimize(objective, begin.ravel(), jac=True, method="L-BFGS-B", options=options).x.reshape(begin.shape)


def _add_gradient(x: Array, labels: Array, theta: Array, gradient: Array) -> float:
    """Summed cross-entropy of a block; its gradient is added to `gradient`."""
    rows = np.arange(len(labels))
    logits = x @ theta[:, :-1].T
    logits += theta[:, -1]
    logits -= logits.max(1, keepdims=True)
    chosen = logits[rows, labels]
    np.exp(logits, out=logits)
    total = logits.sum(1)
    logits /= total[:, None]
    logits[rows, labels] -= 1
    gradient[:, :-1] += logits.T @ x
    gradient[:, -1] += logits.sum(0)
    return float(np.log(total).sum() - chosen.sum())


def path(
    x: Design, labels: Array, num_classes: int, penalties: Sequence[float], tolerance: float, last: float
) -> list[tuple[Array, Array]]:
    """Weight (classes, width) and bias (classes,) for each penalty; arguments as for `fit_logistic` and `warm_path`."""

    def fit(penalty: float, start: Array | None, exactness: float) -> Array:
        return fit_logistic(x, labels, num_classes, penalty, start, exactness)

    return warm_path(fit, x, penalties, tolerance, last)


def tally(logits: Array, labels: Array) -> Array:
    """Samples, summed cross-entropy, and samples whose largest logit is that of their class."""
    shifted = logits - logits.max(1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(labels)), labels]
    return np.array([len(labels), losses.sum(), np.sum(logits.argmax(1) == labels)])


def scores(tallied: Array) -> dict[str, float]:
    """Mean cross-entropy and accuracy."""
    count, loss, hits = tallied.tolist()
    return {"loss": loss / count, "accuracy": hits / count}
