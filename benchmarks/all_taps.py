"""What every tap of a network costs on much data: seconds a sample and anonymous memory with 1, 4 and 16 times as many.

    python benchmarks/all_taps.py --fashion-mnist DIR
    python benchmarks/all_taps.py --fashion-mnist DIR --samples 12000

Fashion-MNIST (its IDX files, as its authors publish them) as PNG files through EfficientNet-Lite0 at 64 px: one pass
gives the mean of every tap, from the stem to the embedding, into the store, and `bequest.features` writes them into one
file. The largest size is all 60,000 training images. Each size runs in a process and with a store of its own; the clock
runs from the folder of files to the finished file, after a small run that imports everything. Anonymous memory
(RssAnon: pages of mapped files do not count) is read five times a second meanwhile.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from growth import PeakMemory
from harness import keep, ratio

SAMPLES, TIMES, SIZE, FEW = 60_000, (1, 4, 16), 64, 64


def write_images(idx: Path, folder: Path, count: int) -> None:
    """The first images as PNG files in class folders."""
    from PIL import Image

    def read(name: str, offset: int) -> Any:
        return np.frombuffer(gzip.decompress((idx / name).read_bytes()), np.uint8, offset=offset)

    images = read("train-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    labels = read("train-labels-idx1-ubyte.gz", 8)
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
    for i in range(count):
        Image.fromarray(images[i]).save(folder / str(labels[i]) / f"{i}.png")


def one_run(few: Path, folder: Path) -> dict[str, float]:
    """Seconds, MB and features of one pass, in this process."""
    import bequest
    from bequest import sources

    source = sources.get("efficientnet_lite0", image_size=SIZE)
    taps = source.taps()
    names = [tap.name or "embedding" for tap in taps]

    def carry_out(data: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="bequest-taps-") as place:
            out, cache = Path(place) / "features.npz", Path(place) / "cache"
            bequest.features(data, source, out, layers=names, precision="float32", cache=cache, progress=False)

    carry_out(few)
    with PeakMemory() as memory:
        began = time.perf_counter()
        carry_out(folder)
        took = time.perf_counter() - began
    return {"seconds": took, "megabytes": memory.megabytes, "taps": len(taps), "features": sum(t.width for t in taps)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion-mnist", type=Path, metavar="DIR", help="where its IDX files lie")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="the largest number")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(one_run(*options.child)))
        return
    if options.fashion_mnist is None:
        parser.error("give the folder of Fashion-MNIST's IDX files: --fashion-mnist DIR")
    sizes = [options.samples * times // TIMES[-1] for times in TIMES]
    found: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    with tempfile.TemporaryDirectory(prefix="bequest-taps-") as place:
        for size in (FEW, *sizes):
            write_images(options.fashion_mnist, Path(place) / str(size), size)
        for _ in range(options.repeats):
            for size in sizes:
                words = [__file__, "--child", str(Path(place) / str(FEW)), str(Path(place) / str(size))]
                result = subprocess.run([sys.executable, *words], stdout=subprocess.PIPE, text=True, check=True)
                found[size].append(row := json.loads(result.stdout.splitlines()[-1]))
                print(f"  {size:6,d} samples  {row['seconds']:7.1f} s  {row['megabytes']:7.1f} MB", flush=True)
    each = {size: [row["seconds"] / size for row in rows] for size, rows in found.items()}
    memory = {size: [row["megabytes"] for row in rows] for size, rows in found.items()}
    first, last = sizes[0], sizes[-1]
    name = f"all taps, {first:,} to {last:,} images"
    entries = [
        ratio(f"{name}: seconds a sample", each[last], each[first], 1.1, "lower"),
        ratio(f"{name}: anonymous memory", memory[last], memory[first], 1.1, "lower"),
    ]
    figures = {
        "samples": sizes,
        "seconds": [round(float(np.median([row["seconds"] for row in found[size]])), 1) for size in sizes],
        "rss_anon_mb": [round(float(np.median(memory[size])), 1) for size in sizes],
        "taps": int(found[last][0]["taps"]),
        "features": int(found[last][0]["features"]),
    }
    keep("all_taps", [entry | figures for entry in entries])


if __name__ == "__main__":
    main()
