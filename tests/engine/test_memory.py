"""Freed memory goes back to the system, and what did not suffice is told from other errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bequest.engine.memory import enough_memory, release


def anonymous_kb() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory as Linux tells it")
def test_what_was_freed_below_what_is_in_use() -> None:
    blocks = [bytes(1000 + i % 7) for i in range(150_000)]
    kept = blocks[:: len(blocks) // 50]  # glibc gives nothing back below them by itself
    del blocks
    held = anonymous_kb()
    release()
    assert len(kept) >= 50 and anonymous_kb() < held - 80_000


@pytest.mark.parametrize(
    "make",
    [lambda: torch.empty(10**15), lambda: np.empty(10**15), lambda: bytes(10**15)],
    ids=["torch", "numpy", "python"],
)
def test_memory_that_does_not_suffice_is_told_alike(make: Callable[[], object]) -> None:
    told = r"Memory did not suffice \(.*\); expected room for .* Lower --batch-size"
    with pytest.raises(MemoryError, match=told), enough_memory():
        make()


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match=r"^out of memory$"), enough_memory():
        raise RuntimeError("out of memory")


def test_it_is_told_once() -> None:
    with pytest.raises(MemoryError) as caught, enough_memory(), enough_memory():
        bytes(10**15)
    assert str(caught.value).count("did not suffice") == 1
