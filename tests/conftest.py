"""What every test shares: no network, a cache of its own, the machine's cores."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

# Set before any test module imports torch, transformers or bequest, which read them once.
_CACHE = tempfile.TemporaryDirectory(prefix="bequest-tests-")
_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
os.environ["BEQUEST_CACHE"] = _CACHE.name
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = str(_CORES)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for one test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("BEQUEST_CACHE", str(folder))
    return folder
