"""How cost grows: seconds a sample and anonymous memory with 1, 4 and 16 times the samples, seconds with the epochs.

    python benchmarks/growth.py
    python benchmarks/growth.py --only samples --methods linear_probe

Samples: `linear_probe`, and `freeze` with the last stage of EfficientNet-Lite0 trained for 3 epochs, at 64 px, on PNG
files of scikit-learn's digits, each with noise of its own. Each size runs in a process with a store of its own. The
clock runs from the folder of files to the finished network; the network is in memory, and what does not depend on the
samples (imports, the exported graphs) was made by a small run before, so that it hides no growth. Anonymous memory
(RssAnon: pages of mapped files do not count) is read five times a second meanwhile. Rounds go through all sizes in
turn.

Epochs: `freeze` as above for 1, 4 and 16 epochs on the smallest number of samples, from an empty store, decoded
beforehand, against the plain loop and the limit of `partial_finetuning.py`. A plain loop's time grows with the number
of epochs; ours is to grow as one frozen pass and that many epochs of the trained layers do.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from harness import interleaved, keep, ratio

SAMPLES, TIMES, SIZE, SPARE = 250, (1, 4, 16), 64, 40
METHODS: dict[str, dict[str, Any]] = {
    "linear_probe": {},
    "freeze": {"from_depth": "blocks.6.0", "epochs": 3, "batch_size": 32, "patience": 0, "head_init": "random"},
}


def write_images(folder: Path, count: int) -> None:
    """PNG files in class folders, no two alike."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits, rng = load_digits(), np.random.default_rng(0)
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
    for i in range(count):
        index = i % len(digits.target)
        pixels = np.kron(digits.images[index] * 14, np.ones((SIZE // 8, SIZE // 8)))
        noisy = (pixels + rng.integers(0, 30, pixels.shape)).astype(np.uint8)
        Image.fromarray(noisy).save(folder / str(digits.target[index]) / f"{i}.png")


class PeakMemory:
    """The most anonymous memory of this process, read by a thread while the block runs.

    Attributes:
        megabytes: So far.
    """

    def __enter__(self) -> PeakMemory:
        self.megabytes, self._ended = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            lines = Path("/proc/self/status").read_text().splitlines()
            [held] = [int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")]
            self.megabytes = max(self.megabytes, held)
            if self._ended.wait(0.2):
                return


def one_run(method: str, folder: Path, num_samples: int) -> dict[str, float]:
    """Seconds and MB of one run, in this process."""
    from bequest import sources
    from bequest.core.observe import Silent
    from bequest.core.registry import get_method
    from bequest.data import load
    from bequest.engine.context import Context
    from bequest.engine.run import run
    from bequest.engine.runtime import choose_runtime
    from bequest.engine.store import Store

    source = sources.get("efficientnet_lite0", image_size=SIZE)
    source.fingerprint  # noqa: B018 - the network is loaded and hashed before the clock starts

    def carry_out(num_samples: int, data: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="bequest-growth-") as place:
            task = load(data)
            context = Context(source, task, Store(Path(place)), choose_runtime("float32"), Silent())
            draw = task.draw(0, train_size=num_samples, test_size=SPARE)
            run(context, get_method(method).build(METHODS[method]), draw, seed=0)

    with tempfile.TemporaryDirectory() as place:
        write_images(Path(place) / "few", 2 * SPARE)
        carry_out(SPARE, Path(place) / "few")
    with PeakMemory() as memory:
        began = time.perf_counter()
        carry_out(num_samples, folder)
        took = time.perf_counter() - began
    return {"seconds": took, "megabytes": memory.megabytes}


def measure_samples(methods: list[str], base: int, repeats: int) -> list[dict[str, Any]]:
    sizes = [base * times for times in TIMES]
    found: dict[tuple[str, int], list[dict[str, float]]] = {(m, s): [] for m in methods for s in sizes}
    with tempfile.TemporaryDirectory(prefix="bequest-growth-") as place:
        for size in sizes:
            write_images(Path(place) / str(size), size + SPARE)
        for round_number in range(1, repeats + 1):
            for (method, size), rows in found.items():
                words = [__file__, "--child", method, str(Path(place) / str(size)), str(size)]
                result = subprocess.run([sys.executable, *words], stdout=subprocess.PIPE, text=True, check=True)
                rows.append(json.loads(result.stdout.splitlines()[-1]))
                seconds, megabytes = rows[-1]["seconds"], rows[-1]["megabytes"]
                print(f"  round {round_number}  {method:12s} {size:6,d} samples  {seconds:7.2f} s  {megabytes:7.1f} MB")
    entries = []
    for method in methods:
        seconds = [[row["seconds"] for row in found[method, size]] for size in sizes]
        memory = [[row["megabytes"] for row in found[method, size]] for size in sizes]
        each = [[took / size for took in part] for part, size in zip(seconds, sizes, strict=True)]
        name = f"growth, {method}: {TIMES[-1]} times {base} samples"
        entries += [
            ratio(f"{name}, seconds a sample", each[-1], each[0], 1.1, "lower"),
            ratio(
                f"{name}, seconds a further sample, late / early",
                _slope(seconds[1], seconds[2], sizes[2] - sizes[1]),
                _slope(seconds[0], seconds[1], sizes[1] - sizes[0]),
                1.1,
                "lower",
            ),
            ratio(f"{name}, anonymous memory", memory[-1], memory[0], 1.1, "lower"),
        ]
        figures = {"samples": sizes, "seconds": _medians(seconds), "rss_anon_mb": _medians(memory)}
        for entry in entries[-3:]:
            entry |= figures
    return entries


def measure_epochs(base: int, repeats: int) -> list[dict[str, Any]]:
    from partial_finetuning import Sides, image_case

    case = image_case(image_size=SIZE)
    works, ours = {}, {}
    for epochs in TIMES:
        sides = Sides(case, base, epochs)
        ours[epochs] = sides
        works |= {f"plain loop, {epochs} epochs": sides.plain, f"limit, {epochs} epochs": sides.limit}
    own: dict[int, list[float]] = {epochs: [] for epochs in TIMES}

    def work(epochs: int) -> None:
        ours[epochs].ours(warm=True)
        own[epochs].append(ours[epochs].seconds)

    works |= {f"ours, {epochs} epochs": lambda epochs=epochs: work(epochs) for epochs in TIMES}
    taken = interleaved(works, repeats)
    few, some, many = TIMES
    for epochs in TIMES:
        own[epochs] = own[epochs][-repeats:]
        taken[f"ours, {epochs} epochs"] = own[epochs]
    grown = {
        side: np.array(taken[f"{side}, {many} epochs"]) / np.array(taken[f"{side}, {few} epochs"])
        for side in ("plain loop", "ours", "limit")
    }
    print(", ".join(f"{side}: {many} epochs take {np.median(g):.2f} times {few}" for side, g in grown.items()))
    goal = round(1.1 * float(np.median(grown["limit"])), 2)
    entries = [
        ratio(f"growth, freeze: {many} epochs / {few}, ours", own[many], own[few], goal, "lower"),
        ratio(
            "growth, freeze: seconds a further epoch, late / early",
            _slope(own[some], own[many], many - some),
            _slope(own[few], own[some], some - few),
            1.1,
            "lower",
        ),
    ]
    figures = {name: _medians([seconds])[0] for name, seconds in taken.items()}
    for entry in entries:
        entry |= {"seconds": figures, "times": {side: round(float(np.median(g)), 3) for side, g in grown.items()}}
    return entries


def _slope(low: list[float], high: list[float], steps: int) -> list[float]:
    return [(b - a) / steps for a, b in zip(low, high, strict=True)]


def _medians(parts: list[list[float]]) -> list[float]:
    return [round(float(np.median(part)), 3) for part in parts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("samples", "epochs"))
    parser.add_argument("--methods", default=",".join(METHODS), help="which methods with more samples (default: all)")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="the smallest number")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--child", nargs=3, metavar=("METHOD", "FOLDER", "SAMPLES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        method, folder, num_samples = options.child
        print(json.dumps(one_run(method, Path(folder), int(num_samples))))
        return
    if options.only in (None, "samples"):
        keep("growth_samples", measure_samples(options.methods.split(","), options.samples, options.repeats))
    if options.only in (None, "epochs"):
        keep("growth_epochs", measure_epochs(options.samples, options.repeats))


if __name__ == "__main__":
    main()
