"""What machines and users do to a run in the midst of it, beside killing it."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from faulting import fault
from killing import asked, outcome, without_timings, write_given
from safetensors.torch import load_file, save_file

from bequest.cli.main import main


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("given")
    write_given(folder)
    return folder


@fault(
    "the clock jumps, by years, forwards and backwards, while a run goes on",
    happens="what a run does depends on no date; durations are of a clock that cannot jump",
    outcome="the files of a run that nothing disturbed, timings apart",
)
def test_the_clock_jumps(given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(asked(given, "adapt", tmp_path / "whole")) == 0
    real, rng = time.time, random.Random(0)
    monkeypatch.setattr(time, "time", lambda: real() + rng.uniform(-1e8, 1e8))
    assert main(asked(given, "adapt", tmp_path / "jumping")) == 0
    for file in (tmp_path / "jumping" / "cache").rglob("*.shard*"):
        os.utime(file, (0, 0))
    shutil.move(tmp_path / "jumping" / "run", tmp_path / "second")
    assert main(asked(given, "adapt", tmp_path / "jumping")) == 0
    expected = outcome(tmp_path / "whole" / "run")
    weights = [name for name in expected if name.endswith(".safetensors")]
    assert weights
    for folder in (tmp_path / "second", tmp_path / "jumping" / "run"):
        found = outcome(folder)
        assert found.keys() == expected.keys()
        assert [name for name in weights if found[name] != expected[name]] == []
    for record in json.loads((tmp_path / "jumping" / "run" / "leaderboard.json").read_text())["trials"]:
        assert 0 <= record["train_s"] < 600 and all(0 <= epoch["seconds"] < 600 for epoch in record["epochs"])


@fault(
    "the source's weights change between two runs",
    happens="in the same folder: refused, with both fingerprints; in a new one: nothing in the store fits them",
    outcome="features of the new weights, never of the old",
)
def test_the_sources_weights_change(given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "model"
    shutil.copytree(given, place)

    def words(out: str, cache: str) -> list[str]:
        asked_for = ["--methods", "linear_probe", "--seeds", "1", "--train-size", "60", "--set", "linear_probe.folds=2"]
        folders = ["--out", str(tmp_path / out), "--cache", str(tmp_path / cache)]
        return ["compare", str(given / "texts.csv"), "--source", f"hf:{place}", *asked_for, *folders, "--quiet"]

    assert main(words("first", "cache")) == 0
    torch.manual_seed(1)
    weights = load_file(place / "model.safetensors")
    changed = {name: tensor + 0.5 * torch.randn_like(tensor) for name, tensor in weights.items()}
    save_file(changed, place / "model.safetensors", {"format": "pt"})
    capsys.readouterr()
    assert main(words("first", "cache")) == 1
    told = capsys.readouterr().err
    assert "holds another run" in told and "weights" in told
    assert main(words("second", "cache")) == main(words("third", "empty")) == 0
    assert scored(tmp_path / "second") == scored(tmp_path / "third"), "what the store had of the old made no difference"
    assert scored(tmp_path / "second") != scored(tmp_path / "first")


def scored(folder: Path) -> Any:
    trials = without_timings(json.loads((folder / "leaderboard.json").read_text()))["trials"]
    return [(trial["validation_loss"], trial["test_loss"], trial["frozen_samples"]) for trial in trials]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a disk of so many bytes; called again, it changes the disk's size."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str, *, check: bool) -> subprocess.CompletedProcess[str]:
        words = ["mount", "-t", "tmpfs", "-o", options, "none", str(place)]
        return subprocess.run(words, capture_output=True, text=True, check=check)

    def sized(count: int) -> Path:
        if place.is_mount():
            mount(f"remount,size={count}", check=True)
        elif (tried := mount(f"size={count}", check=False)).returncode:
            pytest.skip(f"no disk can be mounted here, which takes root: {tried.stderr.strip()}")
        return place

    yield sized
    if place.is_mount():
        subprocess.run(["umount", str(place)], check=True)


@fault(
    "the disk of store and run is full (a small tmpfs), and is enlarged later",
    happens="an error that names the file and what is free; nothing half-written stays",
    outcome="the same command finishes, with the files of a run that nothing disturbed",
    slow=True,
)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_disk_that_is_full(
    share: float,
    given: Path,
    tmp_path: Path,
    small_disk: Callable[[int], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = tmp_path / "whole"
    assert main(asked(given, "adapt", whole)) == 0
    needed = sum(file.stat().st_size for file in whole.rglob("*") if file.is_file())
    disk = small_disk(int(share * needed))
    words = asked(given, "adapt", disk)
    capsys.readouterr()
    assert main(words) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not [file for file in disk.rglob(".*.tmp")]
    small_disk(50_000_000)
    assert main(words) == 0
    expected, found = outcome(whole / "run"), outcome(disk / "run")
    assert [name for name in expected if found.get(name) != expected[name]] == []
