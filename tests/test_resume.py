"""A process killed at any moment, and the same command again: the leaderboard of a run that nothing disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from faulting import fault
from killing import ENVIRONMENT, carried_out, outcome, write_given
from killing import asked as words_for

pytestmark = [pytest.mark.first, pytest.mark.skipif(os.name != "posix", reason="SIGKILL and fork are POSIX's")]

KILLING = Path(__file__).parent / "killing.py"
EVERY_EPOCH = (
    f"import sys; sys.path.insert(0, {str(KILLING.parent)!r}); import killing; killing.checkpoint_every_epoch(); "
    "from bequest.cli.main import main; sys.exit(main(sys.argv[1:]))"
)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Path], list[str]]:
    """The words of a command on texts and a tiny model, in a folder and with a cache of its own."""
    folder = tmp_path_factory.mktemp("given")
    write_given(folder)
    return partial(words_for, folder)


def start(words: list[str], program: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *program, *words], stdout=subprocess.DEVNULL, env=ENVIRONMENT, start_new_session=True
    )


def kill_when(process: subprocess.Popen[bytes], has_come: Callable[[], bool]) -> None:
    """Ends the process and all that it may have started as soon as something is on the disk."""
    try:
        while not has_come():
            assert process.poll() is None, "the run ended before what was waited for came"
            time.sleep(0.001)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run was over before it was killed"


@fault(
    "SIGKILL in a pass, between trials, in a training, before the leaderboard: 4 kills of one compare",
    happens="the same command goes on where it was",
    outcome="the files of a run that nothing disturbed, bit for bit, timings apart",
    slow=True,
)
def test_killed_from_outside_at_every_stage_of_a_run(asked: Any, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = start(asked("compare", whole), ["-m", "bequest"])
    trials, plain, often = killed / "run" / "trials", ["-m", "bequest"], ["-c", EVERY_EPOCH]
    moments: list[tuple[list[str], Callable[[], bool]]] = [
        (plain, lambda: any(killed.glob("cache/*/*.shard*"))),  # the first pass has begun
        (plain, (trials / "linear_probe" / "seed0" / "record.json").is_file),  # between two trials
        (often, (trials / "full" / "seed0" / "stage1.ckpt").is_file),  # within a stage that trains
        (often, (trials / "full" / "seed1" / "record.json").is_file),  # leaderboard, model and report are to be written
    ]
    for program, has_come in moments:
        kill_when(start(asked("compare", killed), program), has_come)
    assert start(asked("compare", killed), plain).wait() == 0
    assert undisturbed.wait() == 0
    assert_same(whole / "run", killed / "run")


@fault(
    "SIGKILL right before a file is opened, renamed or removed, or a folder made: 5 moments of an adapt",
    happens="every file appears whole or not at all; the same command goes on",
    outcome="the files of a run that nothing disturbed, bit for bit, timings apart",
)
def test_killed_before_any_change_to_the_disk(asked: Any, tmp_path: Path) -> None:
    """Deterministic: the process ends itself right before the n-th file is opened, renamed, removed, …"""

    def job(name: str, kill_at: int | None) -> dict[str, Any]:
        folder = tmp_path / name
        return {"words": asked("adapt", folder), "watched": [str(folder)], "kill_at": kill_at}

    changes = carried_out([job("whole", None)])[0]["changes"]
    assert changes > 50
    moments = range(3, changes, -(-(changes - 3) // 5))
    jobs = [job(f"at {n}", kill_at) for n in moments for kill_at in (n, None)]
    statuses = [done["status"] for done in carried_out(jobs)]
    assert statuses == [-signal.SIGKILL, 0] * len(moments)
    for n in moments:
        assert_same(tmp_path / "whole" / "run", tmp_path / f"at {n}" / "run")


def assert_same(whole: Path, killed: Path) -> None:
    expected, found = outcome(whole), outcome(killed)
    assert {"leaderboard.json", "report.html", "best/model.safetensors"} <= set(expected)
    assert set(found) == set(expected), "nothing is lost, and nothing piles up"
    assert [name for name in expected if found[name] != expected[name]] == []
