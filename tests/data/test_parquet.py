"""Parquet files as data: what stands for far more than the file holds, and what Python cannot hold, is refused."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from faulting import fault

from bequest.core.errors import DataError
from bequest.core.observe import Silent
from bequest.data import load, parquet
from bequest.data.parquet import parquet_rows
from bequest.data.shards import Columns, find_shards, read_items

pyarrow = pytest.importorskip("pyarrow")


def rows(path: Path, columns: dict[str, Any], **options: Any) -> list[tuple[Any, ...]]:
    from pyarrow import parquet as written

    written.write_table(pyarrow.table(columns), path, **options)
    return list(parquet_rows(path, path.name, tuple(columns), range(written.ParquetFile(path).num_row_groups)))


def as_shard(path: Path, label: str = "label") -> None:
    for shard in find_shards(path, "text", 4, Silent()):
        list(read_items(shard, "text", Columns("text", label)))


def repeated(value: Any, count: int) -> Any:
    return pyarrow.array([value]).take(pyarrow.array([0] * count))


@fault(
    "a Parquet file of a kilobyte stands for gigabytes: one long text many times, or millions of empty cells",
    happens="refused by what it says of itself, and by what its batches stand for, before they are decoded",
    outcome="an error that names the file; a few megabytes are decoded at a time",
)
@pytest.mark.parametrize(
    "texts",
    [
        lambda: repeated("x" * 100_000, 4096),
        lambda: pyarrow.ListArray.from_arrays([0, 4096], repeated("x" * 100_000, 4096)),
        lambda: pyarrow.StructArray.from_arrays([repeated("x" * 100_000, 4096)], ["text"]),
        lambda: pyarrow.nulls(2 * 10**7),
        lambda: pyarrow.array(["x" * 10**8]),
    ],
    ids=["repeated", "in a list", "in an object", "empty", "compressed"],
)
def test_what_stands_for_far_more_than_the_file_is_refused(tmp_path: Path, texts: Any):
    with pytest.raises(DataError, match=r"bomb.parquet stands for [\d,]+ bytes or more; expected 67,108,864 at most"):
        rows(tmp_path / "bomb.parquet", {"text": texts()}, compression="zstd", row_group_size=2**25)
    assert (tmp_path / "bomb.parquet").stat().st_size < 67_108


def test_a_bomb_is_no_task_and_no_shard(tmp_path: Path):
    path, texts = tmp_path / "bomb.parquet", repeated("x" * 100_000, 4096)
    with pytest.raises(DataError, match="stands for"):
        rows(path, {"text": texts, "label": repeated("a", 4096)})
    for read in (load, as_shard):
        with pytest.raises(DataError, match=r"bomb\.parquet stands for"):
            read(path)


def test_cells_are_those_that_were_written_however_few_are_decoded_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(parquet, "_PART_BYTES", 100)
    monkeypatch.setattr(parquet, "_BATCH_ROWS", 7)
    kinds = [pyarrow.list_(pyarrow.string()), pyarrow.struct([("x", pyarrow.string())])]
    columns: dict[str, Any] = {
        "text": pyarrow.array([f"text {i % 4}" if i % 5 else None for i in range(30)]),
        "label": pyarrow.array(["ab"[i % 2] for i in range(30)]).dictionary_encode(),
        "number": pyarrow.array([i % 3 for i in range(30)]).dictionary_encode(),
        "tags": pyarrow.array([["x"] * (i % 3) for i in range(30)], kinds[0]),
        "object": pyarrow.array([{"x": str(i % 2)} for i in range(30)], kinds[1]),
        "pairs": pyarrow.array([[("k", "v")]] * 30, pyarrow.map_(pyarrow.string(), pyarrow.string())),
        "bytes": pyarrow.array([b"\xff\0"] * 30),
        "long": pyarrow.array(["l"] * 30, pyarrow.large_string()),
        "nothing": pyarrow.nulls(30),
        "day": pyarrow.array([datetime.date(2020, 1, 1)] * 30),
    }
    expected = list(zip(*(column.to_pylist() for column in columns.values()), strict=True))
    assert rows(tmp_path / "a.parquet", columns, row_group_size=11) == expected


@pytest.mark.parametrize(
    "labels",
    [
        lambda: pyarrow.StringArray.from_buffers(
            2, pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pyarrow.py_buffer(b"a\xff")
        ),
        lambda: pyarrow.array([2**62, 1], pyarrow.timestamp("us")),
        lambda: pyarrow.array([2**62, 1], pyarrow.duration("s")),
    ],
    ids=["no UTF-8", "a time", "a duration"],
)
def test_what_python_cannot_hold_is_refused(tmp_path: Path, labels: Any):
    path = tmp_path / "a.parquet"
    with pytest.raises(DataError, match=r"a\.parquet cannot be read as a Parquet file: .*Replace it"):
        rows(path, {"text": pyarrow.array(["one", "two"]), "label": labels()})
    for read in (load, as_shard):
        with pytest.raises(DataError, match=r"a\.parquet cannot be read as a Parquet file"):
            read(path)


def test_whatever_pyarrow_raises_of_damage_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from pyarrow import parquet as written

    def damaged(*_: Any, **__: Any) -> None:
        raise RuntimeError("Definition level histogram size mismatch, size: 4, expected: 3")

    monkeypatch.setattr(written, "ParquetFile", damaged)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    for read in (load, as_shard):
        with pytest.raises(DataError, match=r"a\.parquet cannot be read as a Parquet file: Definition level"):
            read(tmp_path / "a.parquet")


def test_two_columns_of_one_name_are_refused(tmp_path: Path):
    from pyarrow import parquet as written

    path, columns = tmp_path / "a.parquet", [["one", "two"], ["a", "b"], ["c", "d"]]
    written.write_table(pyarrow.table([*map(pyarrow.array, columns)], ["text", "label", "label"]), path)
    for read in (load, as_shard):
        with pytest.raises(DataError, match=r"a\.parquet has several columns 'label'; expected a name for each"):
            read(path)


@pytest.mark.parametrize("opened", [True, False], ids=["a file", "a path"])
def test_large_cells_of_one_row_group_are_not_read_at_once(tmp_path: Path, opened: bool):
    from pyarrow import parquet as written

    path, pool, peak = tmp_path / "a.parquet", pyarrow.default_memory_pool(), 0
    cells = [bytes([i]) * 2**20 for i in range(100)]
    layout: dict[str, Any] = {"use_dictionary": False, "compression": "none", "write_batch_size": 4}
    written.write_table(pyarrow.table({"image": cells, "label": ["x"] * 100}), path, data_page_size=2**20, **layout)
    before = pool.bytes_allocated()
    with path.open("rb") as file:
        for number, (cell, _) in enumerate(parquet_rows(file if opened else path, "a", ("image", "label"), [0])):
            assert cell == cells[number]
            peak = max(peak, pool.bytes_allocated() - before)
    assert number == 99 and peak < 60 * 2**20
