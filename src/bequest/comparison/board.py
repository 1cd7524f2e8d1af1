"""From trials that have ended to a leaderboard."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bequest.comparison.describing import describe_source
from bequest.comparison.ended import Ended
from bequest.comparison.questions import answer
from bequest.comparison.setup import Setup
from bequest.comparison.significance import against_best, difference, pairs
from bequest.comparison.statistics import RANKING, make_row, rank
from bequest.core.questions import FULL
from bequest.core.results import Leaderboard, Row, TrialRecord


def leaderboard(setup: Setup, ended: Ended) -> Leaderboard:
    """Rows ranked by held-out labels, each against the best, and what they were made by."""
    by_method: dict[str, list[TrialRecord]] = {}
    for trial in ended.trials:
        by_method.setdefault(trial.method, []).append(trial)
    select_by = setup.protocol.select_by
    rows = rank([make_row(t, select_by) for t in by_method.values()], select_by)
    scores = ended.scores(select_by, [row.method for row in rows])
    metric = ended.scores("metric", setup.questioned)
    ahead = {name: difference(metric[FULL], own) for name, own in metric.items() if name != FULL}
    return Leaderboard(
        rows=[_with_tuning(row, setup.tuning.get(row.method)) for row in against_best(rows, scores)],
        task=setup.task,
        source=describe_source(setup.context.source),
        protocol=_protocol(setup),
        environment=setup.environment,
        passes={
            "asked": sum(trial.asked_samples for trial in ended.trials),
            "computed": sum(trial.frozen_samples for trial in ended.trials),
        },
        trials=list(ended.trials),
        differences=pairs(scores),
        questions=answer(ended.trials, setup.questioned, setup.context.objective, ahead),
    )


def _protocol(setup: Setup) -> dict[str, Any]:
    draw, protocol = setup.any_draw, setup.protocol
    found: dict[str, Any] = {
        "train_size": setup.num_labels,
        "train": len(draw.train),
        "validation": len(draw.validation),
        "selection": None if draw.selection is None else len(draw.selection),
        "test": len(setup.tested),
        **({} if protocol.folds is None else {"folds": protocol.folds}),
        "seeds": list(protocol.seeds),
        "split_seed": protocol.split_seed,
        "views": protocol.views.describe(),
        "select_by": protocol.select_by,
        "ranking": RANKING[protocol.select_by],
    }
    if setup.taught is not None:
        found["teacher"] = setup.taught.record
    if protocol.budget is not None:
        found["tuning"] = {
            "budget": protocol.budget.describe(),
            "seed": protocol.tuning_seed,
            "methods": setup.tuning,
        }
    return found


def _with_tuning(row: Row, found: dict[str, Any] | None) -> Row:
    """The row with a note of what its hyperparameters cost to choose."""
    if found is None:
        return row
    note = f"tuned over {found['tried']} settings, took {found['seconds']:.0f} s"
    return replace(row, notes=[note, *row.notes])
