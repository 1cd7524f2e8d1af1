from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faulting import fault
from safetensors.torch import load_file

from bequest.core.errors import RunError, SourceError
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


def test_gathered_records_are_those_asked_for(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(20, 4, 3)).astype(np.float32)
    shelf = Store(tmp_path).shelf(KEY)
    for start in (0, 7, 15):
        stop = min(start + 8, 20)
        shelf.add(hashes(stop - start, start), list(values[start:stop]), 8.0)
    records = shelf.read(hashes(20))
    indices = np.array([19, 0, 7, 7, 14, 1, -1])
    np.testing.assert_array_equal(records.gather(indices), values[indices])
    out = np.empty((7, 4, 3), np.float32)
    assert records.gather(indices, out) is out
    np.testing.assert_array_equal(out, values[indices])
    assert records.gather(np.arange(0)).shape == (0, 4, 3)
    chosen = records.select(np.array([3, 18]))
    np.testing.assert_array_equal(chosen.stack(), values[[3, 18]])
    np.testing.assert_array_equal(records[15:].stack(), values[15:])
    assert chosen.seconds == pytest.approx(1.0 + 8.0 / 5)


def test_records_of_one_length_are_gathered_from_a_ragged_shard(tmp_path: Path) -> None:
    ragged = [np.full((n, 2), n * 10 + i, np.float32) for i, n in enumerate((3, 1, 3, 0, 2, 3))]
    shelf = Store(tmp_path).shelf(KEY)
    shelf.add(hashes(6), ragged, 0.0)
    records = shelf.read(hashes(6))
    np.testing.assert_array_equal(records.gather(np.array([5, 0, 2])), np.stack([ragged[i] for i in (5, 0, 2)]))
    assert records[3].shape == (0, 2)
    with pytest.raises(ValueError, match="the records are of lengths"):
        records.stack()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.int64, torch.bool])
def test_tensors_come_back_to_the_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = [torch.randn(n, 3, generator=torch.Generator().manual_seed(n)).to(dtype) for n in (2, 5, 2)]
    Store(tmp_path).shelf(KEY).add(hashes(3), tensors, 0.0)
    records = Store(tmp_path).shelf(KEY).read(hashes(3))
    for stored, tensor in zip(records.tensors(range(3)), tensors, strict=True):
        assert stored.dtype == dtype and torch.equal(stored, tensor)
    assert torch.equal(records.gather_tensor(np.array([2, 0])), torch.stack([tensors[2], tensors[0]]))
    records.tensor(0).fill_(1)
    assert torch.equal(records.tensor(0), tensors[0])


def test_bfloat16_is_never_given_out_as_something_else(tmp_path: Path) -> None:
    shelf = Store(tmp_path).shelf(KEY)
    shelf.add(hashes(1), [torch.ones(2, dtype=torch.bfloat16)], 0.0)
    for read in (lambda r: r[0], lambda r: r.stack()):
        with pytest.raises(TypeError, match="read these records with tensor"):
            read(shelf.read(hashes(1)))


def test_a_shard_opens_as_safetensors(tmp_path: Path) -> None:
    tensors = [torch.randn(2, 3).to(torch.bfloat16), torch.randn(1, 3).to(torch.bfloat16)]
    Store(tmp_path).shelf(KEY).add(hashes(2), tensors, 0.0)
    [file] = tmp_path.rglob("*.shard2")
    found = load_file(file)
    assert torch.equal(found["values"], torch.cat(tensors))
    assert found["lengths"].tolist() == [2, 1] and torch.equal(found["hashes"], torch.from_numpy(hashes(2).copy()))


@pytest.mark.parametrize(
    "records",
    [
        [np.zeros(2), np.zeros(2, np.float32)],
        [np.zeros((2, 3)), np.zeros((2, 4))],
        [np.array(1.0)],
        [np.array(["a"])],
    ],
)
def test_records_that_do_not_go_together_are_refused(tmp_path: Path, records: list[Any]) -> None:
    with pytest.raises(SourceError, match=r"expected one dtype of bool, .* Make them alike in the preprocessing"):
        Store(tmp_path).shelf(KEY).add(hashes(len(records)), records, 0.0)
    assert not list(tmp_path.rglob("*.shard2"))


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    shelf = Store(tmp_path).shelf(KEY)
    shelf.add(hashes(1), [np.zeros(1)], 0.0)
    with pytest.raises(KeyError, match="1 of 2 samples have no record"):
        shelf.read(hashes(2))


def flip(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :]


@fault(
    "a shard of the store is cut short, longer, empty, or has a flipped bit anywhere",
    happens="its checksum does not fit; it is removed, and said",
    outcome="computed again, never used",
)
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:20],
        lambda data: b"",
        lambda data: data + b"\0",
        lambda data: bytes(len(data)),
        *(lambda data, at=at: flip(data, int(at * (len(data) - 1))) for at in np.linspace(0, 1, 41)),
    ],
)
def test_a_damaged_shard_is_removed_and_its_samples_are_missing(tmp_path: Path, damage: Any) -> None:
    shelf = Store(tmp_path).shelf(KEY)
    values = np.random.default_rng(0).normal(size=(6, 3))
    shelf.add(hashes(3), list(values[:3]), 0.0)
    [file] = tmp_path.rglob("*.shard2")
    shelf.add(hashes(3, 3), list(values[3:]), 0.0)
    file.write_bytes(damage(file.read_bytes()))
    notes: list[str] = []
    again = Store(tmp_path, note=notes.append).shelf(KEY)
    assert set(again.missing(hashes(6)).tolist()) == {0, 1, 2}
    np.testing.assert_array_equal(again.read(hashes(3, 3)).stack(), values[3:])
    again.add(hashes(3), list(values[:3]), 0.0)
    np.testing.assert_array_equal(again.read(hashes(6)).stack(), values)
    # Where a bit of a hash has flipped, the shard is not asked for, and so not opened.
    assert not file.exists() or not notes
    assert len(notes) <= 1 and all("cannot be used" in note and "is damaged" in note for note in notes)


@fault(
    "a shard of another key is put into a shelf, under its own name",
    happens="its checksum, which begins with the key's digest, does not fit; it is removed, and said",
    outcome="computed again, never used",
)
def test_a_foreign_shard_is_not_used(tmp_path: Path) -> None:
    store = Store(tmp_path)
    theirs, ours = store.shelf({**KEY, "weights": "others"}), store.shelf(KEY)
    theirs.add(hashes(3), [np.full(2, 7.0)] * 3, 0.0)
    ours.add(hashes(1, 3), [np.zeros(2)], 0.0)
    [foreign] = theirs.folder.glob("*.shard2")
    shutil.copy(foreign, ours.folder)
    notes: list[str] = []
    again = Store(tmp_path, note=notes.append).shelf(KEY)
    assert again.missing(hashes(4)).tolist() == [0, 1, 2]
    assert not (ours.folder / foreign.name).exists() and "is damaged" in notes[0]
    assert len(store.shelf({**KEY, "weights": "others"}).read(hashes(3))) == 3, "where it belongs it stays"


def test_a_damaged_duplicate_leaves_the_good_one(tmp_path: Path) -> None:
    shelf = Store(tmp_path).shelf(KEY)
    shelf.add(hashes(2), [np.zeros(1), np.ones(1)], 0.0)
    shelf.add(hashes(2), [np.zeros(1), np.ones(1)], 0.0)
    for file in sorted(tmp_path.rglob("*.shard2"))[:1]:
        file.write_bytes(flip(file.read_bytes(), file.stat().st_size - 1))
    again = Store(tmp_path, note=lambda text: None).shelf(KEY)
    assert again.missing(hashes(2)).tolist() == []
    assert again.read(hashes(2)).stack().tolist() == [[0.0], [1.0]]


def test_files_of_other_layouts_are_left_alone(tmp_path: Path) -> None:
    shelf = Store(tmp_path).shelf(KEY)
    shelf.add(hashes(1), [np.zeros(1)], 0.0)
    others = [shelf.folder / "a-00000000.shard3", shelf.folder / "b.index.npy"]
    for file in others:
        file.write_bytes(b"something else")
    assert Store(tmp_path).shelf(KEY).missing(hashes(2)).tolist() == [1]
    assert all(file.exists() for file in others)


def test_what_another_process_deletes_stays_readable_or_is_missing(tmp_path: Path) -> None:
    writer, opened, listed = (Store(tmp_path).shelf(KEY) for _ in range(3))
    writer.add(hashes(2), [np.zeros(1), np.ones(1)], 0.0)
    writer.add(hashes(1, 2), [np.full(1, 2.0)], 0.0)
    records = opened.read(hashes(2))
    assert listed.missing(hashes(1, 2)).tolist() == []
    for file in tmp_path.rglob("*.shard2"):
        file.unlink()
    assert records.stack().tolist() == [[0.0], [1.0]]
    assert opened.read(hashes(2)).stack().tolist() == [[0.0], [1.0]]
    assert listed.missing(hashes(3)).tolist() == [0, 1]


@fault(
    "two processes fill one store with the same keys at once",
    happens="each writes shards of its own, whole or not at all",
    outcome="both finish, with the same records",
)
def test_two_processes_write_the_same_keys_at_once(tmp_path: Path) -> None:
    script = (
        "import sys, time, numpy as np; from pathlib import Path; from bequest.engine.store import Store\n"
        "folder = Path(sys.argv[1])\n"
        f"shelf = Store(folder).shelf({KEY!r})\n"
        "names = np.array([list(f'{i:016d}'.encode()) for i in range(400)], np.uint8)\n"
        "(folder / sys.argv[2]).touch()\n"
        "while not ((folder / 'a').exists() and (folder / 'b').exists()): time.sleep(0.001)\n"
        "for start in range(0, 400, 8):\n"
        "    lacking = shelf.missing(names[start:start + 8]) + start\n"
        "    if len(lacking):\n"
        "        shelf.add(names[lacking], [np.full((5, 2), float(i)) for i in lacking], 0.0)\n"
        "    assert shelf.read(names[start:start + 8]).stack()[:, 0, 0].tolist() == list(range(start, start + 8))\n"
    )
    both = [subprocess.Popen([sys.executable, "-W", "error", "-c", script, str(tmp_path), name]) for name in "ab"]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    shelf = Store(tmp_path).shelf(KEY)
    assert shelf.missing(hashes(400)).tolist() == []
    assert shelf.read(hashes(400)).stack()[:, 4, 1].tolist() == list(range(400))
    assert not [file for file in tmp_path.rglob("*") if file.name.startswith(".")]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files as Linux lists them")
def test_shards_hold_no_file_open(tmp_path: Path) -> None:
    shelf = Store(tmp_path).shelf(KEY)
    before = len(os.listdir("/proc/self/fd"))
    for i in range(50):
        shelf.add(hashes(1, i), [np.zeros(1)], 0.0)
    again = Store(tmp_path).shelf(KEY)
    assert len(again.read(hashes(50)).stack()) == 50
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_index_takes_few_bytes_a_sample(tmp_path: Path) -> None:
    shelf = Store(tmp_path).shelf(KEY)
    names = np.random.default_rng(0).integers(0, 256, (200_000, 16), dtype=np.uint8)
    shelf.add(names, [np.zeros(1, np.uint8)] * len(names), 0.0)
    again = Store(tmp_path).shelf(KEY)
    again.missing(names[:1])
    tracemalloc.start()
    fresh = Store(tmp_path).shelf(KEY)
    records = fresh.read(names)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(records) == len(names)
    assert kept < 60 * len(names)


def test_large_stacks_are_mapped_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bequest.engine import store as module

    shelf = Store(tmp_path).shelf({"what": "rows"})
    rows = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    names = np.arange(50, dtype=np.uint8)[:, None].repeat(16, 1)
    shelf.add(names[:30], list(rows[:30]), 1.0)
    shelf.add(names[30:], list(rows[30:]), 1.0)
    order = np.random.default_rng(1).permutation(50)
    records = shelf.read(names[order])
    plain = records.stack()
    monkeypatch.setattr(module, "_LARGE", 100)
    monkeypatch.setattr(module, "_STEP", 7)
    mapped = records.stack()
    assert isinstance(mapped, np.memmap) and not isinstance(plain, np.memmap)
    assert np.array_equal(plain, rows[order]) and np.array_equal(mapped, plain)
    assert not list(tmp_path.rglob("tmp*")), "it has no name"


def test_shelves_that_are_filled_together_share_their_tables(tmp_path: Path) -> None:
    store = Store(tmp_path)
    shelves = [store.shelf({"what": name}) for name in ("one", "another", "third")]
    for start in (0, 4):
        for shelf in shelves:
            shelf.add(hashes(8)[start : start + 4].copy(), [np.full(2, i, np.float32) for i in range(4)], 0.0)
    found = [shelf.read(hashes(8)) for shelf in shelves]
    assert found[0].places is found[1].places is found[2].places
    assert shelves[0]._hashes is shelves[1]._hashes and shelves[0]._places is shelves[1]._places
    shelves[2].add(hashes(9)[8:], [np.zeros(2, np.float32)], 0.0)
    assert len(shelves[2].missing(hashes(9))) == 0 and len(shelves[0].missing(hashes(9))) == 1
    for records in found:
        np.testing.assert_array_equal(records.stack()[:, 0], [0, 1, 2, 3, 0, 1, 2, 3])


def test_a_disk_without_room_for_a_mapped_array_is_told_before_anything_is_put_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Store(tmp_path).shelf(KEY)
    shelf.add(hashes(2), [np.zeros(2**24, np.float32)] * 2, 0.0)
    records = shelf.read(hashes(2))
    assert isinstance(records.stack(), np.memmap)

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    told = r"Cannot write to the store in .* \(No space left on device\): 134\.2 MB are needed"
    with pytest.raises(RunError, match=told):
        records.stack()

    def unknown(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", unknown)
    assert records.stack().shape == (2, 2**24)
