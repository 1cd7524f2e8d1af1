r"""Ridge regression of one or more targets, in closed form.

    min over W, b of  (1/2n) Σ_i ‖W x_i + b − y_i‖² + (λ/2) ‖W‖²

The features are centred and scaled by one number as for logistic regression, so λ has the same meaning and path. One
singular value decomposition of the features gives the solution for every λ (Hoerl & Kennard 1970):

    X = U S Vᵀ,   W(λ)ᵀ = V · S / (S² + nλ) · Uᵀ Y
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bequest.core.plan import Features
from bequest.optim.logistic import PENALTIES, Array, folds_of, linear, standardise


def fit_ridge(values: Array, labels: Array, penalties: tuple[float, ...]) -> list[tuple[Array, Array]]:
    """Weight (targets, width) and bias (targets,) for each penalty, in the features' own units.

    Args:
        values: (samples, width).
        labels: (samples, targets).
        penalties: λ.
    """
    scaled = standardise(values)
    targets = labels.astype(np.float64)
    mean = targets.mean(0)
    left, singular, right = np.linalg.svd(scaled.values, full_matrices=False)
    projected = left.T @ (targets - mean)
    found: list[tuple[Array, Array]] = []
    for penalty in penalties:
        shrunk = singular / (singular**2 + len(targets) * penalty)
        found.append(scaled.original((projected * shrunk[:, None]).T @ right, mean))
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
        folds = folds_of(part, self.folds, rng)
        targets = part.labels.astype(np.float64)
        squared = np.zeros((len(self.penalties), targets.shape[1]))
        for fold in range(folds.max() + 1):
            held = folds == fold
            solutions = fit_ridge(part.values[~held], targets[~held], self.penalties)
            for i, (weight, bias) in enumerate(solutions):
                squared[i] += np.sum((part.values[held] @ weight.T + bias - targets[held]) ** 2, 0)
        spread = np.sum((targets - targets.mean(0)) ** 2, 0)
        varies = spread > 0
        share = np.where(varies, squared / np.where(varies, spread, 1.0), 0.0)
        return [
            {"penalty": p, "loss": float(loss), "r2": float(r2)}
            for p, loss, r2 in zip(self.penalties, squared.mean(1) / len(targets), 1 - share.mean(1), strict=True)
        ]
