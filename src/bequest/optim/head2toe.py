r"""Head2Toe's solver: features of many layers, a few of them selected by a group lasso, a linear head on those.

    selection:  min over W, b of  (1/n) Σ_i −log softmax(Wᵀ h_i + b)[y_i] + λ Σ_f ‖w_f‖₂
    head:       logistic regression on the fraction F of all features with the largest ‖w_f‖²

h holds every tap's features, each tap divided by its own L2 norm (Evci et al. 2022, arXiv:2201.03529).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bequest.core.plan import Features
from bequest.optim import logistic
from bequest.optim.design import Array, outputs, splits, standardise
from bequest.optim.group_lasso import TOLERANCE, Columns, Sparse, columns, exactness, path, per_feature, strongest
from bequest.optim.linear import LinearSolver

STRENGTHS = (0.1, 0.01)
FRACTIONS = (0.002, 0.01, 0.05, 0.1, 0.2, 1.0)
PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4)

_ROUGH = 1e-3
"""Tolerance of the fits that only choose between settings."""


@dataclass(frozen=True)
class Head2ToeSolver:
    """Selection and head, their settings chosen together by cross-validation, the selection inside the folds.

    Attributes:
        strengths: λ to choose from, as shares of the λ that leaves no feature, strong to weak.
        fractions: F to choose from; 1 keeps every feature.
        penalties: L2 penalties of the head to choose from, strong to weak; 0 for none.
        folds: Of the stratified cross-validation.
    """

    strengths: tuple[float, ...] = STRENGTHS
    fractions: tuple[float, ...] = FRACTIONS
    penalties: tuple[float, ...] = PENALTIES
    folds: int = 5

    def __call__(
        self, *parts: Features, seed: int, earlier: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Normalise → Select → Linear, fitted on the first part; the settings, and what was tried."""
        [part] = parts
        widths = part.widths or (part.values.shape[1],)
        part = replace(part, values=normalised(part.values, widths))
        with threadpool_limits(1):
            tried = earlier["path"] if earlier else self._tried(part, np.random.default_rng([seed, 3]))
            best = max(tried, key=lambda t: (t["accuracy"], -t["loss"]))
            kept, violation = self._select(part, best["strength"], best["fraction"])
        linear, _ = LinearSolver(penalty=best["penalty"], penalties=self.penalties)(
            replace(part, values=part.values[:, kept]), seed=seed
        )
        chosen = {name: best[name] for name in ("strength", "fraction", "penalty")}
        record = {"solver": "head2toe", **chosen, "kept": len(kept), **exactness(violation), "path": tried}
        return _head(widths, kept, linear), record | {"kept_by_tap": by_tap(kept, widths)}

    def _settings(self) -> list[tuple[float, float]]:
        """Strength and fraction; all features are all features, whatever the strength."""
        pairs = [(s, f) for s in self.strengths for f in self.fractions if f < 1]
        return pairs + [(self.strengths[-1], f) for f in self.fractions if f >= 1]

    def _tried(self, part: Features, rng: np.random.Generator) -> list[dict[str, float]]:
        """Held-out scores of every setting."""
        settings = [(s, f, p) for s, f in self._settings() for p in self.penalties]
        if len(settings) == 1:
            names = ("strength", "fraction", "penalty")
            return [dict(zip(names, settings[0], strict=True)) | {"loss": 0.0, "accuracy": 0.0}]
        tallies: dict[tuple[float, float, float], Any] = dict.fromkeys(settings, 0)
        for train, held in splits(part, self.folds, rng):
            x = columns(part.values, train)
            for strength, sparse in self._path(x, part.labels[train], part.num_classes, _ROUGH):
                ranking = ranked(sparse)
                for fraction in (f for s, f in self._settings() if s == strength):
                    # In the order of the columns, in which they are read much faster.
                    values = part.values[:, np.sort(ranking[: _count(fraction, len(ranking))])]
                    heads = logistic.path(
                        standardise(values, train), part.labels[train], part.num_classes, self.penalties, _ROUGH, _ROUGH
                    )
                    for penalty, found in zip(self.penalties, outputs(values, held, heads), strict=True):
                        tallies[strength, fraction, penalty] += logistic.tally(found, part.labels[held])
        return [
            {"strength": s, "fraction": f, "penalty": p, **logistic.scores(tally)}
            for (s, f, p), tally in tallies.items()
        ]

    def _path(self, x: Columns, labels: Array, num_classes: int, tolerance: float) -> Iterator[tuple[float, Sparse]]:
        top = strongest(x, labels, num_classes) or 1.0
        penalties = [s * top for s in self.strengths]
        found = path(x, labels, num_classes, penalties, tolerance=tolerance)
        return zip(self.strengths, found, strict=True)

    def _select(self, part: Features, strength: float, fraction: float) -> tuple[Array, float]:
        """The features that are kept, in order of the columns, and how exact the selection is."""
        width = part.values.shape[1]
        if fraction >= 1:
            return np.arange(width), 0.0
        solver = replace(self, strengths=tuple(s for s in self.strengths if s >= strength))
        *_, (_, sparse) = solver._path(columns(part.values), part.labels, part.num_classes, TOLERANCE)
        return np.sort(ranked(sparse)[: _count(fraction, width)]), sparse.violation


def normalised(values: Array, widths: tuple[int, ...]) -> Array:
    """Features (samples, width) with each tap's part divided by its L2 norm; zeros stay zeros."""
    ends = np.cumsum(widths)
    found = np.empty(values.shape, np.float32)
    for begin, end in zip(ends - widths, ends, strict=True):
        run = values[:, begin:end]
        norms = np.sqrt(np.einsum("nf,nf->n", run, run))
        np.divide(run, np.maximum(norms, 1e-12)[:, None], out=found[:, begin:end])
    return found


def ranked(found: Sparse) -> Array:
    """All features, those of the largest Σ_c w² first; those without weight follow by how near they are to entering."""
    return np.lexsort((-per_feature(found.gradient)[:, 0], -np.sum(found.weight**2, 1)))


def by_tap(kept: Array, widths: tuple[int, ...]) -> list[int]:
    """How many of the kept features each tap has."""
    return np.bincount(np.searchsorted(np.cumsum(widths), kept, side="right"), minlength=len(widths)).tolist()


def _count(fraction: float, width: int) -> int:
    return min(width, max(1, round(fraction * width)))


def _head(widths: tuple[int, ...], kept: Array, linear: Any) -> Any:
    import torch
    from torch import nn

    from bequest.nn.heads.steps import Normalise, Select

    select = Select(len(kept))
    select.index.copy_(torch.from_numpy(kept))
    return nn.Sequential(Normalise(widths), select, linear)
