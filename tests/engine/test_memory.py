"""Freed memory goes back to the system."""

from __future__ import annotations

from pathlib import Path

import pytest

from bequest.engine.memory import release


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
