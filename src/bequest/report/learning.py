"""Learning curves over the number of labels, in words and as a table."""

from __future__ import annotations

from typing import Any

from bequest.core.learning_curves import Crossing, CurvePoint, LearningCurves
from bequest.core.results import Leaderboard
from bequest.report import canvas, learning_plots, units

_MOST_NAMED = 4


def in_words(board: Leaderboard) -> list[str]:
    """Which method is best at which number of labels, and who overtakes whom; none without learning curves."""
    found = board.learning_curves
    if found is None:
        return []
    return [_winners(found), *_crossings(found)]


def section(board: Leaderboard) -> dict[str, Any] | None:
    """What the report shows of them; None where there are none."""
    found = board.learning_curves
    if found is None:
        return None
    best = {winner.labels: winner.method for winner in found.winners}
    return {
        "told": in_words(board),
        "note": _note(found),
        "plot": {size.name: learning_plots.learning_curves(board, size) for size in (canvas.WIDE, canvas.NARROW)},
        "sizes": [units.count(size) for size in found.sizes],
        "rows": [
            {
                "method": curve.method,
                "cells": [
                    _cell(_at(curve.points, size), found, best.get(size) == curve.method) for size in found.sizes
                ],
            }
            for curve in found.curves
        ],
    }


def _winners(found: LearningCurves) -> str:
    """One clause for each stretch of numbers at which one method is the best."""
    clauses: list[str] = []
    for i, winner in enumerate(found.winners):
        if i and found.winners[i - 1].method == winner.method:
            continue
        same = [w.labels for w in found.winners[i:]]
        last = next((j for j, w in enumerate(found.winners[i:]) if w.method != winner.method), len(same))
        stretch = f"{same[0]:,}" if last == 1 else f"{same[0]:,} to {same[last - 1]:,}"
        clauses.append(f"{winner.method} with {stretch} labels ({_scores(found, winner.method, same[:last])})")
    open_at = [f"{winner.labels:,}" for winner in found.winners if winner.alike]
    text = f"Best by the held-out labels: {'; '.join(clauses)}."
    if open_at:
        text += f" With {' or '.join(open_at)} labels the test part does not tell the best from every other method."
    return text


def _scores(found: LearningCurves, method: str, sizes: list[int]) -> str:
    points = next(curve.points for curve in found.curves if curve.method == method)
    ends = dict.fromkeys((sizes[0], sizes[-1]))
    values = [units.score(point.mean, found.metric) for size in ends if (point := _at(points, size)) is not None]
    return f"test {units.metric_name(found.metric)} {' to '.join(values)}"


def _crossings(found: LearningCurves) -> list[str]:
    told = [_crossing(crossing) for crossing in found.crossings if crossing.is_told]
    rest = [crossing for crossing in found.crossings if not crossing.is_told]
    named = ", ".join(f"{c.ahead} over {c.behind} at about {units.rough(c.labels)}" for c in rest[:_MOST_NAMED])
    more = f" and {len(rest) - _MOST_NAMED} more" if len(rest) > _MOST_NAMED else ""
    untold = f"Where means cross, but the two are not told apart on both sides: {named}{more}."
    return [*told, *([untold] if rest else [])]


def _crossing(crossing: Crossing) -> str:
    assert crossing.low is not None and crossing.high is not None, "only what is told is said"
    return (
        f"{crossing.ahead} overtakes {crossing.behind} at about {units.rough(crossing.labels)} labels (95 % interval "
        f"from {units.rough(crossing.low)} to {units.rough(crossing.high)})."
    )


def _note(found: LearningCurves) -> str:
    parts = [f"Test {units.metric_name(found.metric)} over the number of labels, the test part the same throughout."]
    if any(point.low is not None for curve in found.curves for point in curve.points):
        parts.append("Bands are t-intervals at 95 % over the seeds.")
    if any(crossing.is_told for crossing in found.crossings):
        parts.append("Rings mark where one method overtakes another, with the 95 % interval.")
    if found.nested:
        parts.append("With each seed every smaller set of labels lies within the next larger one.")
    else:
        parts.append("The smaller sets of labels do not wholly lie within the larger ones.")
    return " ".join(parts)


def _cell(point: CurvePoint | None, found: LearningCurves, best: bool) -> dict[str, Any]:
    if point is None:
        return {"score": units.NONE, "range": "", "best": False}
    span = ""
    if point.low is not None and point.high is not None:
        span = "± " + units.spread(0, (point.high - point.low) / 2, found.metric).partition("± ")[2]
    return {"score": units.score(point.mean, found.metric), "range": span, "best": best}


def _at(points: list[CurvePoint], labels: int) -> CurvePoint | None:
    return next((point for point in points if point.labels == labels), None)
