"""`bequest.data.formats` beside CSV (`test_tables.py`): what it reads, and what it refuses in which words."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from bequest.core.errors import DataError
from bequest.data import load
from bequest.data.formats import read_table

ROWS = [
    {"id": 1, "text": "good\nfilm", "label": "pos"},
    {"id": 2, "text": "café", "label": "neg"},
    {"id": 3, "text": "fine", "label": "pos", "late": 0.5},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    elif path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix in (".csv", ".tsv"):
        lines = [rows[0].keys(), *(row.values() for row in rows)]
        path.write_text("".join(("," if path.suffix == ".csv" else "\t").join(map(str, r)) + "\n" for r in lines))
    else:
        path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json", ".parquet"])
def test_every_format_gives_the_same_task(tmp_path: Path, suffix: str) -> None:
    task = load(write(tmp_path / f"t{suffix}", ROWS))
    assert [task.samples[i] for i in range(3)] == ["good\nfilm", "café", "fine"]
    assert [task.classes[i] for i in task.labels] == ["pos", "neg", "pos"]
    assert task.notes == ("Took texts from the column 'text' and labels from 'label'.",)
    expected = {".json": "item 2", ".parquet": "row 2"}.get(suffix, "line 3")
    assert task.samples.describe(1) == f"t{suffix} {expected}"
    (tmp_path / "t.csv").write_text('id,text,label\n1,"good\nfilm",pos\n2,café,neg\n3,fine,pos\n')
    assert task.fingerprint == load(tmp_path / "t.csv").fingerprint


def test_json_lines_in_a_json_file(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    assert len(load(path).labels) == 3


def test_cells_that_are_not_there_are_none(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "t.jsonl", ROWS), "utf-8")
    assert table.columns == ("id", "text", "label", "late")
    assert list(table.values[3]) == [None, None, 0.5]
    with pytest.raises(DataError, match=r"2 samples without a label: t\.jsonl line 1, t\.jsonl line 3\."):
        load(tmp_path / "t.jsonl", label_column="late")


def test_texts_that_are_none_or_lists_are_told(tmp_path: Path) -> None:
    rows = [{"text": ["a"], "label": "x"}, {"text": "b", "label": "y"}, {"text": {"c": 1}, "label": "y"}]
    with pytest.raises(
        DataError, match=r"2 cells of the column 'text' that are no text: t\.jsonl line 1 \(list\), t\.jsonl line 5"
    ):
        load(write(tmp_path / "t.jsonl", rows))
    rows[0]["text"], rows[2]["text"] = None, "c"
    with pytest.raises(DataError, match=r"1 text without any content: t\.jsonl line 1\."):
        load(write(tmp_path / "t.jsonl", rows))


def test_broken_lines_are_all_named(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "a", "label": 1}\n{"text": \n[1]\n{"text": "b", "label": 2}\n"x"\n')
    with pytest.raises(
        DataError,
        match=r"3 lines of .*t\.jsonl are no JSON object: line 2 \(Expecting .*\), line 3 \(list\), line 5 \(str",
    ):
        load(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "holds nothing; expected objects"),
        ("[]", "holds nothing; expected objects"),
        ("7", "holds no JSON list; expected a list of objects"),
        ('[{"a": 1}, 2, "x"]', r"2 items of .* are no JSON object: item 2 \(int\), item 3 \(str\)"),
        ('[{"a": 1}, {"a" 1}]', "is not well-formed JSON, in item 2: Expecting ':'"),
        ('[{"a": 1} {"a": 1}]', "after item 1 stands '{\"a\": 1}]'; expected a comma"),
        ('[{"a": 1}', "after item 1 stands ''; expected a comma"),
    ],
)
def test_broken_json(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(DataError, match=expected):
        load(tmp_path / "t.json")


def test_parquet_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.parquet").touch()
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"expected pyarrow\. Install it: pip install 'bequest\[tables\]'"):
        load(tmp_path / "t.parquet")


def test_parquet_that_is_none_or_holds_bytes(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "t.parquet").write_text("text,label\n")
    with pytest.raises(DataError, match=r"t\.parquet cannot be read as a Parquet file: "):
        load(tmp_path / "t.parquet")
    rows = [{**row, "raw": b"\0", "nested": {"a": 1}} for row in ROWS]
    task = load(write(tmp_path / "t.parquet", rows))
    assert "'raw' (binary), 'nested' (struct<a: int64>)." in task.notes[0]


def test_parquet_lists_are_multi_label(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": ["x", "y"]}, {"text": "b", "label": ["y"]}, {"text": "c", "label": []}]
    task = load(write(tmp_path / "t.parquet", rows))
    assert (task.kind, task.classes, task.labels.tolist()) == ("multi-label", ("x", "y"), [[1, 1], [0, 1], [0, 0]])


def test_tsv_is_divided_at_tabs_whatever_else_it_holds(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("text,with,commas\tlabel\na,b,c\tx\nd,e,f\ty\n")
    assert load(tmp_path / "t.tsv", text_column="text,with,commas").samples[0] == "a,b,c"


def test_encodings_of_json(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes('{"text": "é", "label": 1}\n{"text": "b", "label": 2}\n'.encode("latin-1"))
    with pytest.raises(DataError, match=r"The file is not utf-8 text.*t\.jsonl \(byte 10\)"):
        load(tmp_path / "t.jsonl")
    assert load(tmp_path / "t.jsonl", encoding="utf-8,latin-1").samples[0] == "é"
    (tmp_path / "u.jsonl").write_text('\ufeff{"text": "é", "label": 1}\n{"text": "b", "label": 2}\n')
    assert load(tmp_path / "u.jsonl").samples[0] == "é"
