r"""Ridge regression of one or more targets, in closed form.

    min over W, b of  (1/2n) Σ_i ‖W x_i + b − y_i‖² + (λ/2) ‖W‖²

The features are centred and scaled by one number as for logistic regression, so λ has the same meaning and path. One
eigendecomposition of their second moments gives the solution for every λ (Hoerl & Kennard 1970):

    XᵀX = V D Vᵀ,   W(λ)ᵀ = V · (D + nλ)⁻¹ · Vᵀ XᵀY
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bequest.optim.design import Array, Design, originals, parts


def path(
    x: Design, labels: Array, num_targets: int, penalties: Sequence[float], tolerance: float = 0.0, last: float = 0.0
) -> list[tuple[Array, Array]]:
    """Weight (targets, width) and bias (targets,) for each penalty, in the features' own units.

    Args:
        x: The features.
        labels: (samples, targets), of its rows in order.
        num_targets: As many as labels have columns.
        penalties: λ.
        tolerance: Of iterative solvers; this one is exact.
        last: Likewise.
    """
    targets = labels.astype(np.float64)
    mean = targets.mean(0)
    moments, products = np.zeros((x.rank, x.rank)), np.zeros((x.rank, num_targets))
    for block, wanted in parts(x, targets - mean):
        moments += block.T @ block
        products += block.T @ wanted
    eigenvalues, vectors = np.linalg.eigh(moments)
    projected = vectors.T @ products
    thetas: list[Array] = []
    for penalty in penalties:
        shrunk = projected / (np.maximum(eigenvalues, 0) + len(targets) * penalty)[:, None]
        thetas.append(np.column_stack([(vectors @ shrunk).T, mean]))
    return originals(x, thetas)


def tally(predicted: Array, labels: Array) -> Array:
    """For each target samples, summed squared error, sum, and sum of squares."""
    counts, targets = np.full(labels.shape[1], len(labels)), labels.astype(np.float64)
    return np.stack([counts, ((predicted - targets) ** 2).sum(0), targets.sum(0), (targets**2).sum(0)])


def scores(tallied: Array) -> dict[str, float]:
    """Mean squared error, and R² (mean over the targets; 1 for one that does not vary)."""
    counts, squared, total, squares = tallied
    spread = squares - total**2 / counts
    varies = spread > 1e-12 * np.maximum(squares, 1e-300)
    share = np.where(varies, squared / np.where(varies, spread, 1.0), 0.0)
    return {"loss": float(squared.sum() / counts.sum()), "r2": float(1 - share.mean())}
