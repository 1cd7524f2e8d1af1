"""Precision, recall and F1 of each class, from the counts that trials keep."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from bequest.core.per_class import class_scores
from bequest.core.results import Interval, Leaderboard
from bequest.report import units

METRICS = ("precision", "recall", "F1")


def table(board: Leaderboard) -> dict[str, Any] | None:
    """The best method's metrics of each class, means over its seeds; None where there are no classes.

    Returns:
        `method`, and `rows` with a class's `name`, its test samples as `count`, its `cells` as texts, and `order`, what
        the table can be sorted by.
    """
    best = board.best
    counts = [t.by_class for t in board.trials if best and t.method == best.method and t.by_class]
    if best is None or not counts:
        return None
    names = [str(name) for name in board.task.get("classes") or ()]
    rows = [
        _row(names[i] if i < len(names) else f"class {i + 1}", of_class)
        for i, of_class in enumerate(zip(*counts, strict=True))
    ]
    return {"method": best.method, "seeds": len(counts), "rows": rows}


def _row(name: str, counts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """One class, of its counts at each seed."""
    samples = counts[0][1]
    columns = zip(*(class_scores(*seed) for seed in counts), strict=True)
    found = dict(zip(METRICS, map(_interval, columns), strict=True))
    return {
        "name": name,
        "count": units.count(samples),
        # Of every class a share, so that it is shown as an accuracy is.
        "cells": {metric: units.mean_sem(interval, "accuracy") for metric, interval in found.items()},
        "order": {"class": name, "count": samples, **{k: v and v.mean for k, v in found.items()}},
    }


def _interval(values: Sequence[float | None]) -> Interval | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    sem = statistics.stdev(known) / math.sqrt(len(known)) if len(known) > 1 else None
    return Interval(statistics.mean(known), sem, len(known), known)
