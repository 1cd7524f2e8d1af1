r"""Deep feature reweighting's solver: averaged L1 logistic regressions on group-balanced subsets.

    min over W, b of  C Σ_i −log softmax(W z_i + b)[y_i] + ‖W‖₁,      z = (φ(x) − mean) / standard deviation

(Kirichenko et al. 2023, arXiv:2204.02937). In this project's form λ = 1 / (C n).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bequest.core.errors import MethodError
from bequest.core.plan import Features
from bequest.optim.design import Array
from bequest.optim.group_lasso import Columns, Sparse, columns, exactness, fit, per_weight

COSTS = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class DFRSolver:
    """Standardise → Linear: mean weights of refits on random balanced subsets, C chosen by worst-group accuracy.

    Attributes:
        costs: C to choose from.
        refits: Balanced subsets whose weights and intercepts are averaged.
        classes: Names of the classes, for messages; empty for their numbers.
        groups: Names of the groups, for messages; empty for their numbers.
    """

    costs: tuple[float, ...] = COSTS
    refits: int = 20
    classes: tuple[str, ...] = field(default=(), compare=False)
    groups: tuple[str, ...] = field(default=(), compare=False)

    def __call__(
        self, *parts: Features, seed: int, earlier: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """The head fitted on the first part; C, the worst group's accuracy at every C, and the groups' sizes.

        Raises:
            MethodError: There are no groups, a group has fewer than two samples, or a class is in one group only.
        """
        [part] = parts
        cells = balanced_by(part.labels, part.groups, self.classes, self.groups)
        rng = np.random.default_rng([seed, 5])
        with threadpool_limits(1):
            mean, scale = moments(part.values)
            z = (part.values - mean) / scale
            tried = earlier["path"] if earlier else self._tried(z, part, cells, rng)
            best = max(tried, key=lambda t: (t["worst_group"], t["mean_group"], -t["C"]))
            weight, bias, violation = self._average(z, part, cells, best["C"], rng)
        record = {
            "solver": "dfr",
            "C": best["C"],
            "refits": self.refits,
            "group_sizes": np.bincount(cells).tolist(),
            "nonzero": float(np.mean(weight != 0)),
            **exactness(violation),
            "path": tried,
        }
        return _head(mean, scale, weight, bias), record

    def _tried(self, z: Array, part: Features, cells: Array, rng: np.random.Generator) -> list[dict[str, float]]:
        """Accuracies by group on one half, at every C, of the regression on the other half balanced."""
        fitted, scored = halves(cells, rng)
        rows = balanced(cells, fitted, rng)
        x, found, tried = columns(z, rows), None, []
        for cost in sorted(self.costs):  # from the strongest penalty on, each the start of the next
            found = _fit(x, part.labels[rows], part.num_classes, cost, found)
            weight, bias = x.original(found)
            hits = (z[scored] @ weight.T + bias).argmax(1) == part.labels[scored]
            accuracies = np.bincount(cells[scored], hits) / np.bincount(cells[scored])
            tried.append({"C": cost, "worst_group": float(accuracies.min()), "mean_group": float(accuracies.mean())})
        return tried

    def _average(
        self, z: Array, part: Features, cells: Array, cost: float, rng: np.random.Generator
    ) -> tuple[Array, Array, float]:
        """Mean weight and bias of the refits, and how inexact the least exact of them is."""
        weights, biases, violations = [], [], []
        for _ in range(self.refits):
            rows = balanced(cells, np.arange(len(cells)), rng)
            x = columns(z, rows)
            found = _fit(x, part.labels[rows], part.num_classes, cost, None)
            weight, bias = x.original(found)
            violations.append(found.violation)
            weights.append(weight)
            biases.append(bias)
        return np.mean(weights, 0), np.mean(biases, 0), max(violations)


def balanced_by(
    labels: Array, groups: Array | None, class_names: tuple[str, ...] = (), group_names: tuple[str, ...] = ()
) -> Array:
    """The cell, int64 (samples,), that each sample is balanced by: its class and group together.

    Args:
        labels: int64 (samples,).
        groups: int64 (samples,) or None.
        class_names: For messages; empty for numbers.
        group_names: For messages; empty for numbers.

    Raises:
        MethodError: There are no groups; or class and group always coincide; or, where groups run across classes, a
            class has no samples of a group; or a cell has fewer than two samples.
    """
    if groups is None:
        raise MethodError(
            "dfr balances groups, and the data have none; expected a column of groups. Name it, or choose another "
            "method."
        )
    pairs, cells = np.unique(np.stack([labels, groups], 1), axis=0, return_inverse=True)
    num_classes, num_groups = (len(np.unique(column)) for column in pairs.T)
    across = len(pairs) > num_groups
    if (across and len(pairs) < num_classes * num_groups) or len(pairs) == num_classes:
        present = {tuple(pair) for pair in pairs.tolist()}
        missing = [
            _named(c, g, class_names, group_names)
            for c in np.unique(labels).tolist()
            for g in np.unique(groups).tolist()
            if (c, g) not in present
        ]
        raise MethodError(
            f"dfr is undefined on these data: there are no samples of {', '.join(missing[:5]) or 'a second group'}"
            f"{f' and {len(missing) - 5} more' if len(missing) > 5 else ''}, so groups cannot be balanced. Add such "
            "samples, or choose another method."
        )
    sizes = np.bincount(cells.ravel())
    if sizes.min() < 2:
        label, group = pairs[sizes.argmin()].tolist()
        raise MethodError(
            "dfr needs two samples or more of each class in each group, one to fit on and one to choose C by; "
            f"{_named(label, group, class_names, group_names)} has 1. Give more labels (--train-size), or choose "
            "another method."
        )
    return cells.ravel()


def _named(label: int, group: int, class_names: tuple[str, ...], group_names: tuple[str, ...]) -> str:
    return (
        f"class {class_names[label] if class_names else label} in group {group_names[group] if group_names else group}"
    )


def halves(cells: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Rows of two halves of every cell; the first has the odd sample."""
    first, second = [], []
    for cell in np.unique(cells):
        members = rng.permutation(np.flatnonzero(cells == cell))
        middle = (len(members) + 1) // 2
        first.append(members[:middle])
        second.append(members[middle:])
    return np.concatenate(first), np.concatenate(second)


def balanced(cells: Array, rows: Array, rng: np.random.Generator) -> Array:
    """Some of the rows at random: of each cell as many as the smallest has."""
    found, counts = np.unique(cells[rows], return_counts=True)
    return np.concatenate([rng.permutation(rows[cells[rows] == cell])[: counts.min()] for cell in found])


def moments(values: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of every feature, float32 (width,); 1 for one that does not vary."""
    mean, scale = values.mean(0, dtype=np.float64), values.std(0, dtype=np.float64)
    varies = scale > 1e-6 * np.abs(mean) + 1e-12
    return mean.astype(np.float32), np.where(varies, scale, 1.0).astype(np.float32)


def _fit(x: Columns, labels: Array, num_classes: int, cost: float, start: Sparse | None) -> Sparse:
    """scikit-learn's C, for the features before `columns` scaled them."""
    penalty = 1 / (cost * len(labels)) / x.scale
    return fit(x, labels, num_classes, penalty, start, norm=per_weight, tolerance=_TOLERANCE)


def _head(mean: Array, scale: Array, weight: Array, bias: Array) -> Any:
    import torch
    from torch import nn

    from bequest.nn.heads.steps import Standardise

    first, linear = Standardise(len(mean)), nn.Linear(*weight.T.shape)
    with torch.no_grad():
        first.mean.copy_(torch.from_numpy(mean))
        first.scale.copy_(torch.from_numpy(scale))
        linear.weight.copy_(torch.from_numpy(weight))
        linear.bias.copy_(torch.from_numpy(bias))
    return nn.Sequential(first, linear)
