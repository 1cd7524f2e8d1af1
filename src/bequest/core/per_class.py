"""Precision, recall and F1 of one class."""

from __future__ import annotations

from collections.abc import Sequence


def class_scores(counts: Sequence[Sequence[int]], index: int) -> tuple[float | None, float | None, float | None]:
    """Precision, recall and F1 of one class; None where nothing was taken for it, or nothing belongs to it.

    Args:
        counts: Test samples (classes × classes), rows are true classes.
        index: Of the class.
    """
    right, true, taken = counts[index][index], sum(counts[index]), sum(row[index] for row in counts)
    f1 = 2 * right / (true + taken) if true + taken else None
    return right / taken if taken else None, right / true if true else None, f1
