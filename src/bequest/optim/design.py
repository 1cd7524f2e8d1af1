"""The features of a linear head as its solvers read them: centred, scaled by one number, and in blocks of rows.

The features may be larger than memory (a memory-mapped array): never more than one block of them is held in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bequest.core.plan import Features

Array = np.ndarray[Any, Any]

_BLOCK = 4_000_000
"""Numbers in a block: 32 MB in float64."""

_HELD = 4
"""Blocks' worth of features held in float64 as one: making them again takes as long as a step of the solver."""

_CACHED = 250_000
"""Numbers in a block of columns: 2 MB in float64."""

_NO_SPREAD = 1e-10
"""Directions in which the samples spread less than so much of the widest are left out: penalties are far above."""

_ENOUGH_HELD_OUT = 10_000
"""Held-out samples after which no further fold is fitted: an accuracy's standard error is then half a point at most."""


@dataclass(frozen=True)
class Rotation:
    """Orthonormal directions that span some samples, as two factors: their product would cost more than all its uses.

    Attributes:
        values: (all samples, width).
        rows: Positions in `values` of the samples that span them.
        mean: (width,), subtracted from the samples.
        scale: One number by which they are divided.
        mix: (samples, rank): the samples' transpose times `mix` are the directions, (width, rank).
    """

    values: Array
    rows: Array
    mean: Array
    scale: float
    mix: Array

    @property
    def rank(self) -> int:
        """How many directions there are."""
        return self.mix.shape[1]

    def out(self, weight: Array) -> Array:
        """Weights of the directions (outputs, rank) as weights of the features (outputs, width)."""
        shares = weight @ self.mix.T
        found = np.empty((len(weight), len(self.mean)))
        for columns, block in _column_blocks(self.values, self.rows):
            found[:, columns] = shares @ block
        found -= shares.sum(1, keepdims=True) * self.mean
        return found / self.scale


@dataclass(frozen=True)
class Design:
    """Features in units in which penalties are comparable; iterate for blocks (rows, rank), in order.

    Attributes:
        values: (all samples, width).
        rows: Positions in `values` of the samples that count.
        mean: (width,).
        scale: One number.
        rotation: Into the samples' span, where they are fewer than the width; else None.
        whole: The only block, where one holds all; else None.
        removed: (rank, directions), orthonormal: taken out of every row; None for nothing.
    """

    values: Array
    rows: Array
    mean: Array
    scale: float
    rotation: Rotation | None = None
    whole: Array | None = None
    removed: Array | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def rank(self) -> int:
        """Columns of a block."""
        return self.values.shape[1] if self.rotation is None else self.rotation.rank

    def __iter__(self) -> Iterator[Array]:
        if self.whole is not None:
            yield self.whole
            return
        for block in blocks(self.values, self.rows):
            block -= self.mean
            block /= self.scale
            yield block if self.removed is None else _without(block, self.removed)

    def without(self, directions: Array) -> Design:
        """The same features less their parts along some orthonormal directions (rank, count)."""
        whole = None if self.whole is None else _without(self.whole, directions)
        return replace(self, whole=whole, removed=directions)

    def original(self, weight: Array, bias: Array) -> tuple[Array, Array]:
        """Weight (outputs, width) and bias (outputs,) for the features as they were."""
        full = (weight if self.rotation is None else self.rotation.out(weight)) / self.scale
        return full, bias - full @ self.mean


def _without(block: Array, directions: Array) -> Array:
    return block - (block @ directions) @ directions.T


def standardise(values: Array, rows: Array | None = None) -> Design:
    """Centre and scale some rows (None: all) of features (samples, width), and rotate them where they are few."""
    rows = np.arange(len(values)) if rows is None else rows
    if len(rows) < values.shape[1]:
        return _rotated(values, rows)
    if len(rows) * values.shape[1] <= _HELD * _BLOCK:
        return _whole(values, rows)
    mean = sum((block.sum(0) for block in blocks(values, rows)), np.zeros(values.shape[1])) / len(rows)
    squared = sum(float(np.sum((block - mean) ** 2)) for block in blocks(values, rows))
    return Design(values, rows, mean, float(np.sqrt(squared / len(rows))) or 1.0)


def _whole(values: Array, rows: Array) -> Design:
    x = values[rows].astype(np.float64)
    mean = x.mean(0)
    x -= mean
    scale = float(np.sqrt(np.mean(np.sum(x * x, 1)))) or 1.0
    x /= scale
    return Design(values, rows, mean, scale, None, x)


def _rotated(values: Array, rows: Array) -> Design:
    """Features of more columns than rows, in the rows' span: of all of them never more than a block is in float64."""
    mean, products = np.empty(values.shape[1]), np.zeros((len(rows), len(rows)))
    for columns, block in _column_blocks(values, rows):
        mean[columns] = block.mean(0)
        block -= mean[columns]
        products += block @ block.T
    scale = float(np.sqrt(np.trace(products) / len(rows))) or 1.0
    # The eigenvectors of x xᵀ cost a quarter of what a QR decomposition of xᵀ does.
    eigenvalues, vectors = np.linalg.eigh(products / scale**2)
    kept = eigenvalues >= _NO_SPREAD * eigenvalues[-1]
    roots = np.sqrt(np.maximum(eigenvalues[kept], 1e-300))
    vectors = vectors[:, kept]
    rotation = Rotation(values, rows, mean, scale, vectors / roots)
    return Design(values, rows, mean, scale, rotation, vectors * roots)


def _column_blocks(values: Array, rows: Array) -> Iterator[tuple[slice, Array]]:
    """Some columns at a time of some rows of a matrix, as float64 copies that a cache holds."""
    size = max(1, _CACHED // len(rows))
    for start in range(0, values.shape[1], size):
        columns = slice(start, start + size)
        yield columns, values[rows, columns].astype(np.float64)


def blocks(values: Array, rows: Array) -> Iterator[Array]:
    """Some rows of a matrix as float64 copies, a block at a time."""
    size = max(1, _BLOCK // values.shape[1])
    for start in range(0, len(rows), size):
        yield values[rows[start : start + size]].astype(np.float64)


def outputs(values: Array, rows: Array, heads: Iterable[tuple[Array, Array]]) -> list[Array]:
    """W x + b of each head for some rows of features as they were, float64 (rows, outputs)."""
    weights, biases = zip(*heads, strict=True)
    weight, bias = np.concatenate(weights), np.concatenate(biases)
    found = np.concatenate([block @ weight.T + bias for block in blocks(values, rows)])
    return np.split(found, np.cumsum([len(b) for b in biases[:-1]]), 1)


def parts(design: Design, *arrays: Array) -> Iterator[tuple[Array, ...]]:
    """Each block with the rows of further arrays that belong to it."""
    start = 0
    for block in design:
        stop = start + len(block)
        yield block, *(array[start:stop] for array in arrays)
        start = stop


def warm_path(
    fit: Callable[[float, Array | None, float], Array],
    design: Design,
    penalties: Sequence[float],
    tolerance: float,
    last: float,
) -> list[tuple[Array, Array]]:
    """Weight and bias for each penalty, in the features' own units, each fit starting from the one before.

    Args:
        fit: (penalty, start, tolerance) → (outputs, width + 1), intercepts in the last column.
        design: The features.
        penalties: From strong to weak.
        tolerance: Of every fit but the last.
        last: Of the last.
    """
    thetas: list[Array] = []
    for penalty in penalties:
        is_last = len(thetas) + 1 == len(penalties)
        thetas.append(fit(penalty, thetas[-1] if thetas else None, last if is_last else tolerance))
    return originals(design, thetas)


def originals(design: Design, thetas: Sequence[Array]) -> list[tuple[Array, Array]]:
    """Weight and bias of several heads (outputs, rank + 1), intercepts in the last column, in the features' units."""
    weight, bias = design.original(np.concatenate(thetas)[:, :-1], np.concatenate(thetas)[:, -1])
    return list(zip(np.split(weight, len(thetas)), np.split(bias, len(thetas)), strict=True))


def stratified_folds(labels: Array, num_folds: int, rng: np.random.Generator) -> Array:
    """The fold of each sample (samples,): classes are spread evenly, and so are the folds' sizes."""
    folds, dealt = np.empty(len(labels), dtype=np.int64), 0
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        folds[members] = (np.arange(len(members)) + dealt) % num_folds
        dealt += len(members)
    return folds


def splits(part: Features, num_folds: int, rng: np.random.Generator) -> Iterator[tuple[Array, Array]]:
    """Rows to fit on and rows held out, fold by fold, until enough are held out.

    Args:
        part: Its strata, else its classes, are spread evenly over the folds.
        num_folds: At most one a sample.
        rng: Deals the samples.
    """
    plain = part.labels if part.kind == "classification" else np.zeros(len(part.labels), np.int64)
    strata = plain if part.strata is None else part.strata
    folds = stratified_folds(strata, min(num_folds, len(strata)), rng)
    num_held = 0
    for fold in range(folds.max() + 1):
        if num_held >= _ENOUGH_HELD_OUT:
            return
        held = np.flatnonzero(folds == fold)
        num_held += len(held)
        yield np.flatnonzero(folds != fold), held
