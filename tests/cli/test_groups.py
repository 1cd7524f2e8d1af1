"""`--group-column` and `--select-by`, from the words of a command line to table, record, report and replay."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Bequest = Callable[..., tuple[int, str, str]]
RUN = ("--methods", "linear_probe,full", "--set", "full.epochs=1", "--seeds", 2, "--test-size", 30, "--quiet")


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: Any, tiny_tasks: Any) -> Path:
    """Texts of three classes, each in two colours."""
    path = tmp_path_factory.mktemp("data") / "coloured.csv"
    task, rng = tiny_tasks["text"], np.random.default_rng(0)
    rows = [
        (task.samples[i], task.classes[label], ("red", "blue")[int(rng.random() < 0.3)])
        for i, label in enumerate(task.labels)
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label", "group"), *rows])
    return path


def test_compare_by_the_worst_group_and_replay(bequest: Bequest, coloured: Path, bert: Path, tmp_path: Path) -> None:
    run, words = tmp_path / "run", (coloured, "--source", f"hf:{bert}", "--group-column", "group", *RUN)
    status, out, err = bequest("compare", *words, "--select-by", "worst-group", "--out", run)
    assert status == 0, err
    assert out.count("worst group") >= 2 and "ranked by the worst group" in " ".join(out.split())
    assert "Best by worst group on validation: " in out
    board = json.loads((run / "leaderboard.json").read_text(encoding="utf-8"))
    names = [f"{label} / {colour}" for label in ("food", "music", "sport") for colour in ("blue", "red")]
    assert board["task"]["groups"] == names
    for trial in board["trials"]:
        assert list(trial["groups"]) == names
        assert sum(group["samples"] for group in trial["groups"].values()) == 30
        assert trial["metrics"]["worst_group_accuracy"] == min(g["score"] for g in trial["groups"].values())
    scores = [row["validation_worst_group"]["mean"] for row in board["rows"]]
    assert scores == sorted(scores, reverse=True)
    assert "Accuracy by group" in (run / "report.html").read_text(encoding="utf-8")

    status, out, err = bequest("replay", run, "--out", tmp_path / "again")
    assert status == 0, err
    assert "Best by worst group on validation: " in out and "The replay gave the same scores." in out
    again = json.loads((tmp_path / "again" / "leaderboard.json").read_text(encoding="utf-8"))
    assert again["protocol"] == board["protocol"]
    assert [t["groups"] for t in again["trials"]] == [t["groups"] for t in board["trials"]]


def test_the_same_run_ranked_by_the_metric_is_not_trained_again(
    bequest: Bequest, coloured: Path, bert: Path, tmp_path: Path
) -> None:
    run, words = tmp_path / "run", (coloured, "--source", f"hf:{bert}", "--group-column", "group", *RUN)
    boards = []
    for select_by in ("worst-group", "metric"):
        status, out, err = bequest("compare", *words, "--select-by", select_by, "--out", run)
        assert status == 0, err
        boards.append(json.loads((run / "leaderboard.json").read_text(encoding="utf-8")))
        assert json.loads((run / "run.json").read_text(encoding="utf-8"))["settings"]["select_by"] == select_by
    assert boards[0]["trials"] == boards[1]["trials"]
    assert "Best by validation: " in out
    means = [row["validation"]["mean"] for row in boards[1]["rows"]]
    assert means == sorted(means, reverse=True)


def test_adapt_tells_the_worst_group(bequest: Bequest, coloured: Path, bert: Path, tmp_path: Path) -> None:
    words = (coloured, "--source", f"hf:{bert}", "--group-column", "group", "--quiet", "--out", tmp_path / "run")
    status, out, err = bequest("adapt", *words)
    assert status == 0, err
    assert "worst group" in out


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["--select-by", "worst-group"], 1, "but 'coloured' has none; expected a table with a column of groups."),
        (["--select-by", "worst_group"], 2, "argument --select-by: invalid choice: 'worst_group' (choose from "),
        (["--select-by", "worst-group", "--group-column", "colour"], 1, "colour"),
    ],
)
def test_wrong_words(
    bequest: Bequest, coloured: Path, bert: Path, tmp_path: Path, words: list[str], status: int, text: str
) -> None:
    found = bequest("compare", coloured, "--source", f"hf:{bert}", *words, "--out", tmp_path / "run")
    assert found[0] == status
    assert text in found[2]
    assert not (tmp_path / "run").exists(), "faults are found before anything is written"


def test_class_folders_have_no_groups(bequest: Bequest, bert: Path, tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / "texts" / label).mkdir(parents=True)
        for i in range(5):
            (tmp_path / "texts" / label / f"{i}.txt").write_text(f"{label} {i}")
    words = ("compare", tmp_path / "texts", "--source", f"hf:{bert}", "--out", tmp_path / "run")
    status, _, err = bequest(*words, "--select-by", "worst-group")
    assert status == 1 and "'texts' has none; expected a table with a column of groups" in err
    status, _, err = bequest(*words, "--group-column", "place")
    assert status == 1 and "--group-column given, but" in err and "is a folder of class folders" in err
