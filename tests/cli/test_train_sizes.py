"""Learning curves from the command line, and their replay."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

Bequest = Callable[..., tuple[int, str, str]]


def test_curves_are_told_drawn_and_replayed(bequest: Bequest, table: Path, bert: Path, tmp_path: Path) -> None:
    folder, again = tmp_path / "run", tmp_path / "again"
    where = ("--source", f"hf:{bert}", "--out", folder, "--quiet")
    words = ("compare", table, *where, "--methods", "linear_probe", "--seeds", 2, "--test-size", 30)
    status, out, err = bequest(*words, "--train-sizes", "24,12")
    assert status == 0, err
    assert "Best by the held-out labels: linear_probe with 12 to 24 labels (test accuracy " in " ".join(out.split())
    assert "How many labels" in (folder / "report.html").read_text(encoding="utf-8")
    assert {path.name for path in (folder / "sizes").iterdir()} == {"12"}
    status, out, err = bequest("replay", folder, "--out", again)
    assert status == 0, err
    assert "The replay gave the same scores." in out
    boards = [json.loads((place / "leaderboard.json").read_text()) for place in (folder, again)]
    assert boards[0]["learning_curves"] == boards[1]["learning_curves"]
    file = folder / "leaderboard.json"
    boards[0]["learning_curves"]["curves"][0]["points"][0]["values"][0] = 0.123
    file.write_text(json.dumps(boards[0]), encoding="utf-8")
    status, _, err = bequest("replay", folder, "--out", tmp_path / "third")
    assert status == 1 and "other scores for linear_probe with 12 labels" in err
