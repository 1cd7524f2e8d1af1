"""A process killed at any moment, and the same command again: the leaderboard of a run that nothing disturbed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from killing import outcome

pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGKILL and fork are POSIX's")

KILLING = Path(__file__).parent / "killing.py"
EVERY_EPOCH = (
    f"import sys; sys.path.insert(0, {str(KILLING.parent)!r}); import killing; killing.checkpoint_every_epoch(); "
    "from bequest.cli.main import main; sys.exit(main(sys.argv[1:]))"
)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Path], list[str]]:
    """The words of a command on texts and a tiny model, in a folder and with a cache of its own."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("given")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=64, max_position_embeddings=40, pad_token_id=0, **sizes)).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tiny.tokenizer_json(), encoding="utf-8")
    task = tiny.text_task(900)  # two shards of what is stored
    with (folder / "texts.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        rows.writerows((task.samples[i], task.classes[task.labels[i]]) for i in range(len(task.labels)))

    def words(command: str, out: Path) -> list[str]:
        given = [command, str(folder / "texts.csv"), "--source", f"hf:{folder}", "--max-tokens", "16", "--quiet"]
        if command == "compare":
            given += ["--methods", "linear_probe,full", "--seeds", "2", "--train-size", "300"]
            given += ["--set", "linear_probe.folds=2", "--set", "full.epochs=3"]
        else:
            given += ["--method", "full", "--epochs", "2", "--train-size", "60", "--test-size", "40"]
        return [*given, "--out", str(out / "run"), "--cache", str(out / "cache")]

    return words


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


def test_killed_before_any_change_to_the_disk(asked: Any, tmp_path: Path) -> None:
    """Deterministic: the process ends itself right before the n-th file is opened, renamed, removed, …"""

    def job(name: str, kill_at: int | None) -> dict[str, Any]:
        folder = tmp_path / name
        return {"words": asked("adapt", folder), "watched": [str(folder)], "kill_at": kill_at}

    changes = carried_out([job("whole", None)])[0]["changes"]
    assert changes > 50
    moments = range(3, changes, max(1, changes // 7))
    jobs = [job(f"at {n}", kill_at) for n in moments for kill_at in (n, None)]
    statuses = [done["status"] for done in carried_out(jobs)]
    assert statuses == [-signal.SIGKILL, 0] * len(moments)
    for n in moments:
        assert_same(tmp_path / "whole" / "run", tmp_path / f"at {n}" / "run")


def carried_out(jobs: list[dict[str, Any]]) -> list[dict[str, int]]:
    command = [sys.executable, str(KILLING), json.dumps(jobs)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_same(whole: Path, killed: Path) -> None:
    expected, found = outcome(whole), outcome(killed)
    assert {"leaderboard.json", "report.html", "best/model.safetensors"} <= set(expected)
    assert set(found) == set(expected), "nothing is lost, and nothing piles up"
    assert [name for name in expected if found[name] != expected[name]] == []
