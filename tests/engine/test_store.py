from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from bequest.core.task import HashArray
from bequest.engine.store import Store

KEY = {"what": "test", "width": 3}


def hashes(count: int, start: int = 0) -> HashArray:
    return as_hashes(f"{i:016d}".encode() for i in range(start, start + count))


def as_hashes(contents: Iterable[bytes]) -> HashArray:
    return np.frombuffer(b"".join(contents), np.uint8).reshape(-1, 16)


def test_records_come_back_memory_mapped(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    Store(tmp_path).shelf(KEY).add(hashes(5), list(values), 2.5)
    shelf = Store(tmp_path).shelf(KEY)
    assert shelf.missing(hashes(7)).tolist() == [5, 6]
    records = shelf.read(hashes(5)[::-1])
    np.testing.assert_array_equal(records.stack(), values[::-1])
    assert not records[0].flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        records[0][0] = 1
    assert records.seconds == pytest.approx(2.5)


def test_ragged_records(tmp_path: Path) -> None:
    shelf = Store(tmp_path).shelf(KEY)
    shelf.add(hashes(3), [np.arange(n, dtype=np.int32) for n in (4, 1, 3)], 0.0)
    records = shelf.read(hashes(3)[[2, 0]])
    assert [r.tolist() for r in records] == [[0, 1, 2], [0, 1, 2, 3]]
    assert records.lengths.tolist() == [3, 4]


def test_another_key_is_a_miss(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.shelf(KEY).add(hashes(1), [np.zeros(3)], 0.0)
    assert store.shelf({**KEY, "width": 4}).missing(hashes(1)).tolist() == [0]


def test_hashes_may_end_in_zero_bytes(tmp_path: Path) -> None:
    one, two = as_hashes([b"x" * 15 + b"\0"]), as_hashes([b"\0" * 16])
    both = np.concatenate([one, two])
    shelf = Store(tmp_path).shelf(KEY)
    shelf.add(both, [np.ones(1), np.zeros(1)], 0.0)
    assert shelf.missing(both).tolist() == []
    assert shelf.read(one)[0].tolist() == [1.0]


def test_equal_content_is_asked_for_once(tmp_path: Path) -> None:
    same = hashes(1)
    assert Store(tmp_path).shelf(KEY).missing(same.repeat(3, 0)).tolist() == [0]


def test_two_processes_share_a_store(tmp_path: Path) -> None:
    mine = Store(tmp_path).shelf(KEY)
    mine.add(hashes(2), [np.zeros(1), np.ones(1)], 0.0)
    script = (
        "import sys, numpy as np; from pathlib import Path; from bequest.engine.store import Store\n"
        f"shelf = Store(Path(sys.argv[1])).shelf({KEY!r})\n"
        "names = np.array([list(f'{i:016d}'.encode()) for i in range(4)], np.uint8)\n"
        "lacking = shelf.missing(names)\n"
        "shelf.add(names[lacking], [np.full(1, 7.0)] * len(lacking), 0.0)\n"
        "print(lacking.tolist())"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[2, 3]"
    assert mine.missing(hashes(4)).tolist() == []
    assert [float(r[0]) for r in mine.read(hashes(4))] == [0.0, 1.0, 7.0, 7.0]


def test_what_cannot_be_named_for_certain_ends_with_the_store(tmp_path: Path) -> None:
    store = Store(tmp_path)
    shelf = store.shelf(KEY, persistent=False)
    shelf.add(hashes(1), [np.zeros(1)], 0.0)
    assert not list(tmp_path.iterdir())
    assert shelf.missing(hashes(1)).tolist() == []
    folder = shelf.folder
    del store, shelf
    assert not os.path.exists(folder)
