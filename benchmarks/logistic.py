"""The path of logistic regressions against scikit-learn's LogisticRegression: the same optima, and how long they take.

    python benchmarks/logistic.py

Real features: 200 texts of BBC News by MiniLM-L6 (384 numbers, 5 classes), and 5,000 images by EfficientNet-Lite0
(1,280 numbers, 10 classes): scikit-learn's digits, upright and turned by 10 degrees either way, at 96 px. Both sides go
through the same penalties, strong to weak, each solution the start of the next, to the same tolerance on the gradient;
C = 1 / (λ n). scikit-learn is given the features centred and scaled by one number; ours is timed with that, and where
samples are fewer than features with its rotation into their span.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import interleaved, keep, ratio
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from bequest import sources
from bequest.cli.demo import texts
from bequest.core.observe import Silent
from bequest.core.task import Task
from bequest.data import from_arrays
from bequest.engine.context import Context
from bequest.engine.features import embeddings
from bequest.engine.runtime import choose_runtime
from bequest.engine.store import Store
from bequest.optim import logistic
from bequest.optim.design import standardise
from bequest.optim.linear import PENALTIES
from bequest.sources import Source

TOLERANCE = 1e-6


def turned_digits() -> Task:
    digits: Any = load_digits()
    upright = [Image.fromarray(p).convert("RGB") for p in (digits.images * (255 / 16)).astype(np.uint8)]
    pixels = [image.resize((32, 32)).rotate(angle) for angle in (0, 10, -10) for image in upright]
    return from_arrays(pixels, [str(c) for c in np.tile(digits.target, 3)], name="turned digits")


def features(source: Source, task: Task, samples: int) -> tuple[Any, Any, int]:
    indices = np.random.default_rng(0).permutation(len(task.labels))[:samples]
    with tempfile.TemporaryDirectory() as folder:
        context = Context(source, task, Store(Path(folder)), choose_runtime("float32"), Silent())
        values = np.array(embeddings(context, indices, source.network().body.eval()).stack())
    return values, task.labels[indices], len(task.classes)


def objective(x: Any, y: Any, weight: Any, bias: Any, penalty: float) -> float:
    loss = logistic.tally(x @ weight.T + bias, y)[1] / len(y)
    return float(loss + 0.5 * penalty * np.sum(weight**2))


def compare(name: str, values: Any, labels: Any, classes: int, repeats: int) -> dict[str, Any]:
    mean = values.mean(0, dtype=np.float64)
    centred = values.astype(np.float64) - mean
    scale = float(np.sqrt(np.mean(np.sum(centred**2, 1))))
    scaled, found = centred / scale, {}

    def ours() -> None:
        solutions = logistic.path(standardise(values), labels, classes, PENALTIES, TOLERANCE, TOLERANCE)
        found["ours"] = [(w * scale, b + w @ mean) for w, b in solutions]

    def theirs() -> None:
        peer, found["theirs"] = LogisticRegression(tol=TOLERANCE, max_iter=10000, warm_start=True), []
        for penalty in PENALTIES:
            peer.set_params(C=1 / (penalty * len(labels))).fit(scaled, labels)
            found["theirs"].append((peer.coef_.copy(), peer.intercept_.copy()))

    print(f"{name}: {values.shape[0]:,} × {values.shape[1]:,}, {classes} classes", flush=True)
    taken = interleaved({"ours": ours, "scikit-learn": theirs}, repeats)
    gaps = [
        objective(scaled, labels, *a, p) - objective(scaled, labels, *b, p)
        for a, b, p in zip(found["ours"], found["theirs"], PENALTIES, strict=True)
    ]
    largest = max(map(abs, gaps))
    print(f"  largest difference between the two minima over {len(PENALTIES)} penalties: {largest:.1e}")
    assert largest < 1e-6, f"not the same optimum: {gaps}"
    entry = ratio(
        f"path of logistic regressions, {name}: scikit-learn's time / ours",
        taken["scikit-learn"],
        taken["ours"],
        1.0,
        "higher",
    )
    return entry | {"largest_difference_in_loss": largest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cases = {
        "texts": (sources.get("minilm_l6"), texts().task, 200),
        "images": (sources.get("efficientnet_lite0", image_size=96), turned_digits(), arguments.images),
    }
    entries = []
    with threadpool_limits(1):
        for name, (source, task, samples) in cases.items():
            entries.append(compare(name, *features(source, task, samples), arguments.repeats))
    keep("logistic", entries)


if __name__ == "__main__":
    main()
