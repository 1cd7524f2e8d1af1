"""`bequest distill`, from an adapted teacher to the student's row, its report and its replay; and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bequest as package
from bequest.core.distillation import DISTILLATION, TEACHER
from bequest.core.errors import DataError, MethodError
from bequest.core.registry import methods
from bequest.data.folders import read_unlabelled

Bequest = Callable[..., tuple[int, str, str]]
SHORT = ("--epochs", 1, "--test-size", 30, "--train-size", 40, "--quiet")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: Any, table: Path, bert: Path) -> Path:
    """A linear probe of the tiny BERT."""
    folder = tmp_path_factory.mktemp("teacher")
    package.adapt(table, f"hf:{bert}", out=folder / "run", progress=False, cache=folder / "cache", test_size=30)
    return folder / "run"


def test_a_student_with_and_without_its_teacher(
    bequest: Bequest, table: Path, bert: Path, teacher: Path, tmp_path: Path
) -> None:
    more = tmp_path / "more" / "deep"
    more.mkdir(parents=True)
    for i, text in enumerate(("goal goal team soup", "song drum oven", "violin the choir ball")):
        (more / f"{i}.txt").write_text(text, encoding="utf-8")
    words = ("distill", table, "--teacher", teacher, "--student", f"hf:{bert}", "--cut-at", "layer.0")
    words = (*words, "--unlabelled", more.parent, "--temperature", 2, "--feature-weight", 0.5, *SHORT)
    run = tmp_path / "run"
    status, out, err = bequest(*words, "--seeds", 1, "--out", run)
    assert status == 0, err
    said = " ".join(out.split())
    assert f"Teacher {teacher}: test accuracy" in said and "with the teacher" in said and "times fewer" in said
    board = json.loads((run / "leaderboard.json").read_text(encoding="utf-8"))
    rows = {row["method"]: row for row in board["rows"]}
    assert set(rows) == {"full", "full, distilled"}
    assert {row["family"] for row in rows.values()} == {"fine-tuning"}
    settings = rows["full, distilled"]["settings"]
    assert (settings["temperature"], settings["hard_weight"], settings["soft_weight"]) == (2.0, 0.1, 0.9)
    assert (settings["feature_weight"], settings["teacher_layer"]) == (0.5, "embedding")
    assert settings["teacher"] == str(teacher) and "teacher" not in rows["full"]["settings"]
    assert all(0 <= row["metrics"]["teacher_agreement"]["mean"] <= 1 for row in rows.values())
    earlier = json.loads((teacher / "leaderboard.json").read_text(encoding="utf-8"))
    assert board["protocol"]["teacher"]["test"] == pytest.approx(earlier["rows"][0]["test"]["mean"], abs=0.04)
    assert "Which classes the teacher finds similar" in (run / "report.html").read_text(encoding="utf-8")
    assert package.load(run).predict(["goal ball the team"])[0].label in ("sport", "food", "music")

    status, out, err = bequest(*words, "--seeds", 1, "--out", run)
    assert status == 0, err
    again = json.loads((run / "leaderboard.json").read_text(encoding="utf-8"))
    assert again["trials"] == board["trials"], "finished trials are not run again"

    status, out, err = bequest("replay", run, "--out", tmp_path / "again")
    assert status == 0, err
    assert "The replay gave the same scores." in out


def test_faults_are_told(bequest: Bequest, table: Path, bert: Path, teacher: Path, tmp_path: Path) -> None:
    words = ("distill", table, "--student", f"hf:{bert}", "--out", tmp_path / "run", *SHORT)

    def error(*more: object) -> str:
        status, _, err = bequest(*words, *more)
        assert status == 1
        assert not (tmp_path / "run").exists()
        return err

    assert "has no head; expected a network that tells" in error("--teacher", f"hf:{bert}")
    assert "There is no source 'nowhere'" in error("--teacher", "nowhere")
    faults = error("--teacher", teacher, "--temperature", 0, "--soft-loss", "kl", "--top-classes", -1)
    assert "--temperature is 0.0, expected above 0; --top-classes is -1, expected 0 or more." in faults
    assert "expected soft-cross-entropy or kl or softmax-l2" in error("--teacher", teacher, "--soft-loss", "cosine")
    assert "There is no folder" in error("--teacher", teacher, "--unlabelled", tmp_path / "none")
    layers = error("--teacher", teacher, "--feature-weight", 1, "--teacher-layer", "layer.7")
    assert "--teacher-layer for" in layers and "There is no layer 'layer.7'" in layers
    words = words[:6]
    alone = ("--method", "freeze", "--from-depth", 1, "--feature-weight", 1)
    assert "freeze: --feature-weight is given, but no training stage changes" in error("--teacher", teacher, *alone)
    assert "no training stage of linear_probe could learn" in error("--teacher", teacher, "--method", "linear_probe")
    both = "--hard-weight and --soft-weight are both 0"
    assert both in error("--teacher", teacher, "--hard-weight", 0, "--soft-weight", 0)


def test_settings_without_a_teacher_are_refused(table: Path, bert: Path) -> None:
    with pytest.raises(MethodError, match="Settings for distillation are given, but no teacher"):
        package.compare(table, f"hf:{bert}", ["full"], distillation={"temperature": 2.0}, progress=False)


def test_no_method_has_a_setting_of_distillations_name() -> None:
    own = {TEACHER, *(h.name for h in DISTILLATION.hyperparameters)}
    for name, info in methods().items():
        assert not own & {h.name for h in info.hyperparameters}, name
    assert all(h.help for h in DISTILLATION.hyperparameters)


def test_unlabelled_files_are_of_one_kind(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one", encoding="utf-8")
    assert read_unlabelled(tmp_path, encoding="utf-8")[0] == "one"
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"holds 1 image and 1 .txt file; expected files of one"):
        read_unlabelled(tmp_path, encoding="utf-8")


def test_a_sweep_over_temperatures(bequest: Bequest, table: Path, bert: Path, teacher: Path, tmp_path: Path) -> None:
    words = ("distill", table, "--teacher", teacher, "--student", f"hf:{bert}", *SHORT, "--seeds", 1)
    run = tmp_path / "run"
    status, out, err = bequest(*words, "--temperatures", "1,4", "--out", run)
    assert status == 0, err
    board = json.loads((run / "leaderboard.json").read_text(encoding="utf-8"))
    temperatures = {row["method"]: row["settings"].get("temperature") for row in board["rows"]}
    assert temperatures == {"full": None, "full, distilled at 1": 1.0, "full, distilled at 4": 4.0}
    assert "best by validation of 1, 4;" in " ".join(out.split())
    assert "What the temperature is worth" in (run / "report.html").read_text(encoding="utf-8")
    single = [e for t in board["trials"] if t["method"] == "full, distilled at 4" for e in t["epochs"]]
    status, _, err = bequest(*words, "--temperature", 4, "--out", tmp_path / "one")
    assert status == 0, err
    alone = json.loads((tmp_path / "one" / "leaderboard.json").read_text(encoding="utf-8"))
    [same] = [t["epochs"] for t in alone["trials"] if t["method"] == "full, distilled"]
    assert [e["train_loss"] for e in same] == [e["train_loss"] for e in single]

    for wrong in ("1,x", "2,2", "0,1"):
        status, _, err = bequest(*words, "--temperatures", wrong, "--out", tmp_path / "none")
        assert status == 1 and f"--temperatures is '{wrong}'; expected different numbers above 0, e.g. 1,2,4,8." in err
