"""The feature pass by Ray Data on one machine against the pass in this process: seconds, and memory by size.

    taskset -c 0 python benchmarks/ray_features.py --fashion-mnist DIR

Fashion-MNIST as PNG files in class folders, EfficientNet-Lite0 at 32 px, batches of 32, one worker with as many threads
as this process computes with; `taskset` gives all sides the same cores. Three sides in turn, from nothing to their
files: the pass into the store and one Parquet file (`bequest features … --out file.parquet`), the pass over shards
here (`--out folder`), and the pass over shards by Ray Data (`--on ray`). The cluster is started once, before the clock;
workers, their imports and the source are within it. Memory that is not of files (RssAnon) is the highest of this
process and of a worker, at a tenth of the images and at all of them.
"""

from __future__ import annotations

import argparse
import gzip
import os
import re
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from harness import interleaved, keep, ratio

import bequest
from bequest import sources


def images(folder: Path, place: Path, count: int) -> Path:
    """PNG files of Fashion-MNIST, the train part and as many of the test part as are asked for, in class folders."""
    from PIL import Image

    written = 0
    for part in ("train", "t10k"):
        with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
            pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
        with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
            labels = np.frombuffer(file.read(), np.uint8, offset=8)
        for image, label in zip(pixels, labels, strict=True):
            if written == count:
                return place
            path = place / f"{label}" / f"{written:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
            written += 1
    return place


class Anonymous:
    """The highest RssAnon of this process and of each worker of Ray's that is below it, bytes, while it is open."""

    def __init__(self) -> None:
        self.driver, self.workers = 0, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Anonymous:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._over.wait(0.2):
            self.driver = max(self.driver, anonymous(own.pid))
            for child in own.children(recursive=True):
                try:
                    is_worker = "MapWorker" in " ".join(child.cmdline())
                except psutil.Error:
                    continue
                self.workers = max(self.workers, anonymous(child.pid) if is_worker else 0)


def anonymous(pid: int) -> int:
    try:
        found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def task_seconds(ray: Any, count: int = 1000) -> float:
    """What Ray takes for a task that does nothing, of many at once."""
    empty = ray.remote(lambda: None)
    ray.get([empty.remote() for _ in range(100)])
    began = time.perf_counter()
    ray.get([empty.remote() for _ in range(count)])
    return (time.perf_counter() - began) / count


class Sides:
    def __init__(self, threads: int) -> None:
        self.source = sources.get("efficientnet_lite0", image_size=32)
        self.fixed: dict[str, Any] = {"precision": "float32", "progress": False}
        self.resources = f"cpus={threads}"

    def run(self, data: Path, kind: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            place, options = Path(folder), dict(self.fixed)
            if kind == "store":
                options |= {"cache": place / "cache"}
            if kind == "ray":
                options |= {"on": "ray", "resources": self.resources}
            out = place / ("features.parquet" if kind == "store" else "features")
            made = bequest.features(data, self.source, out, **options)
            shutil.rmtree(place / "cache", ignore_errors=True)
            self.count = made.num_samples
            if kind != "store":
                size = sum(file.stat().st_size for file in out.glob("*.parquet"))
                self.record_bytes = size / made.num_samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fashion-mnist", type=Path, required=True, metavar="DIR")
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    import ray

    threads = torch.get_num_threads()
    # Else workers are at 15, and whatever else the machine does goes before them. Ray knows it by this name only.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    ray.init(address="local", num_cpus=threads, log_to_driver=False, logging_level="error", include_dashboard=False)
    with tempfile.TemporaryDirectory() as folder:
        data = images(options.fashion_mnist, Path(folder) / "all", options.images)
        few = images(options.fashion_mnist, Path(folder) / "few", options.images // 10)
        sides = Sides(threads)
        peaks: dict[int, Anonymous] = {}
        for place in (few, data):  # also what warms up: the files are read once before the clock
            with Anonymous() as peak:
                sides.run(place, "ray")
            peaks[sides.count] = peak
            print(
                f"RssAnon at {sides.count:,}: driver {peak.driver / 1e6:.0f} MB, worker {peak.workers / 1e6:.0f} MB",
                flush=True,
            )
        kinds = {"store, here": "store", "shards, here": "shards", "shards, Ray Data": "ray"}
        taken = interleaved(
            {name: (lambda kind=kind: sides.run(data, kind)) for name, kind in kinds.items()},
            options.repeats,
            warm_up=0,
        )
    task_s = task_seconds(ray)
    ray.shutdown()
    began = time.strftime("%Y-%m-%d")
    entries = [
        ratio("Ray Data / store, in process", taken["shards, Ray Data"], taken["store, here"], 1.15, "lower"),
        ratio("Ray Data / shards, in process", taken["shards, Ray Data"], taken["shards, here"], 1.15, "lower"),
    ]
    (small, at_few), (large, at_all) = peaks.items()
    about = {"images": large, "threads": threads, "seconds": {k: [round(s, 1) for s in v] for k, v in taken.items()}}
    for name in ("driver", "workers"):
        entries.append(
            ratio(
                f"RssAnon of {name}, {large:,} / {small:,} images",
                [getattr(at_all, name)],
                [getattr(at_few, name)],
                1.1,
                "lower",
            )
        )
    about |= {"bytes_per_record": round(sides.record_bytes, 1), "seconds_per_empty_task": round(task_s, 6)}
    about["rss_anon_bytes"] = {str(n): {"driver": p.driver, "worker": p.workers} for n, p in peaks.items()}
    for entry in entries:
        entry |= {**about, "date": began}
    keep("ray_features", entries)


if __name__ == "__main__":
    main()
