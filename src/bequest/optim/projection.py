r"""Pro²'s solver: predictive, orthogonal directions of one data set, a linear head on them for another.

    block k:   W_k = argmin (1/n) Σ_i −log softmax(W x_i + b)[y_i] + (λ/2) ‖W‖²  over W with W Π_{k−1} = 0
    Π_k  =  [Π_{k−1}, an orthonormal basis of W_k's rows]

(Chen et al. 2024, arXiv:2302.05441). With C classes a block has C − 1 directions, for the rows of W_k add up to 0. They
are W_k's right singular vectors, so that those that count most come first: the span is that of a QR decomposition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bequest.core.plan import Features
from bequest.optim import logistic
from bequest.optim.design import Array, outputs, splits, standardise
from bequest.optim.linear import LinearSolver

DIRECTIONS = (1, 2, 4, 8, 16, 32, 64, 128)
DIRECTION_PENALTIES = (1e-1, 1e-2, 1e-3)
PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4)

_NO_WEIGHT = 1e-6
"""Singular values of W below which a direction tells nothing."""


def directions(values: Array, labels: Array, num_classes: int, most: int, penalty: float) -> Array:
    """Orthonormal directions (width, at most `most`), the most predictive first.

    Args:
        values: (samples, width).
        labels: int64 (samples,).
        num_classes: Of the labels.
        most: How many; fewer come back where the rest of the features tells nothing of the classes.
        penalty: λ of each block, for features centred and scaled by one number.
    """
    x = standardise(values)
    found = np.zeros((x.rank, 0))
    while found.shape[1] < min(most, x.rank):
        weight = logistic.fit_logistic(x.without(found), labels, num_classes, penalty)[:, :-1]
        _, sizes, rows = np.linalg.svd(weight, full_matrices=False)
        block = rows[sizes > _NO_WEIGHT].T
        if not block.shape[1]:
            break
        for _ in range(2):  # once leaves what rounding has left
            block = block - found @ (found.T @ block)
            block /= np.linalg.norm(block, axis=0)
        found = np.hstack([found, block])
    found = found[:, :most]
    if x.rotation is None:
        return found
    basis, triangle = np.linalg.qr(x.rotation.out(found.T).T)
    return basis * np.where(np.diag(triangle) < 0, -1.0, 1.0)


@dataclass(frozen=True)
class ProjectionSolver:
    """Directions of the first part (the source's data), a linear head on them for the last (the target's).

    Where one part is given it serves for both; the directions are then learned inside the folds.

    Attributes:
        counts: Numbers of directions to choose from.
        direction_penalties: λ of the blocks to choose from.
        penalties: L2 penalties of the head to choose from, strong to weak.
        folds: Of the stratified cross-validation on the target part.
    """

    counts: tuple[int, ...] = DIRECTIONS
    direction_penalties: tuple[float, ...] = DIRECTION_PENALTIES
    penalties: tuple[float, ...] = PENALTIES
    folds: int = 5

    def __call__(
        self, *parts: Features, seed: int, earlier: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Projection → Linear; the settings, where the directions come from, and what was tried."""
        source, target = parts[0], parts[-1]
        with threadpool_limits(1):
            tried = earlier["path"] if earlier else self._tried(parts, np.random.default_rng([seed, 3]))
            best = max(tried, key=lambda t: (t["accuracy"], -t["loss"]))
            basis = self._directions(source, best["direction_penalty"])[:, : int(best["directions"])]
        linear, _ = LinearSolver(penalty=best["penalty"], penalties=self.penalties)(
            replace(target, values=target.values @ basis), seed=seed
        )
        record: dict[str, Any] = {
            "solver": "projection",
            "projection_from": "train" if len(parts) == 1 else "source",
            "directions": basis.shape[1],
            "direction_penalty": best["direction_penalty"],
            "penalty": best["penalty"],
            "path": tried,
        }
        if len(parts) == 1:
            record["note"] = "no source data were given: its directions come from the target's training labels"
        return _head(basis, linear), record

    def _directions(self, part: Features, penalty: float) -> Array:
        return directions(part.values, part.labels, part.num_classes, max(self.counts), penalty)

    def _tried(self, parts: Sequence[Features], rng: np.random.Generator) -> list[dict[str, float]]:
        """Held-out scores of every setting."""
        source, target = parts[0], parts[-1]
        shared = [self._directions(source, p) for p in self.direction_penalties] if len(parts) > 1 else None
        tallies: dict[tuple[float, int, float], Any] = {}
        for train, held in splits(target, self.folds, rng):
            fold = replace(target, values=target.values[train], labels=target.labels[train])
            bases = shared or [self._directions(fold, p) for p in self.direction_penalties]
            for direction_penalty, basis in zip(self.direction_penalties, bases, strict=True):
                projected = target.values @ basis
                for count in self.counts:
                    values = projected[:, :count]
                    heads = logistic.path(
                        standardise(values, train), fold.labels, target.num_classes, self.penalties, 1e-3, 1e-3
                    )
                    for penalty, found in zip(self.penalties, outputs(values, held, heads), strict=True):
                        setting = (direction_penalty, count, penalty)
                        tallies[setting] = tallies.get(setting, 0) + logistic.tally(found, target.labels[held])
        return [
            {"direction_penalty": direction_penalty, "directions": count, "penalty": p, **logistic.scores(tally)}
            for (direction_penalty, count, p), tally in tallies.items()
        ]


def _head(basis: Array, linear: Any) -> Any:
    import torch
    from torch import nn

    projection = nn.Linear(*basis.shape, bias=False)
    with torch.no_grad():
        projection.weight.copy_(torch.from_numpy(basis.T.copy()))
    return nn.Sequential(projection, linear)
