"""Cross-validation in the place of one test part: every sample is tested on by a network that has not seen it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killing import without_timings

import bequest
from bequest.comparison import ranks
from bequest.comparison.folder import RunFolder
from bequest.core.errors import DataError, MethodError
from bequest.core.observe import Silent
from bequest.core.registry import get_method
from bequest.engine.context import Context
from bequest.engine.run import run
from bequest.engine.runtime import choose_runtime
from bequest.engine.store import Store
from bequest.nn.objectives import OBJECTIVES

SETTINGS = {"full": {"epochs": 2, "learning_rate": 1e-3}}


def compare(tiny_sources: Any, tiny_tasks: Any, out: Path, **changes: Any) -> bequest.Run:
    own = {"settings": SETTINGS, "seeds": 2, "folds": 3, "progress": False, "cache": out.parent / "cache"}
    methods = ["linear_probe", "full"]
    return bequest.compare(tiny_tasks["text"], tiny_sources["text"], methods, out=out, **{**own, **changes})


def test_each_sample_is_scored_by_the_network_trained_without_its_fold(
    tiny_sources: Any, tiny_tasks: Any, tmp_path: Path
) -> None:
    task, source = tiny_tasks["text"], tiny_sources["text"]
    done = compare(tiny_sources, tiny_tasks, tmp_path / "run")
    assert done.board.protocol["folds"] == 3 and done.board.protocol["test"] == len(task.labels)
    context = Context(source, task, Store(tmp_path / "other"), choose_runtime("auto"), Silent())
    for trial in done.board.trials:
        outputs, indices = RunFolder(done.folder).test_outputs(trial.method, trial.seed)
        assert sorted(indices) == list(range(len(task.labels)))
        labels = torch.from_numpy(task.labels[indices])
        assert OBJECTIVES[task.kind].score(outputs, labels) == pytest.approx(trial.test)
        assert np.sum(trial.confusion) == len(task.labels)
        validated = []
        for draw in task.folds(trial.seed, 3):
            method: Any = get_method(trial.method).build(SETTINGS.get(trial.method, {}))
            alone = run(context, method, draw, seed=trial.seed)
            place = {index: row for row, index in enumerate(indices.tolist())}
            torch.testing.assert_close(outputs[[place[i] for i in draw.test.tolist()]], alone.test)
            validated.append(context.objective.score(alone.validation, context.labels(draw.ranking)))
        assert trial.validation == pytest.approx(np.mean(validated))
    assert all(row.test.seeds == 2 for row in done.board.rows if row.test), "a seed is one figure, not one a fold"
    assert done.board.rows[1].versus_best is not None
    assert done.board.rows[1].versus_best.samples == len(task.labels)
    assert done.predict(["goal ball the team"])[0].label in task.classes
    assert "samples in 3 folds" in (done.folder / "best" / "README.md").read_text()


def test_a_fold_in_training_is_sealed_and_no_other(
    tiny_sources: Any, tiny_tasks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tiny_tasks["text"]

    def peeking(context: Context, method: Any, draw: Any, **options: Any) -> Any:
        with pytest.raises(MethodError, match=f"The labels of {len(draw.test)} test samples were asked for"):
            context.labels(draw.test)
        assert (context.labels(draw.labelled).numpy() == task.labels[draw.labelled]).all()
        return run(context, method, draw, **options)

    monkeypatch.setattr(ranks, "run", peeking)
    assert len(compare(tiny_sources, tiny_tasks, tmp_path / "run", seeds=1).board.trials) == 2


def test_a_fold_that_fails_leaves_its_best_weights_with_the_trial(
    tiny_sources: Any, tiny_tasks: Any, tmp_path: Path
) -> None:
    settings = {"full": {"learning_rate": 1e30}}
    run = compare(tiny_sources, tiny_tasks, tmp_path / "run", seeds=1, settings=settings)
    [failed] = [trial for trial in run.board.trials if trial.error]
    assert failed.error and failed.error.endswith("The weights kept: trials/full/seed0/last_good.safetensors.")
    assert (run.folder / "trials/full/seed0/last_good.safetensors").is_file()


def test_a_stopped_cross_validation_goes_on_and_ends_the_same(
    tiny_sources: Any, tiny_tasks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = compare(tiny_sources, tiny_tasks, tmp_path / "whole", cache=tmp_path / "a")
    trained = []

    def stopping(*args: Any, **options: Any) -> Any:
        trained.append(options["seed"])
        if len(trained) == 5:
            raise KeyboardInterrupt
        return run(*args, **options)

    monkeypatch.setattr(ranks, "run", stopping)
    with pytest.raises(KeyboardInterrupt):
        compare(tiny_sources, tiny_tasks, tmp_path / "stopped", cache=tmp_path / "b")
    monkeypatch.setattr(ranks, "run", run)
    stopped = compare(tiny_sources, tiny_tasks, tmp_path / "stopped", cache=tmp_path / "b")
    assert without_timings(stopped.board.to_json()) == without_timings(whole.board.to_json())
    assert not list(stopped.folder.rglob("fold*")), "nothing is left of single folds"


def test_a_run_with_folds_is_replayed(tmp_path: Path) -> None:
    table = tmp_path / "words.csv"
    rows = [f"{word} number {i},{label}" for i in range(12) for word, label in (("goal", "sport"), ("soup", "food"))]
    table.write_text("text,label\n" + "\n".join(rows))
    run = bequest.compare(
        table, "minilm_l3", ["linear_probe"], seeds=1, folds=2, max_tokens=8, out=tmp_path / "run", progress=False
    )
    again = bequest.replay(run.folder, out=tmp_path / "again")
    assert again.board.protocol == run.board.protocol and again.board.rows[0].test == run.board.rows[0].test


def test_learning_curves_with_folds(tiny_sources: Any, tiny_tasks: Any, tmp_path: Path) -> None:
    board = compare(tiny_sources, tiny_tasks, tmp_path / "run", train_sizes=[20, 40]).board
    assert board.learning_curves is not None
    assert {point.labels for curve in board.learning_curves.curves for point in curve.points} == {20, 40}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"folds": 1}, "--folds is 1; expected a whole number, 2 or more"),
        ({"tune": 3}, "--folds is given with --tune or --budget"),
        ({"test_size": 30}, "--folds and --test-size 30 are both given"),
        ({"folds": 60}, "Too few samples for 60 folds"),
    ],
)
def test_what_does_not_go_together(
    tiny_sources: Any, tiny_tasks: Any, tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(DataError, match=expected):
        compare(tiny_sources, tiny_tasks, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()
