from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bequest.core.errors import RunError
from bequest.core.task import HashArray
from bequest.engine import quota, store
from bequest.engine.quota import given_limit, in_units, parse_age, stored_files
from bequest.engine.store import Shelf, Store

KEY = {"what": "test"}
RECORD = 100_000
"""Bytes."""


def hashes(count: int, start: int = 0) -> HashArray:
    return np.frombuffer(b"".join(f"{i:016d}".encode() for i in range(start, start + count)), np.uint8).reshape(-1, 16)


def add(shelf: Shelf, number: int) -> Path:
    """One shard of one record; its file."""
    before = set(shelf.folder.glob("*.shard2"))
    shelf.add(hashes(1, number), [np.full(RECORD, number % 256, np.uint8)], 0.0)
    [file] = set(shelf.folder.glob("*.shard2")) - before
    return file


def last_used(file: Path, hours_ago: float) -> None:
    then = time.time() - 3600 * hours_ago
    os.utime(file, (then, then))


def filled(folder: Path, count: int = 5) -> list[Path]:
    """Shards of an earlier process, the first the least recently used."""
    shelf = Store(folder).shelf(KEY)
    files = [add(shelf, i) for i in range(count)]
    for i, file in enumerate(files):
        last_used(file, max(count, 10) - i)
    return files


def test_the_least_recently_used_gives_way(tmp_path: Path) -> None:
    files = filled(tmp_path)
    other = Store(tmp_path, limit_bytes=int(4.5 * RECORD)).shelf({"what": "another"})
    new = add(other, 100)
    # Down to a tenth below the limit, so that not every shard deletes another.
    assert [file.exists() for file in files] == [False, False, True, True, True]
    assert new.exists()
    assert other.missing(hashes(1, 100)).tolist() == []
    assert Store(tmp_path).shelf(KEY).missing(hashes(5)).tolist() == [0, 1]


def test_reading_is_using(tmp_path: Path) -> None:
    files = filled(tmp_path)
    Store(tmp_path).shelf(KEY).read(hashes(1))
    add(Store(tmp_path, limit_bytes=int(4.5 * RECORD)).shelf(KEY), 100)
    assert [file.exists() for file in files] == [True, False, False, True, True]


def test_what_this_process_uses_stays_and_the_user_is_told(tmp_path: Path) -> None:
    notes: list[str] = []
    files = filled(tmp_path, 3)
    shelf = Store(tmp_path, limit_bytes=2 * RECORD, note=notes.append).shelf(KEY)
    records = shelf.read(hashes(3))
    mine = [add(shelf, i) for i in (3, 4)]
    assert all(file.exists() for file in [*files, *mine])
    assert len(records.stack()) == 3
    assert len(set(notes)) == 1
    assert "exceeds its limit of 200.0 kB, since this run uses all of it" in notes[0]
    assert "$BEQUEST_CACHE_LIMIT" in notes[0]


def test_below_the_limit_nothing_goes(tmp_path: Path) -> None:
    notes: list[str] = []
    files = filled(tmp_path)
    add(Store(tmp_path, limit_bytes=7 * RECORD, note=notes.append).shelf(KEY), 100)
    assert all(file.exists() for file in files)
    assert not notes


def test_two_processes_evict_at_once(tmp_path: Path) -> None:
    filled(tmp_path, 30)
    script = (
        "import sys, time, numpy as np; from pathlib import Path; from bequest.engine.store import Store\n"
        "folder, name = Path(sys.argv[1]), sys.argv[2]\n"
        f"store = Store(folder, limit_bytes={6 * RECORD}, note=lambda text: None)\n"
        "(folder / name).touch()\n"
        "while not ((folder / 'a').exists() and (folder / 'b').exists()): time.sleep(0.001)\n"
        "for number in range(20):\n"
        "    shelf = store.shelf({'process': name, 'number': number})\n"
        "    hashes = np.full((1, 16), number, np.uint8)\n"
        f"    shelf.add(hashes, [np.full({RECORD}, number, np.uint8)], 0.0)\n"
        "    assert shelf.read(hashes).stack().min() == number\n"
    )
    both = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), name]) for name in "ab"]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    # Neither deleted what it used itself; of the 30 older shards none is left.
    assert not list(Store(tmp_path).shelf(KEY).folder.glob("*.shard2"))


def test_what_killed_processes_left_is_removed_once_it_is_old(tmp_path: Path) -> None:
    shelf = Store(tmp_path).shelf(KEY)
    add(shelf, 0)
    old, young = shelf.folder / ".x.shard2.0a", shelf.folder / ".y.shard1.0b"
    for file, hours in ((old, 25.0), (young, 23.0)):
        file.write_bytes(b"half")
        last_used(file, hours)
    add(Store(tmp_path).shelf(KEY), 1)
    assert not old.exists()
    assert young.exists()


def test_eviction_spares_files_that_are_being_written(tmp_path: Path) -> None:
    [file] = filled(tmp_path, 1)
    young = file.with_name(".y.shard2.0b")
    young.write_bytes(b"half")
    last_used(young, 20)
    add(Store(tmp_path, limit_bytes=RECORD, note=lambda text: None).shelf(KEY), 1)
    assert young.exists()
    assert not file.exists()


def test_nothing_else_in_the_folder_is_touched(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    strange = [tmp_path / "notes.txt", tmp_path / "d41d8cd98f00b204e9800998ecf8427e" / "mine.bin", tmp_path / "x" / "y"]
    for file in strange:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"precious")
        last_used(file, 100)
    mine = Store(tmp_path, limit_bytes=1, note=lambda text: None)
    add(mine.shelf(KEY), 5)
    mine.clear()
    assert all(file.exists() for file in strange)
    assert not stored_files(tmp_path)


def full(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The disk is full the next so many times that a shard is written."""
    left = [times]
    write = store.write_shard

    def refuse(*args: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(*args)

    monkeypatch.setattr(store, "write_shard", refuse)


def test_a_full_disk_is_cleared_of_what_is_not_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = filled(tmp_path)
    shelf = Store(tmp_path).shelf(KEY)
    shelf.read(hashes(1))
    full(monkeypatch, 1)
    assert add(shelf, 7).exists()
    assert [file.exists() for file in files] == [True, False, True, True, True]
    assert shelf.missing(hashes(1, 7)).tolist() == []


def test_a_disk_that_stays_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path)
    full(monkeypatch, 2)
    with pytest.raises(RunError) as caught:
        add(Store(tmp_path).shelf(KEY), 7)
    text = str(caught.value)
    assert text.startswith(f"Cannot write to the store in {tmp_path} (No space left on device): 100.0 kB are needed, ")
    assert text.endswith(
        "are free. Free some (`bequest cache clear` removes what is stored), or name another folder: --cache."
    )


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"Cannot write to the store in .*file"):
        add(Store(tmp_path / "file").shelf(KEY), 0)


def test_a_store_that_was_cleared_meanwhile_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Store(tmp_path).shelf(KEY)
    add(shelf, 0)
    write = store.write_shard

    def cleared(*args: Any) -> Any:
        monkeypatch.setattr(store, "write_shard", write)
        shutil.rmtree(shelf.folder)
        raise FileNotFoundError(errno.ENOENT, "gone")

    monkeypatch.setattr(store, "write_shard", cleared)
    assert add(shelf, 1).exists()
    assert shelf.read(hashes(2)).stack()[:, 0].tolist() == [0, 1]
    assert Store(tmp_path).shelf(KEY).missing(hashes(2)).tolist() == [0]
    assert [s.key for s in Store(tmp_path).shelves()] == [KEY]


def disk(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    usage = shutil.disk_usage("/")._replace(free=int(free))
    monkeypatch.setattr(quota.shutil, "disk_usage", lambda path: usage)


def test_room_counts_what_is_in_use_and_not_what_can_give_way(tmp_path: Path) -> None:
    filled(tmp_path, 8)
    mine = Store(tmp_path, limit_bytes=10 * RECORD)
    assert mine.room(10 * RECORD)
    assert not mine.room(10 * RECORD + 1)
    mine.shelf(KEY).read(hashes(4))
    assert mine.room(5 * RECORD)
    assert not mine.room(6 * RECORD)


def test_room_looks_at_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, 2)
    mine = Store(tmp_path / "new" / "folder", limit_bytes=10**12)
    disk(monkeypatch, 3e9)
    assert mine.room(2 * 10**9)
    assert not mine.room(2 * 10**9 + 1)
    assert Store(tmp_path, limit_bytes=10**12).room(2 * 10**9 + 2 * RECORD)
    assert mine.room(2 * 10**9, persistent=False)
    assert not mine.room(3 * 10**9, persistent=False)


def test_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk(monkeypatch, 1e12)
    assert Store(tmp_path).limit_bytes == 20 * 10**9
    disk(monkeypatch, 8e9)
    assert Store(tmp_path).limit_bytes == 4 * 10**9
    monkeypatch.setenv("BEQUEST_CACHE_LIMIT", "5GB")
    assert Store(tmp_path).limit_bytes == 5 * 10**9
    assert Store(tmp_path, limit_bytes=7).limit_bytes == 7


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("", None), ("0", 0), ("1000", 1000), ("5GB", 5 * 10**9), ("1.5 tb", 15 * 10**11), ("500M", 5 * 10**8)],
)
def test_sizes_that_are_understood(monkeypatch: pytest.MonkeyPatch, text: str, num_bytes: int | None) -> None:
    monkeypatch.setenv("BEQUEST_CACHE_LIMIT", text)
    assert given_limit() == num_bytes


@pytest.mark.parametrize("text", ["much", "-1GB", "5 GiB", "GB"])
def test_sizes_that_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("BEQUEST_CACHE_LIMIT", text)
    with pytest.raises(RunError, match=rf"BEQUEST_CACHE_LIMIT is '{text}'; expected a size, e\.g\. 500MB, 20GB"):
        Store(tmp_path)


def test_ages() -> None:
    assert [parse_age(text) for text in ("30m", "12h", "1.5d")] == [1800, 43200, 129600]
    with pytest.raises(RunError, match=r"The age is '7 weeks'; expected minutes, hours or days"):
        parse_age("7 weeks")


def test_bytes_in_units() -> None:
    assert [in_units(n) for n in (0, 999, 1000, 1_500_000, 20 * 10**9, 3 * 10**12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "1.5 MB",
        "20.0 GB",
        "3.0 TB",
    ]


def test_shelves_and_clearing(tmp_path: Path) -> None:
    mine = Store(tmp_path)
    for what, hours in (("old", 50), ("new", 1)):
        for number in range(2):
            last_used(add(mine.shelf({"what": what}), number), hours)
    new, old = mine.shelves()
    assert (new.key, new.num_records, old.key) == ({"what": "new"}, 2, {"what": "old"})
    assert 2 * RECORD < new.num_bytes < 2.1 * RECORD
    assert time.time() - old.used == pytest.approx(50 * 3600, abs=600)
    assert mine.clear(older_than_s=24 * 3600, dry_run=True) == [old]
    assert mine.shelves() == [new, old]
    assert mine.clear(key=new.folder.name[:8], older_than_s=24 * 3600) == []
    assert mine.clear(older_than_s=24 * 3600) == [old]
    assert mine.shelves() == [new]
    assert mine.clear() == [new]
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_vanishes_while_the_folder_is_read_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = filled(tmp_path, 5)
    scandir = os.scandir

    def vanishing(folder: Any) -> Any:
        for i, entry in enumerate(sorted(scandir(folder), key=lambda entry: entry.name)):
            if i == 1:
                Path(entry.path).unlink()
            yield entry

    monkeypatch.setattr(os, "scandir", vanishing)
    seen = {file.path for file in stored_files(tmp_path)}
    assert seen == {file for file in files if file.exists()} and len(seen) == 4
