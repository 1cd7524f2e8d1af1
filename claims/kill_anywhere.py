"""Claim: killed at any moment, the same command gives the leaderboard of a run that nothing disturbed, bit for bit.

    python claims/kill_anywhere.py --kills 20

Starts `bequest compare` on real texts (BBC News, 60 labels) with MiniLM-L3, kills it with SIGKILL at random moments,
again and again in the same folder with the same command, until a run gets through; then compares all that lies in the
folder with an undisturbed run's, which has a folder and a cache of its own, and begins anew. Only the fields that
tests/killing.py names as timings may differ. The outcome goes to claims/results/kill_anywhere.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from killing import TIMINGS, outcome  # noqa: E402

EVERY_EPOCH = (
    f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); import killing; killing.checkpoint_every_epoch(); "
    "from bequest.cli.main import main; sys.exit(main(sys.argv[1:]))"
)
NUM_TEXTS = 300


def write_texts(path: Path) -> None:
    from bequest.cli.demo import texts

    task = texts().task
    step = len(task.labels) // NUM_TEXTS
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        rows.writerows((task.samples[i], task.classes[task.labels[i]]) for i in range(0, step * NUM_TEXTS, step))


def start(texts: Path, folder: Path) -> subprocess.Popen[bytes]:
    words = ["compare", str(texts), "--source", "minilm_l3", "--max-tokens", "32", "--methods", "linear_probe,full"]
    words += ["--seeds", "2", "--train-size", "60", "--set", "full.epochs=2", "--quiet"]
    words += ["--out", str(folder / "run"), "--cache", str(folder / "cache")]
    return subprocess.Popen(
        [sys.executable, "-c", EVERY_EPOCH, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def state(folder: Path) -> str:
    """In words, how far a run had come."""
    trials = len(list(folder.glob("run/trials/*/*/record.json")))
    shards = len(list(folder.glob("cache/*/*.shard*")))
    checkpoints = len(list(folder.glob("run/trials/*/*/*.ckpt")))
    best = "a best model" if (folder / "run" / "best" / "model.json").is_file() else "no best model"
    return f"{shards} shards, {trials} trials, {checkpoints} checkpoints, {best}"


def differing(whole: Path, other: Path) -> list[str]:
    expected, found = outcome(whole / "run"), outcome(other / "run")
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    options = parser.parse_args()
    rng, folder = random.Random(options.seed), Path(tempfile.mkdtemp(prefix="bequest-kill-"))
    write_texts(folder / "texts.csv")
    began = time.monotonic()
    if start(folder / "texts.csv", folder / "whole").wait():
        sys.exit("The undisturbed run failed.")
    whole_s = time.monotonic() - began
    print(f"undisturbed: {whole_s:.1f} s", flush=True)
    kills: list[dict[str, Any]] = []
    finished: list[dict[str, Any]] = []
    while len(kills) < options.kills or not finished or len(kills) > finished[-1]["kills"]:
        place = folder / f"run{len(finished)}"
        process = start(folder / "texts.csv", place)
        moment = rng.uniform(0, 1.1 * whole_s)
        try:
            if len(kills) >= options.kills:
                moment = None
            process.wait(moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills.append({"run": len(finished), "after_s": round(moment or 0, 2), "state": state(place)})
            print(f"kill {len(kills)} of run {len(finished)} after {moment:.2f} s: {state(place)}", flush=True)
            continue
        if process.returncode:
            sys.exit(f"run {len(finished)} failed: {process.stderr.read().decode() if process.stderr else ''}")
        files = differing(folder / "whole", place)
        finished.append({"kills": len(kills), "differing_files": files})
        print(f"run {len(finished) - 1} got through: {files or 'the same, file by file'}", flush=True)
    result = {
        "claim": "killed at random moments, the same command ends with the same files, apart from timings",
        "command": " ".join(["python", "claims/kill_anywhere.py", *sys.argv[1:]]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "ignored_fields": sorted(TIMINGS),
        "undisturbed_s": round(whole_s, 1),
        "kills": kills,
        "finished_runs": finished,
        "holds": all(not run["differing_files"] for run in finished),
    }
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "kill_anywhere.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
