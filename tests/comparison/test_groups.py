"""Accuracy by group, the worst of it, and rows ranked by it."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killing import without_timings

import bequest
from bequest.comparison.groups import check_select_by, group_scores, worst
from bequest.core.errors import DataError
from bequest.core.results import GroupScore, Leaderboard
from bequest.core.task import Task


def grouped(task: Task, attributes: tuple[str, ...] = ("blue", "red")) -> Task:
    """The task with an attribute for each sample, in every class rarer from the first to the last."""
    chosen = np.random.default_rng(1).choice(len(attributes), len(task.labels), p=[0.7, 0.3])
    return replace(task, groups=chosen.astype(np.int64), group_names=attributes)


def compare(tiny_sources: Any, task: Task, out: Path, **changes: Any) -> bequest.Run:
    arguments = {
        "methods": ["linear_probe", "full"],
        "settings": {"full": {"epochs": 2, "learning_rate": 1e-3}},
        "seeds": 2,
        "train_size": 45,
        "test_size": 30,
        "out": out,
        "progress": False,
        "cache": out.parent / "cache",
        **changes,
    }
    return bequest.compare(task, tiny_sources["text"], **arguments)


def test_scores_are_those_of_a_count_by_hand(tiny_tasks: Any) -> None:
    task, rng = grouped(tiny_tasks["text"]), np.random.default_rng(0)
    indices = rng.permutation(90)[:40].astype(np.int64)
    outputs = torch.from_numpy(rng.normal(size=(40, 3)))
    right: dict[str, list[bool]] = defaultdict(list)
    for i, row in zip(indices, outputs.tolist(), strict=True):
        name = f"{task.classes[task.labels[i]]} / {task.group_names[task.groups[i]]}"
        right[name].append(row.index(max(row)) == task.labels[i])
    found = group_scores(task, indices, outputs)
    assert found == {name: GroupScore(sum(hits) / len(hits), len(hits)) for name, hits in right.items()}
    assert list(found) == sorted(found), "in the order of the classes"
    assert worst(found) == min(sum(hits) / len(hits) for hits in right.values())


def test_groups_without_samples_in_the_part_do_not_count(tiny_tasks: Any) -> None:
    task = grouped(tiny_tasks["text"])
    [only] = np.flatnonzero(task.strata == 2)[:1]
    found = group_scores(task, np.array([only]), torch.eye(3)[task.labels[[only]]])
    assert list(found.values()) == [GroupScore(1.0, 1)]
    assert worst({}) is None


def test_no_groups_no_scores(tiny_tasks: Any) -> None:
    assert group_scores(tiny_tasks["text"], np.arange(5), torch.zeros(5, 3)) == {}
    numbers = replace(tiny_tasks["regression"], groups=np.arange(90) % 2)
    assert group_scores(numbers, np.arange(5), torch.zeros(5, 2)) == {}


def test_criteria_that_cannot_rank_are_refused(tiny_tasks: Any) -> None:
    assert check_select_by("worst-group", grouped(tiny_tasks["text"])) == "worst-group"
    assert check_select_by("metric", tiny_tasks["text"]) == "metric"
    with pytest.raises(DataError, match=r"--select-by is 'group'; expected metric or worst-group\."):
        check_select_by("group", grouped(tiny_tasks["text"]))
    with pytest.raises(DataError, match=r"'tiny texts' has none; expected a table with a column .* --group-column"):
        check_select_by("worst-group", tiny_tasks["text"])
    for kind in ("regression", "multi-label"):
        numbers = replace(tiny_tasks[kind], groups=np.arange(90) % 2)
        with pytest.raises(DataError, match=rf"is a {kind} task; expected a classification\. Leave it out\."):
            check_select_by("worst-group", numbers)


def test_refused_before_anything_is_written(tiny_sources: Any, tiny_tasks: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has none; expected"):
        compare(tiny_sources, tiny_tasks["text"], tmp_path / "run", select_by="worst-group")
    assert not (tmp_path / "run").exists()


def test_records_of_trials_and_rows(tiny_sources: Any, tiny_tasks: Any, tmp_path: Path) -> None:
    task = grouped(tiny_tasks["text"])
    run = compare(tiny_sources, task, tmp_path / "run", methods=["full"])
    [row], trials = run.board.rows, run.board.trials
    for trial in trials:
        draw = task.draw(trial.seed, train_size=45, test_size=30)
        counts = np.bincount(task.strata[draw.test], minlength=6)
        assert [found.samples for found in trial.groups.values()] == counts.tolist()
        assert sum(g.score * g.samples for g in trial.groups.values()) / 30 == pytest.approx(trial.test)
        assert trial.metrics["worst_group_accuracy"] == min(g.score for g in trial.groups.values())
        assert trial.validation_worst_group is not None and trial.validation is not None
        assert 0 <= trial.validation_worst_group <= trial.validation
    assert row.validation_worst_group is not None and row.metrics["worst_group_accuracy"].seeds == 2
    for name, found in row.groups.items():
        assert found.values == [t.groups[name].score for t in trials]
    assert row.median_seed is not None
    best = next(t for t in trials if t.seed == row.median_seed)
    draw = task.draw(row.median_seed, train_size=45, test_size=30)
    predicted = [p.label for p in run.best.predict([task.samples[i] for i in draw.test])]
    right = np.array([p == task.classes[task.labels[i]] for p, i in zip(predicted, draw.test, strict=True)])
    by_group = [right[task.strata[draw.test] == g].mean() for g in range(6)]
    assert [g.score for g in best.groups.values()] == pytest.approx(by_group), "the saved model's own"
    assert run.board.task["groups"] == list(task.grouping.names)
    assert Leaderboard.from_json(json.loads((run.folder / "leaderboard.json").read_text())) == run.board


def test_another_criterion_ranks_anew_without_training(tiny_sources: Any, tiny_tasks: Any, tmp_path: Path) -> None:
    task = grouped(tiny_tasks["text"])
    first = compare(tiny_sources, task, tmp_path / "run")
    assert first.board.protocol["ranking"].startswith("by the mean metric on held-out labels")
    second = compare(tiny_sources, task, tmp_path / "run", select_by="worst-group")
    assert second.board.trials == first.board.trials, "to the second of training time"
    assert second.board.protocol["select_by"] == "worst-group"
    assert second.board.protocol["ranking"].startswith("by the mean worst-group accuracy on held-out labels")
    for board in (first.board, second.board):
        best, row = board.judged()
        assert best.test is not None and row.test is not None and row.versus_best is not None
        assert row.versus_best.difference == pytest.approx(row.test.mean - best.test.mean)
    scores = [r.validation_worst_group.mean for r in second.board.rows if r.validation_worst_group]
    assert len(scores) == 2 and scores == sorted(scores, reverse=True)


def test_a_run_without_groups_has_nothing_of_them(tiny_sources: Any, tiny_tasks: Any, tmp_path: Path) -> None:
    run = compare(tiny_sources, tiny_tasks["text"], tmp_path / "run", methods=["linear_probe"], settings={}, seeds=1)
    [row] = run.board.rows
    assert "worst_group_accuracy" not in row.metrics
    assert (row.validation_worst_group, row.groups) == (None, {})
    assert "groups" not in run.board.task
    assert "by group" not in run.report.read_text()


def test_a_regression_with_groups_is_one_without_group_scores(
    tiny_sources: Any, tiny_tasks: Any, tmp_path: Path
) -> None:
    out, numbers = tmp_path / "run", replace(tiny_tasks["regression"], groups=np.arange(90) % 2)
    plain, told = (
        bequest.compare(t, tiny_sources["image"], ["linear_probe"], seeds=1, out=out / name, progress=False)
        for t, name in ((tiny_tasks["regression"], "a"), (numbers, "b"))
    )
    assert without_timings(told.board.to_json())["rows"] == without_timings(plain.board.to_json())["rows"]
