"""Tables that nobody meant well: a task or an error that names the file, and cells as they stand."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from faulting import fault
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from bequest.core.errors import DataError
from bequest.data import load
from bequest.data.columns import input_column
from bequest.data.formats import Table

CELLS = ["", "a", "b\0c", '"', '""', "=1+1", "@SUM(A1)", "<script>alert(1)</script>", "../../x", "1e999", "NaN", "[1]"]
CELLS += ["\r", "\n", ",", "\t", "{}", "-1", "9" * 400, "\u202e", "\x1b[2J", "é", "😀", "[[[[", "None", "x" * 5000]
HOSTILE_VALUES: list[Any] = [None, True, -1, 10**400, 1e308, float("nan"), float("inf"), "", "a\0b", [], {}, [[[]]]]
HOSTILE_VALUES += [{"a": {"b": 1}}, ["x", 1, None], "<b>", "=1"]


def read(path: Path, content: bytes, **options: Any) -> Any:
    """The task, or None where the file is refused as it should be."""
    path.write_bytes(content)
    try:
        return load(path, **options)
    except DataError as error:
        assert path.name in str(error) or "label" in str(error).lower() or "sample" in str(error).lower()
        assert len(str(error)) < 3000
        return None


@fault(
    "a table has NULs, ragged rows, a million columns, keys that no two objects share, or is no table",
    happens="read as it stands, or refused with the file and the lines",
    outcome="an error of bounded length; time and memory grow with the file's size",
)
@given(st.binary(max_size=300), st.sampled_from([".csv", ".tsv", ".jsonl", ".json", ".parquet", ""]))
@example(b"\xff\xfe", ".csv")
@example(b"\0" * 50, ".csv")
@example(b"PAR1" + b"\xff" * 40 + b"PAR1", ".parquet")
def test_any_bytes(tmp_path: Path, content: bytes, suffix: str) -> None:
    read(tmp_path / f"table{suffix}", content)


@given(st.lists(st.lists(st.sampled_from(CELLS), max_size=4), max_size=8), st.sampled_from([",", ";", "\t"]))
def test_cells_that_are_not_quoted(tmp_path: Path, rows: list[list[str]], delimiter: str) -> None:
    text = "\n".join(delimiter.join(row) for row in [["text", "label"], *rows])
    read(tmp_path / "table.csv", text.encode())


@given(st.lists(st.tuples(st.sampled_from(CELLS[1:]), st.integers(0, 99)), min_size=12, max_size=20, unique=True))
def test_quoted_cells_are_read_as_they_were_written(tmp_path: Path, rows: list[tuple[str, int]]) -> None:
    stream = io.StringIO(newline="")
    written = csv.writer(stream)
    written.writerow(["text", "label"])
    texts = [f"{cell}{number}" for cell, number in rows]
    written.writerows([text, "=A1" if i % 2 else "<script>"] for i, text in enumerate(texts))
    task = read(tmp_path / "table.csv", stream.getvalue().encode())
    if task is not None:
        assert set(task.samples[i] for i in range(len(task.labels))) == set(texts)
        assert set(task.classes) == {"=A1", "<script>"}


@given(st.lists(st.dictionaries(st.sampled_from(["text", "label", "x"]), st.sampled_from(HOSTILE_VALUES)), max_size=6))
def test_json_values_of_any_kind(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    read(tmp_path / "table.jsonl", "\n".join(map(json.dumps, rows)).encode())
    read(tmp_path / "table.json", json.dumps(rows).encode())


def test_every_row_that_is_ragged_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "ragged.csv"
    path.write_text("text,label\n" + "a\n" * 1000 + "a,b,c\n")
    with pytest.raises(DataError, match=r"1,001 rows of .*ragged\.csv without 2 fields.*line 2 \(1\)") as caught:
        load(path)
    assert len(str(caught.value)) < 1000


def test_a_million_columns(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    path.write_text("\n".join(",".join(f"{row}{i}" for i in range(10**6)) for row in "ca"))
    with pytest.raises(DataError, match=r"Cannot tell which column of wide\.csv holds the texts") as caught:
        load(path)
    assert "'c49' and 999950 more" in str(caught.value) and len(str(caught.value)) < 2000


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
@pytest.mark.parametrize(
    ("item", "told"),
    [
        ('{"text": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested deeper than 100 levels"),
        ('{"text": ' + '{"a":' * 200 + "1" + "}" * 200 + "}", "nested deeper than 100 levels"),
        ('{"text": "a", "label": "x", "label": "y"}', "the key 'label' stands twice in one object"),
        ('{"text": "\\ud800", "label": "x"}', "surrogates not allowed"),
        ('{"text": ' + "9" * 5000 + ', "label": "x"}', "Exceeds the limit"),
    ],
    ids=["lists", "objects", "twice", "surrogate", "digits"],
)
def test_json_that_no_file_needs_is_refused(tmp_path: Path, suffix: str, item: str, told: str) -> None:
    path = tmp_path / f"table.{suffix}"
    path.write_text(f"[{item}]" if suffix == "json" else item)
    with pytest.raises(DataError) as caught:
        load(path)
    assert str(path) in str(caught.value) and told in str(caught.value)
    assert ("item 1" if suffix == "json" else "line 1") in str(caught.value)


def test_objects_that_share_no_keys_do_not_fill_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "sparse.jsonl"
    path.write_text("".join(f'{{"k{i}": 1}}\n' for i in range(20_000)))
    with pytest.raises(DataError, match=r"sparse\.jsonl has 20,000 different keys in 20,000 objects"):
        load(path)


def test_a_message_about_a_million_columns_to_predict_for_is_short() -> None:
    names = tuple(f"c{i}" for i in range(10**6))
    table = Table("wide.csv", Path(), names, tuple([["x"]] * len(names)), ["wide.csv line 2"])
    with pytest.raises(DataError, match=r"Cannot tell which column of wide\.csv holds the texts") as caught:
        input_column(table, "text", None)
    assert "'c49' and 999950 more" in str(caught.value) and len(str(caught.value)) < 2000


def test_paths_of_what_is_no_file(tmp_path: Path) -> None:
    for i in range(4):
        Image.new("RGB", (8, 8 + i)).save(tmp_path / f"{i}.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    path = tmp_path / "table.csv"
    rows = "".join(f"{i}.png,{'xy'[i % 2]}\n" for i in range(4))
    path.write_text(f"image,label\n{rows}pipe.png,x\nendless.png,y\n")
    with pytest.raises(DataError, match=r"2 files of 6 .*pipe\.png \(not a regular file\), .*endless\.png \(not a reg"):
        load(path)
    path.write_text(f"image,label\n{rows}pipe.png,x\nendless.png,y\na\0b.png,x\n")
    with pytest.raises(DataError, match=r"1 image file of 7 .* not there"):
        load(path, image_column="image")
    task = load(path, skip_bad=True)
    assert len(task.labels) == 4 and any("Left out 3 unreadable images" in note for note in task.notes)
