"""SIGKILL at 50 random moments of what writes: compare, adapt, distill, and a pass into the store."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from faulting import fault
from killing import asked, carried_out, outcome, write_given

from bequest.engine.shard import read_shard

pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGKILL and fork are POSIX's")

KILLS = {"compare": 15, "adapt": 10, "distill": 15, "features": 10}


def contents(folder: Path) -> dict[str, Any]:
    """What a command left."""
    table = folder / "features.csv"
    return {table.name: table.read_bytes()} if table.is_file() else outcome(folder / "run")


@fault(
    "SIGKILL at 50 random moments of compare (15), adapt (10), distill (15) and passes into the store (10)",
    happens="half of them are points in time, half lie right before a change to the disk; the command is repeated",
    outcome="the files of a run that nothing disturbed, bit for bit, timings apart; every shard is sound",
    slow=True,
)
@pytest.mark.parametrize("command", KILLS)
def test_killed_at_random_moments(command: str, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    write_given(given)

    def job(name: str, **kill: Any) -> dict[str, Any]:
        return {"words": asked(given, command, tmp_path / name), "watched": [str(tmp_path / name)], **kill}

    teacher = {"words": asked(given, "adapt", given / "teacher"), "watched": []}
    *_, whole = carried_out([*([teacher] if command == "distill" else []), job("whole")])
    assert whole["status"] == 0 and contents(tmp_path / "whole")
    rng = random.Random(command)
    kills = [
        {"kill_at": rng.randrange(1, whole["changes"] + 1)}
        if i % 2
        else {"kill_after_s": rng.uniform(0, whole["seconds"])}
        for i in range(KILLS[command])
    ]
    jobs = [made for i, kill in enumerate(kills) for made in (job(f"at {i}", **kill), job(f"at {i}"))]
    done = carried_out(jobs)
    assert {one["status"] for one in done[1::2]} == {0}
    assert all(one["status"] == -signal.SIGKILL for one in done[2::4]), "before a change it is killed for certain"
    expected = contents(tmp_path / "whole")
    for i in range(len(kills)):
        assert contents(tmp_path / f"at {i}") == expected, kills[i]
        for file in (tmp_path / f"at {i}" / "cache").rglob("*.shard2"):
            read_shard(file)[0].open()
