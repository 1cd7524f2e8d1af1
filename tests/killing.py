"""Runs the command line in processes that are killed; used by test_resume.py and claims/kill_anywhere.py.

As a program: `python killing.py JOBS`, JOBS being JSON, a list of {"words": […], "watched": […], "kill_at": number or
null}. Each job runs `bequest WORDS` in a process of its own, forked from this one, which has imported everything once.
That process kills itself, as SIGKILL from outside would, right before its `kill_at`-th change to what lies below the
watched folders (a file opened for writing, renamed or removed, a folder made). Prints a JSON object a job: {"status",
"changes"}, the exit status (-9 if killed) and how many changes there were.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

_SECONDS = ("train_s", "shared_s", "seconds", "inference_per_s", "latency_s", "latency_p50_ms", "latency_p95_ms")
TIMINGS = frozenset((*_SECONDS, "peak_memory_bytes", "added_memory_bytes", "accelerator_memory_bytes", "advice"))
"""The only fields of a leaderboard that may differ between a run that was killed and one that was not: seconds, and
what else is measured of the machine."""
_SEALS = frozenset(("digest",))
"""Of a trial's record: depends on its timings."""

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
    from bequest.comparison import protocol

    protocol.Context = partial(protocol.Context, checkpoint_every_s=0.0)  # pyright: ignore[reportPrivateImportUsage]


def _run(words: list[str], watched: list[str], kill_at: int | None) -> dict[str, int]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _child(words, watched, kill_at, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        changes = len(pipe.read())
    return {"status": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), "changes": changes}


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
        print(json.dumps(_run(job["words"], job["watched"], job["kill_at"])), flush=True)


if __name__ == "__main__":
    _program()
