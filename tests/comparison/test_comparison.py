"""Whole comparisons on tiny networks: what lies in the folder, resuming, replaying, refusing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from faulting import fault
from killing import without_timings

import bequest
from bequest.comparison import comparing
from bequest.comparison.folder import RunFolder
from bequest.core.errors import DataError, MethodError, RunError, SourceError
from bequest.core.observe import Silent
from bequest.core.results import Leaderboard
from bequest.nn.objectives import OBJECTIVES

SETTINGS = {"full": {"epochs": 2, "learning_rate": 1e-3}}
METHODS = ["linear_probe", "full"]


def compare(tiny_sources: Any, tiny_tasks: Any, out: Path, kind: str = "text", **changes: Any) -> bequest.Run:
    arguments = {
        "methods": METHODS,
        "settings": SETTINGS,
        "seeds": 2,
        "train_size": 40,
        "test_size": 30,
        "out": out,
        "progress": False,
        "cache": out.parent / "cache",
        **changes,
    }
    return bequest.compare(tiny_tasks[kind], tiny_sources[kind], **arguments)


def without_costs(board: Leaderboard) -> Any:
    """Everything that does not depend on the clock."""
    return without_timings(board.to_json())


@fault(
    "memory does not suffice for a frozen pass, a solver or an optimizer's step",
    happens="the trial ends with an error that says what takes less",
    outcome="all other trials finish",
)
def test_a_trial_that_memory_does_not_hold_ends_alone(
    tiny_sources: Any, tiny_tasks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy(*_: Any, **__: Any) -> None:
        torch.empty(10**15)

    monkeypatch.setattr("bequest.engine.run.fit", greedy)
    rows = {row.method: row for row in compare(tiny_sources, tiny_tasks, tmp_path / "run").board.rows}
    assert rows["linear_probe"].test is not None and rows["full"].test is None
    assert len(rows["full"].errors) == 2
    assert all("Memory did not suffice" in error and "Lower --batch-size" in error for error in rows["full"].errors)


def test_the_folder_holds_everything(tiny_sources: Any, tiny_tasks: Any, tmp_path: Path) -> None:
    run = compare(tiny_sources, tiny_tasks, tmp_path / "run")
    board = json.loads((run.folder / "leaderboard.json").read_text())
    assert {r["method"] for r in board["rows"]} == set(METHODS)
    for row in board["rows"]:
        assert set(row["test"]) == {"mean", "sem", "seeds", "values", "low", "high"} and row["test"]["seeds"] == 2
        assert row["trainable_parameters"] > 0 and row["stored_bytes"] > 0 and row["train_s"] > 0
        assert (row["optimizer_bytes"] > 0) == (row["epochs_planned"] > 0)
        assert row["inference_per_s"] > 0 and row["labels"] == 40
        assert 0 < row["latency_p50_ms"] <= row["latency_p95_ms"] and row["forward_flops"] > 0
        assert row["added_memory_bytes"] >= 0 and row["peak_memory_bytes"] == 0, "alone only if asked for"
        assert set(row["metrics"]) == {"macro-F1", "AUROC", "log-loss", "calibration error"}
    means = [r["validation"]["mean"] for r in board["rows"]]
    assert means == sorted(means, reverse=True)
    assert "<html" in run.report.read_text()
    assert {p.name for p in (run.folder / "best").iterdir()} >= {
        "README.md",
        "model.json",
        "model.safetensors",
        "tokenizer.json",
    }
    assert run.predict(["goal ball the team", "soup salt"])[0].label in ("sport", "food", "music")


def test_of_a_leaderboard_that_takes_long_few_are_made(
    tiny_sources: Any, tiny_tasks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def write_board(self: RunFolder, board: Leaderboard) -> None:
        written.append(len(board.trials))
        honest(self, board)

    honest = RunFolder.write_board
    monkeypatch.setattr(RunFolder, "write_board", write_board)
    compare(tiny_sources, tiny_tasks, tmp_path / "each", methods=["linear_probe"], settings={}, seeds=3)
    assert set(written) == {1, 2, 3}
    written.clear()
    monkeypatch.setattr(comparing, "_MOST_OF_THE_TIME", 1e-9)
    run = compare(tiny_sources, tiny_tasks, tmp_path / "few", methods=["linear_probe"], settings={}, seeds=3)
    assert set(written) == {1, 3} and len(run.board.trials) == 3


def test_a_lock_that_is_no_file_is_named(tiny_sources: Any, tiny_tasks: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run" / ".lock")
    with pytest.raises(RunError, match=r"\.lock is no file; expected one, or none\. Remove it\."):
        compare(tiny_sources, tiny_tasks, tmp_path / "run")


def test_the_best_model_scores_what_its_trial_scored(tiny_sources: Any, tiny_tasks: Any, tmp_path: Path) -> None:
    run = compare(tiny_sources, tiny_tasks, tmp_path / "run", methods=["full"])
    task = tiny_tasks["text"]
    seed = run.board.rows[0].median_seed
    draw = task.draw(seed, train_size=40, test_size=30)
    predicted = [p.label for p in run.best.predict([task.samples[i] for i in draw.test])]
    right = np.mean([p == task.classes[task.labels[i]] for p, i in zip(predicted, draw.test, strict=True)])
    [trial] = [t for t in run.board.trials if t.seed == seed]
    assert right == pytest.approx(trial.test)


@pytest.mark.parametrize("kind", ["text", "values"])
def test_each_trial_keeps_its_outputs_on_the_test_part(
    tiny_sources: Any, tiny_tasks: Any, tmp_path: Path, kind: str
) -> None:
    task = tiny.values_task() if kind == "values" else tiny_tasks[kind]
    source = tiny_sources["image" if kind == "values" else kind]
    arguments = {"seeds": 2, "train_size": 40, "test_size": 30, "progress": False, "cache": tmp_path / "cache"}
    run = bequest.compare(task, source, METHODS, settings=SETTINGS, out=tmp_path / "run", **arguments)
    folder = RunFolder(run.folder)
    for trial in run.board.trials:
        outputs, indices = folder.test_outputs(trial.method, trial.seed)
        assert outputs.dtype == torch.float32 and indices.tolist() == task.draw(0, test_size=30).test.tolist()
        labels = torch.from_numpy(task.labels[indices])
        assert OBJECTIVES[task.kind].score(outputs, labels) == pytest.approx(trial.test, abs=1e-6)
    file = folder.trial("full", 1) / "test_outputs.safetensors"
    shutil.copy(folder.trial("full", 0) / "test_outputs.safetensors", file)
    with pytest.raises(RunError, match=r"full/seed1/test_outputs\.safetensors was changed by hand"):
        folder.test_outputs("full", 1)


def test_every_method_sees_the_same_labels(tiny_sources: Any, tiny_tasks: Any, tmp_path: Path) -> None:
    run = compare(tiny_sources, tiny_tasks, tmp_path / "run")
    confusions = {t.method: np.sum(t.confusion, axis=1).tolist() for t in run.board.trials}
    assert confusions["full"] == confusions["linear_probe"]
    assert sum(confusions["full"]) == 30
    for trial in run.board.trials:
        counts = np.array(trial.confusion)
        assert trial.by_class == np.stack([counts.diagonal(), counts.sum(1), counts.sum(0)], 1).tolist()


def test_each_sample_goes_through_the_frozen_body_once(tiny_sources: Any, tiny_tasks: Any, tmp_path: Path) -> None:
    methods = ["linear_probe", "full", "freeze", "lora"]
    settings = {name: {"epochs": 1} for name in methods[1:]}
    run = compare(tiny_sources, tiny_tasks, tmp_path / "run", methods=methods, settings=settings)
    task = tiny_tasks["text"]
    draws = [task.draw(seed, train_size=40, test_size=30) for seed in range(2)]
    needed = set(np.concatenate([np.concatenate([d.labelled, d.test]) for d in draws]).tolist())
    assert run.board.passes["computed"] == 2 * len(needed), "the source's body, and freeze's frozen layers"
    assert run.board.passes["asked"] > 2 * len(needed)
    again = compare(tiny_sources, tiny_tasks, tmp_path / "other", methods=methods, settings=settings)
    assert again.board.passes["computed"] == 0


def test_same_command_again_runs_nothing(tiny_sources: Any, tiny_tasks: Any, tmp_path: Path) -> None:
    first = compare(tiny_sources, tiny_tasks, tmp_path / "run")
    again = compare(tiny_sources, tiny_tasks, tmp_path / "run")
    assert [t.train_s for t in again.board.trials] == [t.train_s for t in first.board.trials]
    assert without_costs(first.board) == without_costs(again.board)


def test_interrupted_goes_on_to_the_same_leaderboard(tiny_sources: Any, tiny_tasks: Any, tmp_path: Path) -> None:
    class Stop(Silent):
        def trial(self, record: Any, board: Leaderboard) -> None:
            if len(board.trials) == 3:
                raise KeyboardInterrupt

    whole = compare(tiny_sources, tiny_tasks, tmp_path / "a" / "run")
    with pytest.raises(KeyboardInterrupt):
        compare(tiny_sources, tiny_tasks, tmp_path / "b" / "run", observer=Stop())
    resumed = compare(tiny_sources, tiny_tasks, tmp_path / "b" / "run")
    assert without_costs(resumed.board) == without_costs(whole.board)


def test_a_changed_setting_repeats_only_its_method(tiny_sources: Any, tiny_tasks: Any, tmp_path: Path) -> None:
    first = compare(tiny_sources, tiny_tasks, tmp_path / "run")
    second = compare(tiny_sources, tiny_tasks, tmp_path / "run", settings={"full": {"epochs": 1}})
    kept = {(t.method, t.seed): t.train_s for t in first.board.trials}
    for trial in second.board.trials:
        assert (kept[trial.method, trial.seed] == trial.train_s) == (trial.method == "linear_probe")


def test_a_folder_of_another_run_is_refused(tiny_sources: Any, tiny_tasks: Any, tmp_path: Path) -> None:
    compare(tiny_sources, tiny_tasks, tmp_path / "run", methods=["linear_probe"], settings={})
    with pytest.raises(RunError, match=r"holds another run \(train_size: 40 there, 30 now\).*Choose another --out"):
        compare(tiny_sources, tiny_tasks, tmp_path / "run", methods=["linear_probe"], settings={}, train_size=30)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(RunError, match=r"is not empty and holds no run"):
        compare(tiny_sources, tiny_tasks, tmp_path / "mine", methods=["linear_probe"], settings={})


def test_a_diverging_method_is_a_row_with_its_error(tiny_sources: Any, tiny_tasks: Any, tmp_path: Path) -> None:
    settings = {"full": {"learning_rate": 1e30, "head_learning_rate": 1e30, "epochs": 3}}
    run = compare(tiny_sources, tiny_tasks, tmp_path / "run", kind="image", settings=settings, seeds=1)
    rows = {r.method: r for r in run.board.rows}
    assert rows["full"].validation is None
    assert "loss became" in rows["full"].errors[0] and "Lower --learning-rate" in rows["full"].errors[0]
    assert run.board.best is not None and run.board.best.method == "linear_probe"
    with pytest.raises(RunError, match="No trial ended with a result"):
        compare(tiny_sources, tiny_tasks, tmp_path / "x", kind="image", settings=settings, seeds=1, methods=["full"])


def test_unknown_names_are_told_together(tiny_sources: Any, tiny_tasks: Any, tmp_path: Path) -> None:
    with pytest.raises(MethodError) as error:
        compare(tiny_sources, tiny_tasks, tmp_path / "run", methods=["linear_prob", "loar"], settings={})
    assert "Did you mean 'linear_probe'?" in str(error.value) and "Did you mean 'lora' or" in str(error.value)
    with pytest.raises(MethodError, match=r"no hyperparameter 'epoch' \(Did you mean 'epochs'"):
        compare(tiny_sources, tiny_tasks, tmp_path / "run", settings={"full": {"epoch": 3}})
    with pytest.raises(MethodError, match="epochs is 0, expected 1 or more"):
        compare(tiny_sources, tiny_tasks, tmp_path / "run", settings={"full": {"epochs": 0}})
    assert not (tmp_path / "run").exists(), "faults are found before anything is written"


def test_texts_for_an_image_network_are_refused(tiny_sources: Any, tiny_tasks: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"takes samples of kind 'array'.*holds 'text'"):
        bequest.compare(tiny_tasks["text"], tiny_sources["image"], out=tmp_path / "run", progress=False)


def test_sizes_that_do_not_fit(tiny_sources: Any, tiny_tasks: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--train-sizes asks for 400"):
        compare(tiny_sources, tiny_tasks, tmp_path / "run", train_size=400)


def test_a_full_disk_is_told(
    tiny_sources: Any, tiny_tasks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bequest.comparison.folder import RunFolder

    def full(self: Any, *arguments: Any) -> None:
        raise OSError(28, "No space left on device", str(self.path))

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "finish", full)
        with pytest.raises(RunError, match=r"No space left on device.*Finished trials are kept"):
            compare(tiny_sources, tiny_tasks, tmp_path / "run")
    assert compare(tiny_sources, tiny_tasks, tmp_path / "run").board.best is not None


def test_a_record_edited_by_hand_is_named(tiny_sources: Any, tiny_tasks: Any, tmp_path: Path) -> None:
    run = compare(tiny_sources, tiny_tasks, tmp_path / "run")
    file = run.folder / "trials" / "full" / "seed0" / "record.json"
    file.write_text(file.read_text()[:-40])
    with pytest.raises(RunError, match=r"seed0/record\.json was changed by hand or is damaged"):
        compare(tiny_sources, tiny_tasks, tmp_path / "run")


def test_any_module_through_compare(tmp_path: Path) -> None:
    """Data and network that no registry knows, from Python."""
    import torch
    from torch import nn

    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    inputs = rng.normal(size=(80, 6)).astype(np.float32) + labels[:, None]
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    run = bequest.compare((inputs, labels), network, train_size=40, seeds=1, out=tmp_path / "run", progress=False)
    assert {r.method for r in run.board.rows if r.validation} == {"linear_probe", "full", "freeze", "lora"}
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items()), "the user's module is untouched"
    assert run.predict(inputs[:3])[0].label in ("0", "1")
    with pytest.raises(RunError, match="only Python had"):
        bequest.replay(run.folder, out=tmp_path / "again")
    with pytest.raises(RunError, match=r"bequest\.load\(folder, source="):
        bequest.load(run.folder)
