"""Runs the command line in processes that are killed; used by test_resume.py and claims/kill_anywhere.py.

As a program: `python killing.py JOBS`, JOBS being JSON, a list of {"words": […], "watched": […], "kill_at": number or
null, "kill_after_s": seconds, where it is to be killed from outside}. Each job runs `bequest WORDS` in a process of its
own, forked from this one, which has imported everything once. That process kills itself, as SIGKILL from outside would,
right before its `kill_at`-th change to what lies below the watched folders (a file opened for writing, renamed or
removed, a folder made). Prints a JSON object a job: {"status", "changes", "seconds"}, the exit status (-9 if killed),
how many changes there were, and how long it took.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

_SECONDS = ("train_s", "shared_s", "seconds", "inference_per_s", "latency_s", "latency_p50_ms", "latency_p95_ms")
TIMINGS = frozenset((*_SECONDS, "peak_memory_bytes", "added_memory_bytes", "accelerator_memory_bytes", "advice"))
"""The only fields of a leaderboard that may differ between a run that was killed and one that was not: seconds, and
what else is measured of the machine."""
_SEALS = frozenset(("digest",))
"""Of a trial's record: depends on its timings."""

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
"""Of processes that are killed; set before a test's process reads it."""

_WRITING = os.O_WRONLY | os.O_RDWR


def without_timings(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_timings(v) for k, v in value.items() if k not in TIMINGS | _SEALS}
    return [without_timings(v) for v in value] if isinstance(value, list) else value


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run's folder holds, by file; what may differ left out."""
    found: dict[str, Any] = {}
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(file.relative_to(folder))
        if file.name in ("leaderboard.json", "record.json"):
            found[name] = without_timings(json.loads(file.read_text(encoding="utf-8")))
        else:
            found[name] = "" if name == "report.html" else file.read_bytes()  # the report shows timings throughout
    return found


def checkpoint_every_epoch() -> None:
    """Instead of every minute: a test has not so much time."""
    from bequest.comparison import setup

    setup.Context = partial(setup.Context, checkpoint_every_s=0.0)  # pyright: ignore[reportPrivateImportUsage]


def carried_out(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What came of jobs, all of one process's forks."""
    command = [sys.executable, __file__, json.dumps(jobs)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def write_given(folder: Path) -> None:
    """A table of texts and a tiny model for them."""
    import csv

    import tiny
    import torch
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=64, max_position_embeddings=40, pad_token_id=0, **sizes)).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tiny.tokenizer_json(), encoding="utf-8")
    task = tiny.text_task(900)  # two shards of what is stored
    with (folder / "texts.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        rows.writerows((task.samples[i], task.classes[task.labels[i]]) for i in range(len(task.labels)))


def asked(given: Path, command: str, out: Path) -> list[str]:
    """The words of a command on what `write_given` wrote, in a folder and with a cache of its own.

    What `distill` takes for its teacher is an adapt's run in `given / "teacher"`.
    """
    source = "--student" if command == "distill" else "--source"
    words = [command, str(given / "texts.csv"), source, f"hf:{given}", "--max-tokens", "16", "--quiet"]
    trained = ["--method", "full", "--epochs", "2", "--train-size", "60", "--test-size", "40"]
    compared = ["--methods", "linear_probe,full", "--seeds", "2", "--train-size", "300"]
    more = {
        "compare": [*compared, "--set", "linear_probe.folds=2", "--set", "full.epochs=3"],
        "adapt": trained,
        "distill": [*trained, "--teacher", str(given / "teacher" / "run"), "--seeds", "1"],
        "features": [],
    }
    place = out / "features.csv" if command == "features" else out / "run"
    return [*words, *more[command], "--out", str(place), "--cache", str(out / "cache")]


def _run(
    words: list[str], watched: list[str], kill_at: int | None = None, kill_after_s: float | None = None
) -> dict[str, Any]:
    reading, writing = os.pipe()
    began, child = time.monotonic(), os.fork()
    if child == 0:
        _child(words, watched, kill_at, writing)
    os.close(writing)
    # Until it has been waited for its number is nobody else's.
    killer = threading.Timer(kill_after_s or 0, os.kill, (child, signal.SIGKILL))
    if kill_after_s is not None:
        killer.start()
    with os.fdopen(reading, "rb") as pipe:
        changes = len(pipe.read())
    killer.cancel()
    if kill_after_s is not None:
        killer.join()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {"status": status, "changes": changes, "seconds": time.monotonic() - began}


def _child(words: list[str], watched: list[str], kill_at: int | None, pipe: int) -> None:
    from bequest.cli.main import main

    changes = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal changes
        if event == "open":
            is_change = isinstance(arguments[2], int) and bool(arguments[2] & _WRITING)
        else:
            is_change = event in ("os.rename", "os.remove", "os.mkdir")
        if not is_change or not str(arguments[0]).startswith(tuple(watched)):
            return
        changes += 1
        if changes == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(pipe, b".")

    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    status = 99
    try:
        sys.addaudithook(hook)
        status = main(words)
    finally:
        os._exit(status)


def _program() -> None:
    import transformers.models.bert.modeling_bert  # noqa: F401

    checkpoint_every_epoch()
    for job in json.loads(sys.argv[1]):
        print(json.dumps(_run(**job)), flush=True)


if __name__ == "__main__":
    _program()
