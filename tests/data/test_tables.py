"""`bequest.data.tables`: what it reads, and what it refuses in which words."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from bequest.core.errors import DataError
from bequest.core.task import Task
from bequest.data import load


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.csv"


def read(path: Path, content: str, **columns: Any) -> Task:
    path.write_bytes(content.encode())
    return load(path, **columns)


def pairs(task: Task) -> list[tuple[str, str]]:
    return [(task.samples[i], task.classes[label]) for i, label in enumerate(task.labels)]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_delimiters_newlines_and_marks(path: Path, delimiter: str, newline: str, mark: str) -> None:
    lines = ["text|label", '"one, two; three\tfour"|x', '"say ""hi""\r\nthere"|y', "", "plain, or; not|x"]
    lines[-1] = f'"{lines[-1].split("|")[0]}"|x'
    content = mark + newline.join(lines).replace("|", delimiter) + newline
    task = read(path, content)
    assert pairs(task) == [
        ("one, two; three\tfour", "x"),
        ('say "hi"\r\nthere', "y"),
        ("plain, or; not", "x"),
    ]
    assert [task.samples.describe(i) for i in range(3)] == ["t.csv line 2", "t.csv line 3", "t.csv line 6"]


def test_delimiters_within_texts_do_not_mislead(path: Path) -> None:
    task = read(path, "text;label\na, b, c;x\nd, e;y\nf, g;y\n")
    assert pairs(task)[0] == ("a, b, c", "x")


def test_very_large_fields(path: Path) -> None:
    before = csv.field_size_limit(1000)
    large = "word " * 200_000
    task = read(path, f"text,label\n{large},x\nsmall,y\n")
    assert task.samples[0] == large
    assert csv.field_size_limit(before) == 1000


def test_tabs_without_quoting(path: Path) -> None:
    task = read(path, 'sentence\tlabel\n"open\tx\nshut" he said\ty\nplain\ty\n')
    assert pairs(task)[:2] == [('"open', "x"), ('shut" he said', "y")]
    assert task.notes[0].startswith("Read double quotes as they stand")


@pytest.mark.parametrize("content", ['text,label\na,x\n"open,y\nb,x\n', 'text,label\na,x\n"b"c,y\n'])
def test_broken_quotes_name_the_line(path: Path, content: str) -> None:
    with pytest.raises(DataError, match=r"t\.csv is not well-formed CSV: the row that begins on line 3 has "):
        read(path, content)


@pytest.mark.parametrize(
    ("header", "text", "label"),
    [
        ("Label,TEXT", 1, 0),
        ("id,review,sentiment", 1, 2),
        ("class,id,message", 2, 0),
        ("target,text,review", 1, 0),  # of two names the first in the list
        ("category,anything", 1, 0),
        ("anything,body", 1, 0),
    ],
)
def test_columns_are_recognised_by_name(path: Path, header: str, text: int, label: int) -> None:
    names = header.split(",")
    rows = [[f"{name}{i}" for name in names] for i in range(4)]
    task = read(path, "\n".join([header, *map(",".join, rows)]))
    assert pairs(task)[1] == (rows[1][text], rows[1][label])
    assert task.notes == (f"Took texts from the column {names[text]!r} and labels from {names[label]!r}.",)


def test_two_columns_are_recognised_by_their_values(path: Path) -> None:
    rows = "".join(f"{'xy'[i % 2]},{'abcdef'[i]}\n" for i in range(6))
    task = read(path, "foo,bar\n" + rows)
    assert task.classes == ("x", "y")
    assert pairs(task)[0] == ("a", "x")


def test_label_in_two_columns_is_not_the_text(path: Path) -> None:
    task = read(path, "label,text\nx,a\ny,b\nx,c\n", label_column="label")
    assert [text for text, _ in pairs(task)] == ["a", "b", "c"]


@pytest.mark.parametrize("content", ["foo,bar\na,b\nc,d\n", "foo,bar,baz\na,x,1\nb,x,2\nc,y,2\nd,y,1\n"])
def test_unrecognisable_columns_are_listed(path: Path, content: str) -> None:
    with pytest.raises(DataError) as caught:
        read(path, content)
    text = str(caught.value)
    assert "Cannot tell which column of t.csv holds the texts and which the labels; there are: 'foo', 'bar'" in text
    assert "Name them: --text-column NAME --label-column NAME (or --image-column NAME)." in text


def test_only_what_is_missing_is_asked_for(path: Path) -> None:
    with pytest.raises(DataError, match=r"holds the labels; .* Name them: --label-column NAME\."):
        read(path, "text,b,c\na,x,1\nb,y,2\n")


def test_sample_in_place_of_names(path: Path) -> None:
    with pytest.raises(DataError, match=r"first line of t\.csv looks like a sample.* such as text,label\. Add it"):
        read(path, "great film,pos\nawful,neg\nfine,pos\nnice,pos\nbad,neg\n")


def test_columns_are_named(path: Path) -> None:
    content = "text,label,author,part\na,x,1,train\nb,y,2,dev\nc,x,2,TEST\nd,y,1,train\n"
    task = read(path, content, text_column="text", label_column="author", split_column="part")
    assert pairs(task) == [("a", "1"), ("b", "2"), ("c", "2"), ("d", "1")]
    assert task.split == ("train", "validation", "test", "train")
    assert task.notes == ()


@pytest.mark.parametrize("role", ["text", "label", "split"])
def test_wrong_column_names_the_nearest(path: Path, role: str) -> None:
    with pytest.raises(DataError, match=rf"--{role}-column: t\.csv has no column 'auther'.* mean 'author'\?"):
        read(path, "text,label,author\na,x,1\n", **{f"{role}_column": "auther"})


def test_ambiguous_or_repeated_columns(path: Path) -> None:
    with pytest.raises(DataError, match=r"--text-column: t\.csv has 2 columns 'text'; expected one"):
        read(path, "text,text,label\na,b,x\n", text_column="text")
    with pytest.raises(DataError, match=r"named for two purposes: --text-column a, --label-column a\."):
        read(path, "a,b\na,x\n", text_column="a", label_column="a")


def test_split_is_recognised_by_its_values(path: Path) -> None:
    assert read(path, "text,label,Split\na,x,train\nb,y,val\nc,y,train\n").split == (
        "train",
        "validation",
        "train",
    )
    task = read(path, "text,label,split\na,x,left\nb,y,train\n")
    assert task.split == ()
    assert task.notes[0].startswith("The column 'split' is not used: not all of its values are train,")


def test_wrong_parts_are_all_named(path: Path) -> None:
    with pytest.raises(
        DataError, match=r"'part' of t\.csv holds 'x' in t\.csv line 3, '' in t\.csv line 4; expected train, val"
    ):
        read(path, "text,label,part\na,x,train\nb,y,x\nc,y,\n", split_column="part")


def test_ragged_rows_are_all_named(path: Path) -> None:
    with pytest.raises(DataError, match=r"2 rows of .*t\.csv without 2 fields.*: line 3 \(3\), line 5 \(1\)\."):
        read(path, "text,label\na,x\nb,c,y\nd,y\ne\n")


def test_empty_and_one_column_files(path: Path) -> None:
    with pytest.raises(DataError, match="holds nothing; expected a line of column names"):
        read(path, "")
    with pytest.raises(DataError, match="holds a line of column names only; expected"):
        read(path, "text,label\n")
    with pytest.raises(DataError, match="has one column, 'text'; expected a column of texts and one of labels"):
        read(path, "text\na\nb\n")


def test_missing_values_name_their_lines(path: Path) -> None:
    with pytest.raises(DataError, match=r"2 samples without a label: t\.csv line 3, t\.csv line 5\."):
        read(path, "text,label\na,x\nb,\nc,y\nd, \n")
    with pytest.raises(DataError, match=r"1 text without any content: t\.csv line 3\."):
        read(path, "text,label\na,x\n ,y\nc,y\n")


def test_encoding_of_a_table(path: Path) -> None:
    path.write_bytes("text,label\ncafé,x\nthé,y\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"The file is not utf-8 text.*t\.csv \(byte 14\).*--encoding latin-1"):
        load(path)
    assert load(path, encoding="latin-1").samples[0] == "café"
