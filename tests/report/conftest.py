"""A leaderboard as a comparison of four methods on BBC News would leave it."""

from __future__ import annotations

import base64
import io
import math
import random
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from bequest.core.examples import Examples, Mistake, Shown, Split
from bequest.core.results import Epoch, GroupScore, Interval, Leaderboard, Row, TrialRecord

CLASSES = ["business", "entertainment", "politics", "sport", "tech"]
COUNTS = [510, 386, 417, 511, 401]
# method: family, level, seconds, epochs, trained numbers, stored bytes
METHODS: dict[str, tuple[str, float, float, int, int, int]] = {
    "lora": ("low-rank adaptation", 0.970, 96.0, 10, 223_877, 895_508),
    "full": ("fine-tuning", 0.968, 171.0, 10, 22_715_141, 90_860_564),
    "linear_probe": ("feature extraction", 0.966, 2.4, 0, 1_925, 7_700),
    "freeze": ("fine-tuning", 0.948, 61.0, 10, 7_100_165, 28_400_660),
}


@pytest.fixture(autouse=True)
def few_plots() -> None:
    """Here all costs are shown."""


def confusion(num_classes: int, size: int, accuracy: float, rng: random.Random) -> list[list[int]]:
    """Test counts with neighbours confused."""
    counts = [[0] * num_classes for _ in range(num_classes)]
    for i in range(size):
        true = i % num_classes
        wrong = rng.random() > accuracy and num_classes > 1
        counts[true][(true + rng.choice([1, 2])) % num_classes if wrong else true] += 1
    return counts


def by_class(counts: list[list[int]]) -> list[list[int]]:
    """Of each class the diagonal, the row and the column."""
    return [[counts[i][i], sum(row), sum(r[i] for r in counts)] for i, row in enumerate(counts)]


def epoch(e: int, level: float, pace: float, num_classes: int, seconds: float, rng: random.Random) -> Epoch:
    """One epoch of a course that nears its level at a pace."""
    loss = 0.14 + 1.5 * math.exp(-e / 1.6 / pace) + rng.gauss(0.02 * e * (1 - pace) ** 2, 0.012)
    metric = level - (level - 1 / num_classes) * math.exp(-e / 0.9 / pace) + rng.gauss(0, 0.003)
    return Epoch(0, e, 0.1 + math.exp(-e / 2) if e else None, loss, metric, 1e-3, seconds)


def trial(method: str, seed: int, num_classes: int = 5) -> TrialRecord:
    """One made-up run."""
    _, level, seconds, planned, trained, stored = METHODS.get(method, METHODS["full"])
    rng = random.Random(f"{method} {seed}")
    pace = {"lora": 1.1, "full": 0.7, "freeze": 1.6}.get(method, 1.0)
    run = planned and planned - rng.choice([0, 0, 2])
    validation = level + rng.gauss(0.004, 0.006)
    course = [epoch(e, level, pace, num_classes, seconds / 10, rng) for e in range(run + 1 if run else 0)]
    test = level + rng.gauss(0, 0.005)
    return TrialRecord(
        method=method,
        seed=seed,
        settings={"learning_rate": 0.0002, "batch_size": 16},
        validation=validation,
        validation_loss=0.14,
        test=test,
        test_loss=0.15,
        confusion=(counts := confusion(num_classes, 555, test, rng)),
        by_class=by_class(counts),
        epochs=course,
        epochs_planned=planned,
        solved=[] if planned else [{"penalty": 0.01, "path": [1.0, 0.1, 0.01]}],
        trainable_parameters=trained,
        stored_bytes=stored,
        train_s=seconds * (1 + rng.gauss(0, 0.06)),
        shared_s=2.1,
        peak_memory_bytes=1_420_000_000,
        added_memory_bytes=210_000_000,
        latency_p50_ms=8.13,
        latency_p95_ms=9.72,
        forward_flops=424_673_280,
        inference_per_s=412.0,
        frozen_samples=755 if seed == 0 and not planned else 0,
        labels=200,
        merged=method == "lora",
    )


def interval(values: list[float]) -> Interval:
    """Mean and standard error."""
    sem = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Interval(statistics.mean(values), sem, len(values), values)


def row(trials: list[TrialRecord], family: str) -> Row:
    """The row that a comparison makes of a method's runs."""
    done = [t for t in trials if t.error is None]
    first = trials[0]
    median = sorted(done, key=lambda t: t.validation or 0)[(len(done) - 1) // 2].seed if done else None
    return Row(
        method=first.method,
        family=family,
        metric=first.metric,
        validation=interval([t.validation or 0 for t in done]) if done else None,
        validation_loss=0.14 if done else None,
        test=interval([t.test or 0 for t in done]) if done else None,
        epochs_planned=first.epochs_planned,
        epochs_run=statistics.mean([max((e.epoch for e in t.epochs), default=0) for t in done] or [0]),
        trainable_parameters=first.trainable_parameters,
        stored_bytes=first.stored_bytes,
        train_s=statistics.mean([t.train_s for t in done] or [0]),
        shared_s=first.shared_s,
        peak_memory_bytes=first.peak_memory_bytes,
        inference_per_s=first.inference_per_s,
        labels=first.labels,
        settings=first.settings,
        errors=[t.error for t in trials if t.error],
        median_seed=median,
        added_memory_bytes=first.added_memory_bytes,
        latency_p50_ms=first.latency_p50_ms,
        latency_p95_ms=first.latency_p95_ms,
        forward_flops=first.forward_flops,
    )


def build(trials: list[TrialRecord], classes: list[str] | None = None, counts: list[int] | None = None) -> Leaderboard:
    """A leaderboard of these runs."""
    names = list(dict.fromkeys(t.method for t in trials))
    rows = [row([t for t in trials if t.method == n], METHODS.get(n, METHODS["full"])[0]) for n in names]
    rows.sort(key=lambda r: -(r.validation.mean if r.validation else -1))
    return Leaderboard(
        rows=rows,
        task={
            "name": "BBC News",
            "modality": "text",
            "classes": classes or CLASSES,
            "class_counts": counts or COUNTS,
            "samples": sum(counts or COUNTS),
            "fingerprint": "9f2ab0c4d1e8f75360718293a4b5c6d7",
            "notes": ["99 duplicates were dropped: the same text in the same class."],
        },
        source={
            "name": "all-MiniLM-L6-v2",
            "modality": "text",
            "parameters": 22_713_216,
            "fingerprint": "0123456789abcdef0123456789abcdef",
            "width": 384,
        },
        protocol={
            "train_size": 200,
            "train": 160,
            "validation": 40,
            "test": 555,
            "seeds": sorted({t.seed for t in trials}),
            "split_seed": 0,
            "ranking": "mean validation accuracy, then validation loss",
        },
        environment={
            "bequest": "0.1.0",
            "torch": "2.9.0",
            "python": "3.11.9",
            "platform": "Linux-6.1-x86_64",
            "machine": "x86_64",
            "cpu_count": 2,
            "precision": "bfloat16",
            "device": "cpu",
        },
        passes={"asked": 1234, "computed": 617},
        trials=trials,
    )


def crowd() -> tuple[Leaderboard, Examples]:
    """Fifteen methods at five seeds, ten classes, groups, and as many examples as a run keeps, with images."""
    names = [*METHODS, *(f"method_number_{i}" for i in range(5, 16))]
    classes = [f"class {i}" for i in range(10)]
    groups = {f"{name} / {tint}": GroupScore(0.9 - 0.02 * i, 40) for i, name in enumerate(classes) for tint in "rg"}
    trials = [replace(trial(m, s, 10), groups=groups, optimizer_bytes=4_000_000) for m in names for s in range(5)]
    board = build(trials, classes, [60] * 10)
    over = {name: Interval(found.score, 0.01, 5, [found.score] * 5) for name, found in groups.items()}
    board = replace(
        board,
        rows=[replace(row, groups=over, optimizer_bytes=4_000_000) for row in board.rows],
        task={**board.task, "groups": list(groups), "group_counts": [40] * len(groups)},
    )
    rng = random.Random(0)
    photo = "data:image/png;base64," + _noise(rng)
    shown = [Shown(f"photos/{i}.jpg", classes[i % 10], image=photo) for i in range(20)]
    return board, Examples(
        method=board.rows[0].method,
        seed=0,
        tested=555,
        wrong=31,
        mistakes=[Mistake(sample, "class 3", 0.99 - i / 100) for i, sample in enumerate(shown[:12])],
        methods=names,
        seeds=5,
        disagreement=[[0.0 if i == j else 0.01 * (i + j) for i in range(15)] for j in range(15)],
        splits=[Split(sample, {"class 1": names[:9], "class 2": names[9:]}) for sample in shown[12:]],
    )


def _noise(rng: random.Random) -> str:
    """A PNG of 112 × 112 px that cannot be compressed, base64: larger than any small copy."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.frombytes("RGB", (112, 112), rng.randbytes(3 * 112 * 112)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture(scope="session")
def crowded() -> tuple[Leaderboard, Examples]:
    """The largest report that must stay small and quick."""
    return crowd()


@pytest.fixture
def board() -> Leaderboard:
    """Four methods, three seeds."""
    return build([trial(m, s) for m in METHODS for s in range(3)])


@pytest.fixture
def make() -> Callable[..., Leaderboard]:
    """Builds other boards: `make(methods, seeds, classes=…, counts=…, **changes of every trial)`."""

    def make(
        methods: list[str],
        seeds: int,
        classes: list[str] | None = None,
        counts: list[int] | None = None,
        **changes: Any,
    ) -> Leaderboard:
        size = len(classes or CLASSES)
        runs = [replace(trial(m, s, size), **changes) for m in methods for s in range(seeds)]
        return build(runs, classes, counts)

    return make
