r"""Softmax cross-entropy with a group-lasso or an L1 penalty, solved until its optimality conditions hold.

    min over W, b of  (1/n) Σ_i −log softmax(Wᵀ x_i + b)[y_i] + λ Σ_g ‖w_g‖₂

A group g is a feature's weights over all classes (Yuan & Lin 2006; `per_feature`), so that whole features drop out, or
a single weight (`per_weight`), which makes the penalty L1. The intercept b has none. The optimum is where, with ∇ the
gradient of the cross-entropy,

    ‖∇_g‖ ≤ λ  where w_g = 0,      ∇_g + λ w_g / ‖w_g‖ = 0  elsewhere,      ∂/∂b = 0

Since ‖w‖ is the minimum of (u² + ‖v‖²)/2 over all u v = w (Hoff 2017, arXiv:1611.00040), the problem has a smooth form
in u and v, which L-BFGS minimises; as the weights fade, so do the features, which makes it far better conditioned than
proximal gradient descent is on correlated features. Only groups that are not zero, or whose gradient says that they
should not be, take part (a working set), and one step of proximal gradient descent sets exact zeros. This goes on until
the conditions above hold for all features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize

from bequest.optim.design import Array

Norm = Callable[[Array], Array]

TOLERANCE = 1e-5
"""On the optimality conditions; λ, of features scaled as in `columns`, is rarely below 1e-3."""

_MOST_ROUNDS = 60
_FEWEST_ENTERING = 20
_FINER = 0.1
_FINEST = 1e-13


def per_feature(weight: Array) -> Array:
    """Norms of groups of a feature's weights over all classes: (width, classes) → (width, 1)."""
    return np.linalg.norm(weight, axis=1, keepdims=True)


def per_weight(weight: Array) -> Array:
    """Norms of groups of one weight, which make the penalty L1: (width, classes) → (width, classes)."""
    return np.abs(weight)


@dataclass(frozen=True)
class Columns:
    """Features by column, centred and divided by one number, so that their mean square is 1.

    Attributes:
        values: float32 (width, samples).
        mean: (width,).
        scale: One number.
    """

    values: Array
    mean: Array
    scale: float

    def original(self, found: Sparse) -> tuple[Array, Array]:
        """Weight (classes, width) and bias (classes,) for the features as they were."""
        weight = found.weight.T / self.scale
        return weight, found.bias - weight @ self.mean


@dataclass(frozen=True)
class Sparse:
    """A solution.

    Attributes:
        weight: (width, classes), for features as `Columns` holds them.
        bias: (classes,), likewise.
        gradient: (width, classes): of the cross-entropy.
        violation: By how much the optimality conditions fail at most.
    """

    weight: Array
    bias: Array
    gradient: Array
    violation: float


def columns(values: Array, rows: Array | None = None) -> Columns:
    """Some rows (None: all) of features (samples, width) as the solver reads them; constant features become 0."""
    chosen = values if rows is None else values[rows]
    mean = chosen.mean(0, dtype=np.float64)
    centred = np.ascontiguousarray(chosen.T, dtype=np.float32)
    centred -= mean[:, None].astype(np.float32)
    squares = np.einsum("fn,fn->f", centred, centred)
    scale = float(np.sqrt(squares.sum(dtype=np.float64) / centred.size)) or 1.0
    centred /= np.float32(scale)
    return Columns(centred, mean, scale)


def exactness(violation: float) -> dict[str, Any]:
    """What to record of a fit's violation, with a note for the reader where it is more than `TOLERANCE`."""
    note = f"not solved to {TOLERANCE:g}: the optimality conditions fail by {violation:.1g}"
    return {"violation": violation} | ({"note": note} if violation > TOLERANCE else {})


def null(x: Columns, labels: Array, num_classes: int) -> Sparse:
    """The solution without features: intercepts alone, those of classes without samples far below the others."""
    counts = np.bincount(labels, minlength=num_classes)
    bias = np.log(np.maximum(counts, 1e-9) / len(labels))
    weight = np.zeros((len(x.values), num_classes))
    _, residual = _loss(np.tile(bias, (len(labels), 1)), labels)
    gradient = _gradient(x, residual)
    return Sparse(weight, bias, gradient, float(np.abs(residual.sum(0)).max()))


def strongest(x: Columns, labels: Array, num_classes: int, norm: Norm = per_feature) -> float:
    """λ_max = max_g ‖∇_g‖ at W = 0: the smallest penalty that leaves no group."""
    return float(norm(null(x, labels, num_classes).gradient).max(initial=0.0))


def fit(
    x: Columns,
    labels: Array,
    num_classes: int,
    penalty: float,
    start: Sparse | None = None,
    *,
    norm: Norm = per_feature,
    tolerance: float = TOLERANCE,
) -> Sparse:
    """The optimum for one penalty.

    Args:
        x: The features.
        labels: int64 (samples,).
        num_classes: Classes without samples get no weight of their own.
        penalty: λ, above 0.
        start: E.g. the solution for a stronger penalty; None for no features.
        norm: What a group is.
        tolerance: On the optimality conditions.
    """
    found = null(x, labels, num_classes) if start is None else start
    weight, bias, gradient = found.weight.copy(), found.bias, found.gradient
    sought = 1.0
    for _ in range(_MOST_ROUNDS):
        violations = _violations(weight, gradient, penalty, norm).max(1)
        held = (weight != 0).any(1)
        entering = np.flatnonzero(~held & (violations > tolerance))
        entering = entering[np.argsort(-violations[entering])][: max(_FEWEST_ENTERING, int(held.sum()))]
        working = np.union1d(np.flatnonzero(held), entering)
        # No round is much more exact than its working set deserves.
        sought = max(_FINEST, min(_FINER * sought, _FINER * violations.max(initial=0.0)))
        block = x.values[working].astype(np.float64)
        weight[working], bias = _solve(block, labels, weight[working], bias, penalty, norm, sought)
        _, residual = _loss(block.T @ weight[working] + bias, labels)
        gradient = _gradient(x, residual)
        gradient[working] = block @ residual
        violation = max(_violations(weight, gradient, penalty, norm).max(initial=0.0), np.abs(residual.sum(0)).max())
        found = Sparse(weight, bias, gradient, float(violation))
        if violation <= tolerance:
            break
    return found


def path(
    x: Columns,
    labels: Array,
    num_classes: int,
    penalties: Sequence[float],
    *,
    norm: Norm = per_feature,
    tolerance: float = TOLERANCE,
) -> Iterator[Sparse]:
    """The solution for each penalty, strong to weak, each starting from the one before; arguments as for `fit`."""
    found = null(x, labels, num_classes)
    for penalty in penalties:
        found = fit(x, labels, num_classes, penalty, found, norm=norm, tolerance=tolerance)
        yield found


def _gradient(x: Columns, residual: Array) -> Array:
    """Of the cross-entropy by all weights: there are so many that they stay in float32."""
    return (x.values @ residual.astype(np.float32)).astype(np.float64)


def _solve(
    x: Array, labels: Array, weight: Array, bias: Array, penalty: float, norm: Norm, tolerance: float
) -> tuple[Array, Array]:
    """Weight (features, classes) and bias of the working set `x` (features, samples), zeros exact."""
    sizes = norm(weight)
    num_scales, num_weights = sizes.size, weight.size

    def split(flat: Array) -> tuple[Array, Array, Array]:
        u, v, b = np.split(flat, [num_scales, num_scales + num_weights])
        return u.reshape(sizes.shape), v.reshape(weight.shape), b

    def objective(flat: Array) -> tuple[float, Array]:
        u, v, b = split(flat)
        loss, residual = _loss(x.T @ (u * v) + b, labels)
        gradient = x @ residual
        by_u = (gradient * v).sum(1, keepdims=True) if u.shape[1] == 1 else gradient * v
        by_v = gradient * u
        by_u += penalty * u
        by_v += penalty * v
        value = loss + 0.5 * penalty * (np.vdot(u, u) + np.vdot(v, v))
        return float(value), np.concatenate([by_u.ravel(), by_v.ravel(), residual.sum(0)])

    u, v = _factors(x, labels, weight, bias, penalty, norm)
    options = {"maxiter": 3000, "maxfun": 6000, "gtol": tolerance, "ftol": 0.0, "maxcor": 30}
    begin = np.concatenate([u.ravel(), v.ravel(), bias])
    u, v, bias = split(minimize(objective, begin, jac=True, method="L-BFGS-B", options=options).x)
    weight = u * v
    _, residual = _loss(x.T @ weight + bias, labels)
    gradient = x @ residual
    ahead = norm(weight - gradient)
    # Uphill (w·∇ ≥ 0) a group has faded on its way to the other side of 0, where u and v cannot follow: start again.
    uphill = ahead**2 <= norm(weight) ** 2 + norm(gradient) ** 2
    return np.where((ahead <= penalty) | uphill, 0.0, weight), bias


def _factors(x: Array, labels: Array, weight: Array, bias: Array, penalty: float, norm: Norm) -> tuple[Array, Array]:
    """U and v of equal norms whose product is the weight; for groups that leave 0, a small step down the gradient."""
    sizes = norm(weight)
    _, residual = _loss(x.T @ weight + bias, labels)
    gradient = x @ residual
    leaving = (sizes == 0) & (norm(gradient) > penalty)
    roots = np.sqrt(np.where(leaving, 1e-3 * max(1.0, sizes.max(initial=0.0)), sizes))
    directions = np.where(leaving, -gradient, weight)
    return roots, directions / np.maximum(norm(directions), 1e-300) * roots


def _violations(weight: Array, gradient: Array, penalty: float, norm: Norm) -> Array:
    """By how much the optimality condition of each group fails."""
    sizes = norm(weight)
    along = gradient + penalty * weight / np.where(sizes > 0, sizes, 1.0)
    return np.where(sizes > 0, norm(along), np.maximum(norm(gradient) - penalty, 0.0))


def _loss(logits: Array, labels: Array) -> tuple[float, Array]:
    """Mean cross-entropy of logits (samples, classes), and its gradient; the logits are overwritten."""
    rows = np.arange(len(labels))
    logits -= logits.max(1, keepdims=True)
    chosen = logits[rows, labels]
    np.exp(logits, out=logits)
    total = logits.sum(1, keepdims=True)
    logits /= total
    logits[rows, labels] -= 1
    logits /= len(labels)
    return float(np.mean(np.log(total[:, 0]) - chosen)), logits
