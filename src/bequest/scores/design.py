"""The features of one layer, and their decomposition, which several scores share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bequest.core.errors import DataError

Array = np.ndarray[Any, Any]

_BLOCK = 4_000_000
"""Numbers in a block: 32 MB in float64."""


@dataclass(frozen=True, eq=False)
class Design:
    """Features of one layer; what is asked of them is computed once, in float64.

    Attributes:
        features: (samples, width), of any float type; memory-mapped ones are read in blocks.
    """

    features: Array

    @cached_property
    def mean(self) -> Array:
        """(width,).

        Raises:
            DataError: A feature is no finite number.
        """
        total, start = np.zeros(self.features.shape[1]), 0
        for block in Spectrum(self.features, total).blocks():
            if not np.isfinite(block).all():
                row, column = np.argwhere(~np.isfinite(block))[0]
                raise DataError(
                    f"Feature {column} of sample {start + row} is {block[row, column]}, expected a finite number. "
                    "Check the sample, or compute the features in float32."
                )
            total = total + block.sum(0)
            start += len(block)
        return total / start

    @cached_property
    def centred(self) -> Spectrum:
        """Of the features minus their mean."""
        return Spectrum(self.features, self.mean)

    @cached_property
    def raw(self) -> Spectrum:
        """Of the features as they are."""
        return Spectrum(self.features, np.zeros_like(self.mean))


@dataclass(frozen=True, eq=False)
class Spectrum:
    r"""Features F minus an offset, and their eigendecomposition.

    Of the two Gram matrices, the smaller is decomposed, so that memory grows with the smaller side only:

        FᵀF = V Λ Vᵀ   or   FFᵀ = U Λ Uᵀ,   T = F V = U Λ^½

    Eigenvalues below the rounding of the largest one are left out, and with them duplicate and constant features.

    Attributes:
        features: (samples, width).
        offset: (width,), taken off each row.
    """

    features: Array
    offset: Array

    def __len__(self) -> int:
        return len(self.features)

    @property
    def width(self) -> int:
        """Features of a sample."""
        return self.features.shape[1]

    @property
    def eigenvalues(self) -> Array:
        """Λ without zeros, ascending: (rank,)."""
        return self._decomposed[0]

    def blocks(self, rows: Array | None = None) -> Iterator[Array]:
        """Some rows (None: all) of F, float64, a block at a time."""
        size = max(1, _BLOCK // self.width)
        for start in range(0, len(self) if rows is None else len(rows), size):
            part = slice(start, start + size)
            yield self.features[part if rows is None else rows[part]].astype(np.float64) - self.offset

    def gram(self, rows: Array | None = None) -> Array:
        """FᵀF of some rows (None: all), or FFᵀ where they are fewer than the width."""
        if (len(self) if rows is None else len(rows)) < self.width:
            few = np.concatenate(list(self.blocks(rows)))
            return few @ few.T
        return sum((block.T @ block for block in self.blocks(rows)), np.zeros((self.width, self.width)))

    def components(self) -> Iterator[Array]:
        """T, a block of rows at a time: (block, rank)."""
        eigenvalues, vectors = self._decomposed
        if len(self) < self.width:
            yield vectors * np.sqrt(eigenvalues)
        else:
            yield from (block @ vectors for block in self.blocks())

    def products(self, targets: Array) -> Array:
        """TᵀY for targets (samples, k): (rank, k)."""
        eigenvalues, vectors = self._decomposed
        if len(self) < self.width:
            return (vectors * np.sqrt(eigenvalues)).T @ targets
        found, start = np.zeros((self.width, targets.shape[1])), 0
        for block in self.blocks():
            found += block.T @ targets[start : start + len(block)]
            start += len(block)
        return vectors.T @ found

    @cached_property
    def _decomposed(self) -> tuple[Array, Array]:
        eigenvalues, vectors = np.linalg.eigh(self.gram())
        # A mean that rounds leaves constant features a remainder, so the offset's size counts as well.
        size = max(eigenvalues[-1], np.finfo(float).eps * len(self) ** 2 * float(self.offset @ self.offset))
        kept = eigenvalues > np.finfo(float).eps * max(self.features.shape) * size
        return eigenvalues[kept], vectors[:, kept]


def one_hot(labels: Array) -> Array:
    """Float64 (samples, classes that occur); of labels that are columns already those that are not 0 throughout."""
    if labels.ndim == 2:
        return labels[:, (labels != 0).any(0)].astype(np.float64)
    return (labels[:, None] == np.unique(labels)).astype(np.float64)
