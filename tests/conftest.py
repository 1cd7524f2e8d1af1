"""What every test shares: no network, a cache of its own, a fair share of the machine's cores."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import tiny

# Set before any test module imports torch, transformers or bequest, which read them once.
_CACHE = tempfile.TemporaryDirectory(prefix="bequest-tests-")
_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
os.environ["BEQUEST_CACHE"] = _CACHE.name
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = str(max(1, _CORES // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))
# Threads that spin while they wait make tiny networks crawl beside any other busy process.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first, so that none of them is what the others are waited for at the end."""
    items.sort(key=lambda item: item.get_closest_marker("first") is None)


@pytest.fixture(scope="session", autouse=True)
def same_precision_everywhere() -> None:
    """Left to itself a frozen pass is in bfloat16 on some processors only: tests that want it ask for it."""
    from bequest.engine import runtime

    runtime._bfloat16_in_hardware = lambda: False  # pyright: ignore[reportPrivateUsage]


@pytest.fixture(scope="session", autouse=True)
def short_measurements() -> None:
    """Of a sample alone, which is timed for a fixed time: tests look at no times."""
    from bequest.comparison import cost

    cost._LEAST_ALONE, cost._SECONDS_ALONE = 2, 0.0  # pyright: ignore[reportPrivateUsage]


@pytest.fixture(scope="session", autouse=True)
def few_penalties() -> tuple[float, ...]:
    """To choose a head's from, for the path of all eleven takes long; gives all of them."""
    from bequest.optim import linear

    whole = linear.PENALTIES
    linear.PENALTIES = whole[::5]
    return whole


@pytest.fixture
def all_penalties(few_penalties: tuple[float, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of solvers, and those that compare this process with another, which knows of none of this."""
    from bequest.optim import linear

    monkeypatch.setattr(linear, "PENALTIES", few_penalties)


@pytest.fixture(autouse=True)
def few_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports show one cost of eight, for drawing them is a third of a small run; tests of the report override it."""
    from bequest.report import costs

    monkeypatch.setattr(costs, "COSTS", costs.COSTS[:1])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for one test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("BEQUEST_CACHE", str(folder))
    return folder


@pytest.fixture
def deepest(tmp_path: Path) -> Iterator[Path]:
    """The innermost of 1,200 folders in `tmp_path / "data" / "ham"`; Python 3.11 cannot remove them by itself."""
    folders = [tmp_path / "data" / "ham"]
    folders[0].mkdir(parents=True)
    for _ in range(1200):
        folders.append(folders[-1] / "d")
        os.mkdir(folders[-1])
    yield folders[-1]
    for folder in folders[::-1]:
        for path in folder.iterdir():
            path.unlink() if path.is_file() else path.rmdir()


@pytest.fixture(scope="session")
def tiny_sources() -> dict[str, Any]:
    """Random networks with everything that a method may stumble on: BatchNorm, dropout, attention, a mask."""
    return {"image": tiny.image_source(), "text": tiny.text_source()}


@pytest.fixture(scope="session")
def tiny_tasks() -> dict[str, Any]:
    """Small learnable tasks for the tiny sources."""
    return {
        "image": tiny.image_task(),
        "text": tiny.text_task(),
        "multi-label": tiny.labels_task(),
        "regression": tiny.values_task(),
    }


@pytest.fixture
def context_of(tmp_path: Path, tiny_sources: dict[str, Any], tiny_tasks: dict[str, Any]) -> Callable[..., Any]:
    """Makes a run's context for a task by name, with a store of its own."""

    def make(kind: str, **changes: Any) -> Any:
        from bequest.core.observe import Silent
        from bequest.engine.context import Context
        from bequest.engine.runtime import choose_runtime
        from bequest.engine.store import Store

        store = Store(tmp_path / "store")
        runtime = choose_runtime("float32")
        source = tiny_sources.get(kind, tiny_sources["image"])
        return Context(source, tiny_tasks[kind], store, runtime, changes.pop("observer", Silent()), **changes)

    return make
