"""The best row's model, saved whole with the evidence for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from bequest.comparison.ended import network_of
from bequest.comparison.entries import Entry
from bequest.comparison.folder import BEST
from bequest.comparison.setup import Setup
from bequest.core.results import Row, TrialRecord
from bequest.core.task import HashArray
from bequest.engine.adapted import AdaptedModel


def save_best(setup: Setup, trials: Sequence[TrialRecord], row: Row) -> None:
    """Make the median seed's network again from what it trained, and save it.

    Args:
        setup: Of the comparison.
        trials: All that have ended.
        row: The best.
    """
    task, seed = setup.context.task, row.median_seed
    assert seed is not None, "a row that is ranked has one"
    [trial] = [t for t in trials if (t.method, t.seed) == (row.method, seed)]
    record = {
        "method": row.method,
        "seed": seed,
        "settings": row.settings,
        "validation": row.validation.mean if row.validation else None,
        "test": row.test.mean if row.test else None,
        "task": task.name,
        "task_fingerprint": task.fingerprint,
        "evidence": _evidence(setup, row, trial),
    }
    network, learned = network_of(setup, row.method, seed), _learned(setup, setup.entry(row.method), seed)
    model = AdaptedModel(network, setup.context.source, task.classes, record, task.kind, learned)
    model.save(setup.folder.path / BEST)


def _learned(setup: Setup, entry: Entry, seed: int) -> HashArray:
    """Content hashes of the samples of whose labels a row's network knows, those of its ancestors among them."""
    networks = (setup.context.source, *(() if entry.teaching is None else entry.teaching.teachers))
    own = setup.context.task.hashes[setup.draws[seed][0].labelled]
    return np.unique(np.concatenate([own, *(n.learned for n in networks if n.learned is not None)]), axis=0)


def _evidence(setup: Setup, row: Row, trial: TrialRecord) -> dict[str, Any]:
    """What the model card tells of a row and its median seed; no times, so that a model is the same made twice."""
    return {
        "metric": row.metric,
        "validation": row.validation and asdict(row.validation),
        "test": row.test and asdict(row.test),
        "own_test": trial.test,
        "metrics": {name: asdict(found) for name, found in row.metrics.items()},
        "by_class": trial.by_class,
        "groups": {name: found.score for name, found in trial.groups.items()},
        "labels": trial.labels,
        "validation_labels": len(setup.draws[trial.seed][0].held_out),
        "tested": len(setup.tested),
        **({} if setup.protocol.folds is None else {"folds": setup.protocol.folds}),
        "trainable_parameters": trial.trainable_parameters,
        "rivals": len(setup.entries) - 1,
        **({"tuning": setup.tuning[row.method]} if row.method in setup.tuning else {}),
        "environment": setup.environment,
    }
