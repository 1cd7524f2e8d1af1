"""Precision, recall and F1 of one class."""

from __future__ import annotations


def class_scores(right: int, true: int, taken: int) -> tuple[float | None, float | None, float | None]:
    """Precision, recall and F1 of one class; None where nothing was taken for it, or nothing belongs to it.

    Args:
        right: Test samples that belong to it and were taken for it.
        true: That belong to it.
        taken: That were taken for it.
    """
    f1 = 2 * right / (true + taken) if true + taken else None
    return right / taken if taken else None, right / true if true else None, f1
