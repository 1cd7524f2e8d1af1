"""Multi-label and regression tasks, from samples to report and predictions."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from sklearn.linear_model import LogisticRegressionCV, RidgeCV
from sklearn.metrics import f1_score, r2_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import bequest
from bequest.core.errors import RunError
from bequest.core.observe import Silent
from bequest.core.per_class import class_scores
from bequest.core.registry import get_method
from bequest.engine.features import embeddings, encoded, forward
from bequest.engine.run import make_plan, restore, run

KINDS = ("multi-label", "regression")
METRICS = {"multi-label": "macro-F1", "regression": "R²"}
QUICK = {"epochs": 6, "batch_size": 8, "patience": 0}


@pytest.fixture(scope="module", params=KINDS)
def finished(request: Any, tiny_sources: Any, tiny_tasks: Any, tmp_path_factory: Any) -> tuple[Any, bequest.Run]:
    folder, task = tmp_path_factory.mktemp("kinds"), tiny_tasks[request.param]
    random = {**QUICK, "head_init": "random", "learning_rate": 1e-3, "head_learning_rate": 1e-2}
    run = bequest.compare(
        task,
        tiny_sources["image"],
        ["linear_probe", "full"],
        settings={"full": random},
        seeds=2,
        train_size=60,
        test_size=30,
        out=folder / "run",
        cache=folder / "cache",
        progress=False,
    )
    return task, run


def test_records(finished: tuple[Any, bequest.Run]) -> None:
    task, run = finished
    assert {row.metric for row in run.board.rows} == {METRICS[task.kind]}
    assert run.board.task["kind"] == task.kind
    for trial in run.board.trials:
        assert trial.error is None and not trial.confusion
        assert bool(trial.by_class) == (task.kind == "multi-label")
        if trial.by_class:
            assert np.mean([class_scores(*counts)[2] or 0 for counts in trial.by_class]) == pytest.approx(trial.test)
        assert bool(trial.scatter) == ("RMSE" in trial.metrics) == (task.kind == "regression")
        assert ("AUROC" in trial.metrics) == (task.kind == "multi-label")
    for row in run.board.rows:
        assert row.test is not None and row.test.mean > 0.3, f"{row.method} learned nothing"
    again = type(run.board).from_json(run.board.to_json())
    assert again == run.board


def test_scores_that_are_no_numbers_end_the_trial(tiny_sources: Any, tmp_path: Path) -> None:
    """Values whose squares are beyond float32: an error in the row, and the other methods are tried."""
    task = tiny.values_task()
    huge = replace(task, labels=(task.labels / np.abs(task.labels).max() * 3e38).astype(task.labels.dtype))
    told: list[str] = []

    class Told(Silent):
        def trial(self, record: Any, board: Any) -> None:
            told.append(f"{record.method}: {record.error}")

    with pytest.raises(RunError):
        places = {"out": tmp_path / "run", "cache": tmp_path / "cache", "observer": Told()}
        methods = ["linear_probe", "full"]
        bequest.compare(huge, tiny_sources["image"], methods, seeds=1, train_size=60, test_size=30, **places)
    assert [line.partition(":")[0] for line in told] == ["linear_probe", "full"]
    assert "linear_probe: The scores are no finite numbers (" in told[0] and "in another unit" in told[0]


def test_outputs_that_are_no_numbers_end_the_trial(tmp_path: Path) -> None:
    """A cell that float64 holds and float32 does not, in the test part: no further metric is asked of it."""
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    cells = rng.normal(size=(90, 4)) + labels[:, None]
    draw = bequest.task_from_arrays(cells, labels.tolist()).draw(0, train_size=40, test_size=30)
    cells[draw.test[0], 0] = 1e39
    settings: dict[str, Any] = {"seeds": 1, "train_size": 40, "test_size": 30, "progress": False}
    places = {"out": tmp_path / "run", "cache": tmp_path / "cache"}
    network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 3))
    with pytest.raises(RunError, match="no finite numbers"):
        bequest.compare((cells, labels), network, ["linear_probe"], **settings, **places)


def test_training_helps(finished: tuple[Any, bequest.Run]) -> None:
    _, run = finished
    for trial in run.board.trials:
        if trial.epochs:
            assert trial.epochs[-1].validation_loss < 0.9 * trial.epochs[0].validation_loss


def test_report_and_table(finished: tuple[Any, bequest.Run]) -> None:
    from rich.console import Console

    from bequest.ui.terminal import leaderboard_table

    task, run = finished
    html = run.report.read_text()
    assert METRICS[task.kind] in html and "accuracy" not in html and "Most often confused" not in html
    assert all(name in html for name in task.classes)
    assert ("Predicted against true" in html) == (task.kind == "regression")
    assert ("Class by class" in html) == (task.kind == "multi-label")
    console = Console(width=200, record=True, quiet=True)
    console.print(leaderboard_table(run.board))


def test_best_predicts_in_the_tasks_units(finished: tuple[Any, bequest.Run]) -> None:
    task, run = finished
    best = run.board.best
    assert best is not None and best.median_seed is not None
    draw = task.draw(best.median_seed, train_size=60, test_size=30)
    predictions = bequest.load(run.folder, source=run._source).predict([task.samples[i] for i in draw.test])
    truth = task.labels[draw.test]
    if task.kind == "regression":
        score = r2_score(truth, [[p.values[name] for name in task.classes] for p in predictions])
    else:
        taken = np.array([[name in p.labels for name in task.classes] for p in predictions])
        score = f1_score(truth, taken, average="macro", zero_division=0)
        assert all(set(p.probabilities) == set(task.classes) for p in predictions)
    [trial] = [t for t in run.board.trials if (t.method, t.seed) == (best.method, best.median_seed)]
    assert score == pytest.approx(trial.test, abs=1e-3)


def test_probe_reaches_scikit_learn(context_of: Callable[..., Any]) -> None:
    for kind in KINDS:
        context = context_of(kind)
        draw = context.task.draw(0, train_size=60, test_size=30)
        outcome = run(context, get_method("linear_probe").build({}), draw, seed=0)
        ours = context.objective.score(outcome.test, context.labels(draw.test))
        x, held = (embeddings(context, part).stack() for part in (draw.labelled, draw.test))
        y = context.task.labels[draw.labelled]
        if kind == "regression":
            peer = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-4, 3, 20))).fit(x, y)
            theirs = r2_score(context.task.labels[draw.test], peer.predict(held))
        else:
            one = LogisticRegressionCV(Cs=11, scoring="f1", max_iter=2000, l1_ratios=(0,), use_legacy_attributes=False)
            peer = make_pipeline(StandardScaler(), OneVsRestClassifier(one)).fit(x, y)
            theirs = f1_score(context.task.labels[draw.test], peer.predict(held), average="macro", zero_division=0)
        assert ours >= theirs - 0.01, (kind, ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head_init", ["solved", "random"])
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_full_restores_and_repeats(context_of: Callable[..., Any], kind: str, head_init: str, head: str) -> None:
    context = context_of(kind)
    method = get_method("full").build({**QUICK, "epochs": 2, "head_init": head_init, "head": head})
    draw = context.task.draw(0, train_size=40, test_size=30)
    outcome, again = (run(context, method, draw, seed=0) for _ in range(2))
    assert torch.equal(outcome.test, again.test)
    network = restore(make_plan(context, method, 0), outcome.trained, outcome.head)
    plain = forward(context, network, encoded(context, draw.test))
    torch.testing.assert_close(plain, outcome.test, rtol=1e-4, atol=1e-3)


def test_a_label_that_no_training_sample_carries(tiny_sources: Any, tiny_tasks: Any, context_of: Any) -> None:
    from dataclasses import replace

    context = context_of("multi-label")
    labels = np.concatenate([context.task.labels, np.zeros((90, 1), np.float32), np.ones((90, 1), np.float32)], 1)
    context.task = replace(context.task, labels=labels, classes=(*context.task.classes, "never", "always"))
    draw = context.task.draw(0, train_size=40, test_size=30)
    for name in ("linear_probe", "full"):
        settings = QUICK if name == "full" else {}
        outcome = run(context, get_method(name).build(settings), draw, seed=0)
        assert bool(outcome.test.isfinite().all())
        assert bool((outcome.test[:, 3] < 0).all()) and bool((outcome.test[:, 4] > 0).all())


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from bequest import api
    from bequest.cli.main import main
    from bequest.engine import adapted

    class Model:
        source = argparse.Namespace(modality="text")

        def __init__(self, prediction: Any) -> None:
            self.prediction = prediction

        def predict(self, samples: list[Any], batch_size: int = 32) -> list[Any]:
            return [self.prediction for _ in samples]

    file = tmp_path / "a.txt"
    file.write_text("words")
    cases = [
        (adapted.Prediction("yes", 0.9, {"yes": 0.9, "no": 0.1}), "yes\t0.900\t"),
        (adapted.LabelsPrediction(["a", "b"], {"a": 0.9, "b": 0.6}), "a 0.900, b 0.600\t"),
        (adapted.LabelsPrediction([], {"a": 0.1}), "none\t"),
        (adapted.ValuesPrediction({"price": 1234.5, "area": 0.25}), "price=1234.5\tarea=0.25\t"),
    ]
    for prediction, expected in cases:
        monkeypatch.setattr(api.predictions, "load", lambda folder, p=prediction, **_: Model(p))
        main(["predict", "run", str(file), "--quiet"])
        assert capsys.readouterr().out == expected + f"{file}\n"
