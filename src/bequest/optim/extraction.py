"""A classifier of scikit-learn on frozen features: layers → standardise → PCA or random projection → classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from threadpoolctl import threadpool_limits

from bequest.core.plan import Features
from bequest.optim import logistic
from bequest.optim.classifiers import CLASSIFIERS, Classifier
from bequest.optim.design import Array, blocks, splits

if TYPE_CHECKING:
    from torch import nn

Reduction = Literal["none", "pca", "random"]


@dataclass(frozen=True)
class Candidate:
    """One way to make a head.

    Attributes:
        taps: Positions of the taps whose features it takes.
        dimensions: Features after the reduction; None for no reduction.
        settings: Of the classifier.
    """

    taps: tuple[int, ...]
    dimensions: int | None
    settings: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class ExtractionSolver:
    """A classifier on some of the features, standardised and reduced; what is open is chosen by cross-validation.

    Choices are made one after another: first the taps, then the dimensions, then the classifier's settings, each with
    what was chosen before and the first of what comes later. The highest held-out accuracy wins, among equals the
    lowest held-out cross-entropy of the logits.

    Attributes:
        classifier: A name in `bequest.optim.classifiers.CLASSIFIERS`.
        taps: Names of the taps, in the order of `Features.widths`.
        choose: Whether to choose among each tap alone and all of them side by side; else all are taken.
        reduce: How features are reduced.
        dimensions: How many to choose from, after the reduction; None for no reduction, and so is what the samples or
            the features do not allow.
        folds: Of the stratified cross-validation.
    """

    classifier: str = "logistic"
    taps: tuple[str, ...] = ("embedding",)
    choose: bool = False
    reduce: Reduction = "pca"
    dimensions: tuple[int | None, ...] = (None,)
    folds: int = 5

    def __call__(
        self, *parts: Features, seed: int, earlier: dict[str, Any] | None = None
    ) -> tuple[nn.Module, dict[str, Any]]:
        """The head fitted on the first part, and the candidates with what was chosen."""
        [part] = parts
        kind = CLASSIFIERS[self.classifier]
        with threadpool_limits(1 if part.values.size < 4_000_000 else None):
            chosen, tried = self._chosen(kind, earlier) if earlier else self._choose(kind, part, seed)
            head = self._fit(kind, part, np.arange(len(part.labels)), chosen, seed)
        told = self._told(chosen)
        return head, {"solver": self.classifier, "reduce": self.reduce, **told, "candidates": tried}

    def _chosen(self, kind: Classifier, earlier: dict[str, Any]) -> tuple[Candidate, list[dict[str, Any]]]:
        """The candidate that a record tells of, and those that were tried for it."""
        dimensions = None if earlier["dimensions"] == "all" else earlier["dimensions"]
        settings = tuple((name, earlier[name]) for name in kind.settings[0])
        return Candidate(tuple(map(self.taps.index, earlier["layers"])), dimensions, settings), earlier["candidates"]

    def _choose(self, kind: Classifier, part: Features, seed: int) -> tuple[Candidate, list[dict[str, Any]]]:
        """The best candidate, and all that were tried with their scores."""
        everything = tuple(range(len(part.widths)))
        alone = [(i,) for i in everything] if self.choose and len(everything) > 1 else []
        taps = [*alone, everything]
        dimensions = self.dimensions if self.reduce != "none" else (None,)
        settings = [tuple(one.items()) for one in kind.settings]
        chosen = Candidate(taps[0], dimensions[0], settings[0])
        steps = (("taps", taps), ("dimensions", dimensions), ("settings", settings))
        if all(len(options) == 1 for _, options in steps):
            return chosen, []
        folds = list(splits(part, self.folds, np.random.default_rng([seed, 3])))
        fewest = min(len(train) for train, _ in folds)
        scores: dict[Candidate, dict[str, float]] = {}
        for name, options in steps:
            candidates = [_reached(replace(chosen, **{name: option}), part.widths, fewest) for option in options]
            for candidate in candidates:
                if candidate not in scores:
                    scores[candidate] = self._score(kind, part, folds, candidate, seed)
            chosen = max(candidates, key=lambda one: (scores[one]["accuracy"], -scores[one]["loss"]))
        return chosen, [{**self._told(candidate), **score} for candidate, score in scores.items()]

    def _score(
        self, kind: Classifier, part: Features, folds: Sequence[tuple[Array, Array]], candidate: Candidate, seed: int
    ) -> dict[str, float]:
        """Cross-validated loss and accuracy."""
        tallied: Any = 0
        for train, held in folds:
            head = self._fit(kind, part, train, candidate, seed)
            logits = np.concatenate([_apply(head, block) for block in blocks(part.values, held)])
            tallied += logistic.tally(logits.astype(np.float64), part.labels[held])
        return logistic.scores(tallied)

    def _fit(self, kind: Classifier, part: Features, rows: Array, candidate: Candidate, seed: int) -> nn.Module:
        """Steps and classifier; each is fitted on what the steps before it make."""
        from torch import nn

        columns = _columns(part.widths, candidate.taps)
        steps: list[nn.Module] = []
        values = part.values[rows]
        if columns is not None:
            steps.append(_select(columns))
            values = values[:, columns]
        steps.append(_standardise(values))
        values = _apply(steps[-1], values)
        wanted = candidate.dimensions
        if wanted is not None and wanted < min(values.shape):  # a fixed number may be beyond reach
            steps.append(_projection(self.reduce, values, wanted, seed))
            values = _apply(steps[-1], values)
        steps.append(
            kind.fit(values, part.labels[rows], part.num_classes, seed=seed, settings=dict(candidate.settings))
        )
        return nn.Sequential(*steps).eval()

    def _told(self, candidate: Candidate) -> dict[str, Any]:
        """A candidate in the record."""
        dimensions = candidate.dimensions or "all"
        return {"layers": [self.taps[i] for i in candidate.taps], "dimensions": dimensions, **dict(candidate.settings)}


def _reached(candidate: Candidate, widths: Sequence[int], samples: int) -> Candidate:
    """The candidate without a reduction that would leave features or samples as many as there are."""
    most = min(samples, sum(widths[i] for i in candidate.taps))
    is_reduced = candidate.dimensions is not None and candidate.dimensions < most
    return candidate if is_reduced else replace(candidate, dimensions=None)


def _columns(widths: Sequence[int], taps: Sequence[int]) -> Array | None:
    """Positions of the features of some taps; None for all."""
    if len(taps) == len(widths):
        return None
    ends = np.cumsum(widths)
    return np.concatenate([np.arange(ends[i] - widths[i], ends[i]) for i in taps])


def _select(columns: Array) -> nn.Module:
    import torch

    from bequest.nn.heads.steps import Select

    step = Select(len(columns))
    step.index.copy_(torch.from_numpy(columns))
    return step


def _standardise(values: Array) -> nn.Module:
    """Mean 0 and variance 1; a feature that does not vary is only centred."""
    import torch
    from sklearn.preprocessing import StandardScaler

    from bequest.nn.heads.steps import Standardise

    scaler = StandardScaler().fit(values)
    step = Standardise(values.shape[1])
    step.mean.copy_(torch.from_numpy(scaler.mean_))
    step.scale.copy_(torch.from_numpy(scaler.scale_))
    return step


def _projection(reduce: str, values: Array, dimensions: int, seed: int) -> nn.Module:
    """A Linear without bias: the features have mean 0."""
    import torch
    from sklearn.decomposition import PCA
    from sklearn.random_projection import GaussianRandomProjection

    make: Any = PCA if reduce == "pca" else GaussianRandomProjection
    components = make(dimensions, random_state=seed).fit(values).components_
    step = torch.nn.Linear(values.shape[1], dimensions, bias=False)
    with torch.no_grad():
        step.weight.copy_(torch.from_numpy(components))
    return step


def _apply(step: nn.Module, values: Array) -> Array:
    """What a module makes of features: what comes after it is fitted on those very numbers."""
    import torch

    with torch.inference_mode():
        return step(torch.from_numpy(values).float()).numpy()
