"""Claim: the data may be larger than memory; anonymous memory stays flat from a tenth of them to the whole.

    python claims/bigger_than_memory.py                  60,000 images and 200,000 short texts; about an hour on 2 cores
    python claims/bigger_than_memory.py --only texts --methods linear_probe

Runs `bequest adapt` on a tenth and on the whole, each in a process and with a cache of its own, and reads the process's
anonymous memory (RssAnon: pages of mapped files do not count) five times a second. The images are scikit-learn's
handwritten digits, each shifted, turned and brightened at random, as PNG files; the texts are BBC News cut into pieces
of a dozen words, in a CSV file. The outcome goes to claims/results/bigger_than_memory.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "claims" / "results" / "bigger_than_memory.json"
GOAL = 1.1
SIZES = {"images": 60_000, "texts": 200_000}
SOURCES = {
    "images": ["--source", "efficientnet_lite0", "--image-size", "32"],
    "texts": ["--source", "minilm_l3", "--max-tokens", "16"],
}
METHODS = {"linear_probe": [], "freeze": ["--epochs", "1", "--from-depth", "0.9", "--batch-size", "64"]}


def write_images(folder: Path, count: int) -> Path:
    from PIL import Image
    from sklearn.datasets import load_digits

    digits, rng = load_digits(), np.random.default_rng(0)
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
    for i in range(count):
        index = i % len(digits.target)
        image = Image.fromarray((digits.images[index] * 15).astype(np.uint8)).resize(
            (28, 28), Image.Resampling.BILINEAR
        )
        image = image.rotate(rng.uniform(-15, 15), translate=tuple(rng.integers(-3, 4, 2).tolist()))
        pixels = np.asarray(image) * rng.uniform(0.6, 1) + rng.integers(0, 9, (28, 28))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / str(digits.target[index]) / f"{i}.png")
    return folder


def write_texts(path: Path, count: int) -> Path:
    from bequest.cli.demo import texts

    task = texts().task
    pieces: list[tuple[str, str]] = []
    for offset in range(12):
        for i in range(len(task.labels)):
            words = task.samples[i].split()[offset:]
            label = task.classes[int(task.labels[i])]
            pieces += [(" ".join(words[j : j + 12]), label) for j in range(0, len(words) - 12, 12)]
    unique = list(dict.fromkeys(pieces))
    order = np.random.default_rng(0).permutation(len(unique))
    if len(order) < count:
        raise SystemExit(f"only {len(order):,} texts, expected {count:,}")
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *(unique[i] for i in order[:count])])
    return path


def peak_anonymous(words: list[str]) -> tuple[float, float]:
    """MB of RssAnon at the most, and seconds, of a bequest command in a process of its own."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "bequest", *words], stdout=subprocess.DEVNULL)
    most = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        most = max([most, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))])
        time.sleep(0.2)
    if process.wait():
        raise SystemExit(f"bequest {' '.join(words)} failed")
    return most / 1024, time.perf_counter() - began


def measure(kind: str, method: str, scale: float) -> dict[str, Any]:
    sizes = [round(SIZES[kind] * scale / 10), round(SIZES[kind] * scale)]
    peaks, seconds = [], []
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="bequest-claim-") as place:
            folder = Path(place)
            write = write_images if kind == "images" else write_texts
            data = write(folder / ("data" if kind == "images" else "data.csv"), size)
            words = ["adapt", str(data), *SOURCES[kind], "--method", method, *METHODS[method], "--quiet"]
            peak, took = peak_anonymous([*words, "--out", str(folder / "run"), "--cache", str(folder / "cache")])
        peaks.append(round(peak, 1))
        seconds.append(round(took, 1))
        print(f"{kind}, {method}: {size:,} samples, RssAnon at most {peak:,.1f} MB, {took:,.0f} s", flush=True)
    ratio = peaks[1] / peaks[0]
    print(f"{kind}, {method}: {ratio:.3f} times (goal: at most {GOAL})", flush=True)
    return {"data": kind, "method": method, "samples": sizes, "rss_anon_mb": peaks, "seconds": seconds, "ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=tuple(SIZES), help="one kind of data (default: both)")
    parser.add_argument("--methods", default=",".join(METHODS), help="which methods (default: all)")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the samples, for a try (default: 1)")
    options = parser.parse_args()
    chosen = [(k, m) for k in SIZES if options.only in (None, k) for m in options.methods.split(",")]
    earlier = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    rows = {f"{row['data']} {row['method']}": row for row in earlier.get("rows", [])}
    for kind, method in chosen:
        rows[f"{kind} {method}"] = measure(kind, method, options.scale)
        if options.scale == 1.0:
            RESULT.parent.mkdir(exist_ok=True)
            content = {"goal": GOAL, "machine": platform.processor() or platform.machine(), "rows": list(rows.values())}
            RESULT.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
