r"""Ridge regression of one or more targets, in closed form.

    min over W, b of  (1/2n) Σ_i ‖W x_i + b − y_i‖² + (λ/2) ‖W‖²

The features are centred and scaled by one number as for logistic regression, so λ has the same meaning and path. One
eigendecomposition of their second moments gives the solution for every λ (Hoerl & Kennard 1970):

    XᵀX = V D Vᵀ,   W(λ)ᵀ = V · (D + nλ)⁻¹ · Vᵀ XᵀY
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bequest.core.plan import Features
from bequest.optim.design import Array, outputs, parts, splits, standardise
from bequest.optim.logistic import PENALTIES, linear


def fit_ridge(
    values: Array, labels: Array, penalties: tuple[float, ...], rows: Array | None = None
) -> list[tuple[Array, Array]]:
    """Weight (targets, width) and bias (targets,) for each penalty, in the features' own units.

    Args:
        values: (all samples, width).
        labels: (samples, targets), of the rows.
        penalties: λ.
        rows: Positions in `values` of the samples; None for all.
    """
    design = standardise(values, rows)
    targets = labels.astype(np.float64)
    mean = targets.mean(0)
    moments, products = np.zeros((design.rank, design.rank)), np.zeros((design.rank, targets.shape[1]))
    for block, wanted in parts(design, targets - mean):
        moments += block.T @ block
        products += block.T @ wanted
    eigenvalues, vectors = np.linalg.eigh(moments)
    projected = vectors.T @ products
    found: list[tuple[Array, Array]] = []
    for penalty in penalties:
        shrunk = projected / (np.maximum(eigenvalues, 0) + len(targets) * penalty)[:, None]
        found.append(design.original((vectors @ shrunk).T, mean))
    return found


@dataclass(frozen=True)
class RidgeSolver:
    """A linear head by ridge regression, its penalty chosen by stratified cross-validation.

    The penalty with the highest held-out R² (mean over the targets) is taken, the strongest among equals.

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
            penalty = max(path, key=lambda step: step["r2"])["penalty"]
        [solution] = fit_ridge(part.values, part.labels, (penalty,))
        return linear(*solution), {"solver": "ridge", "penalty": penalty, "path": path}

    def _path(self, part: Features, rng: np.random.Generator) -> list[dict[str, float]]:
        """Held-out mean squared error and R² of every penalty."""
        targets = part.labels.astype(np.float64)
        squared = np.zeros((len(self.penalties), targets.shape[1]))
        scored: list[Array] = []
        for train, held in splits(part, self.folds, rng):
            scored.append(targets[held])
            solutions = fit_ridge(part.values, targets[train], self.penalties, train)
            for i, (weight, bias) in enumerate(solutions):
                squared[i] += np.sum((outputs(part.values, held, weight, bias) - targets[held]) ** 2, 0)
        targets = np.concatenate(scored)
        spread = np.sum((targets - targets.mean(0)) ** 2, 0)
        varies = spread > 0
        share = np.where(varies, squared / np.where(varies, spread, 1.0), 0.0)
        return [
            {"penalty": p, "loss": float(loss), "r2": float(r2)}
            for p, loss, r2 in zip(self.penalties, squared.mean(1) / len(targets), 1 - share.mean(1), strict=True)
        ]
