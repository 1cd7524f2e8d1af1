"""From leaderboards at several numbers of labels to learning curves, and where they cross."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise

import numpy as np

from bequest.core.intervals import t_interval
from bequest.core.learning_curves import Crossing, Curve, CurvePoint, LearningCurves, Winner
from bequest.core.results import Leaderboard

_STEPS = 400
"""From the fewest labels to the most, where intervals are looked at."""


def learning_curves(boards: Mapping[int, Leaderboard], *, nested: bool) -> LearningCurves | None:
    """The curves of all methods; None where none ended well.

    Args:
        boards: By number of labels: the same methods, seeds and test part.
        nested: Whether with every seed each set of labels lies within the next larger one.
    """
    sizes = sorted(boards)
    rows = [row for row in boards[sizes[-1]].judged() if any(boards[size].tested(row.method) for size in sizes)]
    if not rows:
        return None
    curves = [_curve(boards, sizes, row.method) for row in rows]
    sign = 1 if rows[0].higher_is_better else -1
    crossings = [c for one, other in combinations(curves, 2) for c in crossings_of(one, other, sign)]
    return LearningCurves(
        metric=rows[0].metric,
        higher_is_better=rows[0].higher_is_better,
        sizes=sizes,
        nested=nested,
        curves=curves,
        winners=[winner for size in sizes if (winner := _winner(size, boards[size])) is not None],
        crossings=sorted(crossings, key=lambda crossing: crossing.labels),
    )


def crossings_of(one: Curve, other: Curve, sign: int = 1) -> list[Crossing]:
    """Where the means of two curves change places, fewest labels first.

    Between two numbers of labels each seed's difference is interpolated over the logarithm. A crossing's interval is
    where the t-interval of these differences, at 95 % over the seeds, holds zero: with so many labels the two are not
    told apart.

    Args:
        one: A curve.
        other: Another one; sizes and seeds that only one of them has are left out.
        sign: 1 where higher is better, else −1.
    """
    points = [(p, q) for p in one.points for q in other.points if p.labels == q.labels]
    seeds = sorted(set.intersection(*(set(p.seeds) & set(q.seeds) for p, q in points))) if points else []
    if not seeds:
        return []
    logs = np.log([p.labels for p, _ in points])
    leads = np.array([[sign * (_value(p, seed) - _value(q, seed)) for p, q in points] for seed in seeds])
    means = leads.mean(0)
    changes = [(i, j) for i, j in pairwise(np.flatnonzero(means)) if means[i] * means[j] < 0]
    places = [logs[i] + (logs[j] - logs[i]) * abs(means[i]) / (abs(means[i]) + abs(means[j])) for i, j in changes]
    found: list[Crossing] = []
    for (i, _), before, at, after in zip(changes, [logs[0], *places], places, [*places[1:], logs[-1]], strict=False):
        side = 1 if means[i] > 0 else -1
        names = (one.method, other.method) if side > 0 else (other.method, one.method)
        low, high = _told(leads, logs, at, before, side), _told(leads, logs, at, after, -side)
        found.append(Crossing(*names, math.exp(at), low, high))
    return found


def _told(leads: np.ndarray, logs: np.ndarray, at: float, end: float, side: int) -> float | None:
    """The number of labels nearest to a crossing, on the way to the next, where the lead is told to be on its side."""
    for x in np.linspace(at, end, _STEPS):
        bounds = t_interval([side * float(np.interp(x, logs, lead)) for lead in leads])
        if bounds is not None and bounds[0] > 0:
            return math.exp(x)
    return None


def _curve(boards: Mapping[int, Leaderboard], sizes: Sequence[int], method: str) -> Curve:
    points: list[CurvePoint] = []
    for size in sizes:
        tested = boards[size].tested(method)
        if tested:
            values = list(tested.values())
            low, high = t_interval(values) or (None, None)
            points.append(CurvePoint(size, statistics.mean(values), low, high, list(tested), values))
    return Curve(method, points)


def _winner(size: int, board: Leaderboard) -> Winner | None:
    if board.best is None:
        return None
    others = [row for row in board.rows if row.validation is not None and row is not board.best]
    alike = [r.method for r in others if r.versus_best is None or r.versus_best.indistinguishable]
    return Winner(size, board.best.method, alike)


def _value(point: CurvePoint, seed: int) -> float:
    return point.values[point.seeds.index(seed)]
