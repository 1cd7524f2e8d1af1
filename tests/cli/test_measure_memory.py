"""The memory of a process that runs one trial and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import bequest
from bequest.core.errors import RunError

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(name="command")
def _command(bequest: Command) -> Command:
    return bequest


def test_each_method_is_measured_once_in_a_process_of_its_own(
    command: Command, table: Path, bert: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    where = ("--source", f"hf:{bert}", "--out", folder, "--quiet")
    words = ("compare", table, *where, "--methods", "linear_probe", "--seeds", 2, "--train-size", 40)
    assert command(*words)[0] == 0
    unmeasured = json.loads((folder / "leaderboard.json").read_text())
    status, _, err = command(*words, "--measure-memory")
    assert status == 0, err
    board = json.loads((folder / "leaderboard.json").read_text())
    # Python with torch takes more than that, and a tiny network not much beside.
    assert 10**8 < board["rows"][0]["peak_memory_bytes"] < 3 * 10**9
    assert [trial["peak_memory_bytes"] > 0 for trial in board["trials"]] == [True, False]
    assert [t["train_s"] for t in board["trials"]] == [t["train_s"] for t in unmeasured["trials"]], "nothing else anew"
    status, _, err = command(*words, "--measure-memory")
    assert status == 0, err
    assert json.loads((folder / "leaderboard.json").read_text()) == board, "what was measured is kept"


def test_what_only_this_process_has_cannot_be_measured(tmp_path: Path) -> None:
    import torch

    data = (np.ones((40, 2), np.float32) * np.arange(40)[:, None], [0, 1] * 20)
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    with pytest.raises(RunError, match="--measure-memory runs each method again in a process of its own"):
        bequest.compare(data, network, out=tmp_path / "run", measure_memory=True, progress=False)
