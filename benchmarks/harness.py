"""Runs two sides interleaved, prints the ratio with its spread, and keeps the last figures."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def interleaved(sides: dict[str, Callable[[], Any]], repeats: int, *, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of every side, in turn, so that what else the machine does meets all alike; the first rounds warm up."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for round_number in range(1 - warm_up, repeats + 1):
        for name, work in sides.items():
            took = seconds(work)
            if round_number > 0:
                taken[name].append(took)
                print(f"  round {round_number}  {name:24s} {took:8.2f} s", flush=True)
    return taken


def ratio(name: str, upper: list[float], lower: list[float], goal: float, better: str) -> dict[str, Any]:
    """The median over rounds of upper / lower, with the smallest and the largest."""
    ratios = np.array(upper) / np.array(lower)
    entry = {
        "name": name,
        "ratio": round(float(np.median(ratios)), 3),
        "low": round(float(ratios.min()), 3),
        "high": round(float(ratios.max()), 3),
        "goal": goal,
        "better": better,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {_processor()}",
        "command": " ".join(["python", *("DIR" if Path(word).is_absolute() else word for word in sys.argv)]),
    }
    met = entry["ratio"] <= goal if better == "lower" else entry["ratio"] >= goal
    print(f"{name}: {entry['ratio']} ({entry['low']} to {entry['high']}), goal {goal}: {'met' if met else 'missed'}")
    return entry


def keep(name: str, entries: list[dict[str, Any]]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
