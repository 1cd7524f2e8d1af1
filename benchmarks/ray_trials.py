"""`bequest compare --on ray` with two workers against the same comparison in one process, each with one thread.

    OMP_NUM_THREADS=1 python benchmarks/ray_trials.py            8 trials; some minutes a round on 2 cores
    OMP_NUM_THREADS=1 python benchmarks/ray_trials.py --labels 50 --epochs 1 --rounds 1         a look

BBC News from MiniLM-L3 at 128 tokens: two methods that train (full, lora) at four seeds. Both sides begin with an empty
store and a new folder, take turns, and end with their report and best model. The cluster of Ray, two cores on this
machine, is up before the clock starts, and what starting it takes is printed; workers' imports are within the time. The
leaderboards, timings apart, must be the same.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from harness import interleaved, keep, ratio, seconds

import bequest
from bequest.cli.demo import texts

METHODS, GOAL = ("full", "lora"), 0.65
TIMINGS = ("train_s", "shared_s", "inference_per_s", "latency_p50_ms", "latency_p95_ms", "seconds", "advice")
MACHINE = ("environment", "added_memory_bytes", "peak_memory_bytes", "accelerator_memory_bytes", "frozen_samples")


class Sides:
    """The same comparison for everybody."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.task = options, texts().task
        self.boards: dict[str, Any] = {}

    def compare(self, name: str, on: str | None) -> None:
        own = {"epochs": self.options.epochs} if self.options.epochs else {}
        with tempfile.TemporaryDirectory() as folder:
            run = bequest.compare(
                self.task,
                self.options.source,
                METHODS,
                settings={method: own for method in METHODS},
                seeds=self.options.seeds,
                train_size=self.options.labels,
                test_size=self.options.tested,
                precision="float32",
                on=on,
                out=Path(folder) / "run",
                cache=Path(folder) / "cache",
                progress=False,
            )
        self.boards[name] = without_timings(run.board.to_json())


def without_timings(value: Any) -> Any:
    """A leaderboard but for what the clock and the machine say."""
    if isinstance(value, dict):
        return {k: without_timings(v) for k, v in value.items() if k not in TIMINGS + MACHINE}
    return [without_timings(v) for v in value] if isinstance(value, list) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="minilm_l3")
    parser.add_argument("--labels", type=int, default=200)
    parser.add_argument("--tested", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--epochs", type=int, help="of both methods (default: their own)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    import ray

    torch.set_num_threads(1)
    sides = Sides(options)
    start = partial(ray.init, "local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    print(f"starting Ray on this machine: {seconds(start):.1f} s", flush=True)
    works: dict[str, Callable[[], None]] = {
        "one process": lambda: sides.compare("one process", None),
        "two workers": lambda: sides.compare("two workers", "ray"),
    }
    taken = interleaved(works, options.rounds, warm_up=0)
    assert sides.boards["two workers"] == sides.boards["one process"], "the leaderboards differ"
    print("The leaderboards are the same.")
    entry = ratio("8 trials: two workers / one process", taken["two workers"], taken["one process"], GOAL, "lower")
    ray.shutdown()
    keep("ray_trials", [entry])


if __name__ == "__main__":
    main()
