"""What a record keeps of test outputs: counts of classes, and pairs of true and predicted values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

_MAX_SCATTER = 500
"""Test samples of a regression whose predictions are kept in the record."""


def mean(values: Sequence[Any]) -> Any:
    """The mean; of one value itself, and None where one is."""
    return None if any(value is None for value in values) else sum(values) / len(values)


def scatter(outputs: torch.Tensor, labels: torch.Tensor) -> list[list[list[float]]]:
    """True and predicted values, of test samples at even steps where there are many."""
    chosen = np.linspace(0, len(labels) - 1, min(len(labels), _MAX_SCATTER)).round().astype(np.int64)
    pairs = torch.stack([labels, outputs], 2)[torch.from_numpy(chosen)]
    return [[[float(f"{value:.6g}") for value in pair] for pair in sample] for sample in pairs.tolist()]


def by_class(true: torch.Tensor, taken: torch.Tensor) -> list[list[int]]:
    """Of each class how many samples are right, belong to it and are taken for it (bool (samples, classes))."""
    return torch.stack([(true & taken).sum(0), true.sum(0), taken.sum(0)], 1).tolist()


def confusion(outputs: torch.Tensor, labels: torch.Tensor) -> list[list[int]]:
    """Samples by true class (rows) and largest output."""
    classes = outputs.shape[1]
    pairs = labels * classes + outputs.argmax(1)
    return torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes).tolist()
