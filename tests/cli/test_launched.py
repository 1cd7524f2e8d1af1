"""Commands that accelerate launches in two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import free_port

pytestmark = [pytest.mark.first, pytest.mark.usefixtures("all_penalties")]

Bequest = Callable[..., tuple[int, str, str]]


def launch(*words: object, cache: Path, how: str = "--multi_gpu") -> subprocess.CompletedProcess[str]:
    """A command line in two processes of this machine."""
    launcher = (
        "-m",
        "accelerate.commands.launch",
        how,
        "--num_processes",
        2,
        "--main_process_port",
        free_port(),
    )
    places = os.pathsep.join(path for path in sys.path if path)
    variables = {**os.environ, "BEQUEST_CACHE": str(cache), "PYTHONPATH": places, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, launcher), "-m", "bequest", *map(str, words)]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=170)


def files(run: Path) -> set[str]:
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}


def scores(run: Path) -> dict[str, Any]:
    board = json.loads((run / "leaderboard.json").read_text(encoding="utf-8"))
    return {trial["method"]: (trial["validation"], trial["test"], trial["frozen_samples"]) for trial in board["trials"]}


def test_two_processes_make_one_run(bequest: Bequest, table: Path, bert: Path, tmp_path: Path) -> None:
    words = ("compare", table, "--source", f"hf:{bert}", "--methods", "linear_probe,norm_only", "--seeds", 1)
    words = (*words, "--set", "norm_only.epochs=2", "--train-size", 40, "--test-size", 30)
    words = (*words, "--precision", "float32", "--out")
    alone, both = tmp_path / "alone", tmp_path / "both"
    status, _, error = bequest(*words, alone, "--quiet")
    assert status == 0, error
    done = launch(*words, both, cache=tmp_path / "cache of both")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Best by validation") == 1 and done.stdout.count("Leaderboard") == 1
    assert files(both) == files(alone)
    found, expected = scores(both), scores(alone)
    assert found["linear_probe"] == expected["linear_probe"]
    assert found["norm_only"][2] == expected["norm_only"][2], "passes are divided, not repeated"
    board = json.loads((both / "leaderboard.json").read_text(encoding="utf-8"))
    assert board["environment"]["processes"] == 2


@pytest.mark.slow
def test_two_processes_divide_a_network(bequest: Bequest, table: Path, bert: Path, tmp_path: Path) -> None:
    words = ("adapt", table, "--source", f"hf:{bert}", "--method", "full", "--epochs", 1, "--train-size", 40)
    words = (*words, "--test-size", 30, "--precision", "float32", "--out")
    alone, both = tmp_path / "alone", tmp_path / "both"
    status, _, error = bequest(*words, alone, "--quiet")
    assert status == 0, error
    done = launch(*words, both, cache=tmp_path / "cache of both", how="--use_fsdp")
    assert done.returncode == 0, done.stderr
    assert files(both) == files(alone)
    assert scores(both) == scores(alone)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("adapt", "missing.csv", "--source", "minilm_l6"), "missing.csv"),
        (("predict", "run", "a"), "runs in one process"),
    ],
)
def test_what_is_wrong_is_said_once(words: tuple[str, ...], told: str, tmp_path: Path) -> None:
    done = launch(*words, cache=tmp_path / "cache")
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(said) == 1 and told in said[0], done.stderr
