"""`bequest.data.tables`: what it reads, and what it refuses in which words."""

from __future__ import annotations

import csv
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bequest.core.errors import DataError
from bequest.core.task import Task
from bequest.data import load, spool


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


def test_label_columns_with_commas_are_several(path: Path) -> None:
    task = read(path, "text,toxic,rude,other\na,1,0,7\nb,0,1,8\nc,1,1,9\n", label_column="toxic, rude")
    assert (task.kind, task.classes, task.labels.tolist()) == (
        "multi-label",
        ("toxic", "rude"),
        [[1, 0], [0, 1], [1, 1]],
    )
    assert task.notes == ("Took texts from the column 'text' and labels from 'toxic', 'rude'.",)
    again = load(path, label_column=["toxic", "rude"])
    assert again.fingerprint == task.fingerprint
    with pytest.raises(DataError, match=r"--label-column: t\.csv has no column 'rudee'.* mean 'rude'\?"):
        load(path, label_column="toxic,rudee")


def test_a_column_whose_name_has_a_comma(path: Path) -> None:
    assert read(path, 'text,"a,b"\none,x\ntwo,y\n', label_column="a,b").classes == ("x", "y")


def test_several_targets_and_one(path: Path) -> None:
    content = "text,height,width\na,1.5,2\nb,2.5,3\nc,0,4\n"
    task = read(path, content, label_column="height,width")
    assert (task.kind, task.classes, task.labels.tolist()) == (
        "regression",
        ("height", "width"),
        [[1.5, 2], [2.5, 3], [0, 4]],
    )
    one = load(path, label_column="width", task="regression")
    assert (one.kind, one.labels.tolist()) == ("regression", [[2], [3], [4]])
    assert load(path, label_column="width").kind == "classification"


def test_regression_faults_name_their_lines(path: Path) -> None:
    with pytest.raises(DataError, match=r"2 labels .*: t\.csv line 3 \('high'\), t\.csv line 4 \('inf'\)\."):
        read(path, "text,label\na,1.5\nb,high\nc,inf\nd,2\n", task="regression")


def test_groups(path: Path) -> None:
    content = "text,label,place\na,x,water\nb,y,land\nc,x,land\n"
    task = read(path, content, group_column="place")
    assert task.groups is not None
    assert (task.group_names, task.groups.tolist(), task.groups.dtype) == (("land", "water"), [1, 0, 0], int)
    assert read(path, content).groups is None
    with pytest.raises(DataError, match=r"1 sample without a group: t\.csv line 3\."):
        read(path, "text,label,place\na,x,water\nb,y,\nc,x,land\n", group_column="place")


def save_images(folder: Path, *names: str) -> None:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / name)


@pytest.mark.parametrize("column", ["image", "file", "path", "filename", "image_path", "Image"])
def test_image_columns_are_recognised(path: Path, column: str) -> None:
    save_images(path.parent, "pictures/a.png", "pictures/b.JPG", "c.png")
    task = read(path, f"{column},label\npictures/a.png,x\npictures/b.JPG,y\n{path.parent / 'c.png'},x\n")
    assert (task.modality, task.kind, len(task.labels)) == ("image", "classification", 3)
    assert task.samples[0].getpixel((0, 0)) == (0, 0, 0)
    assert task.samples[2].getpixel((0, 0)) == (2, 0, 0)
    assert task.samples.describe(1) == str(path.parent / "pictures/b.JPG")
    assert task.notes == (f"Took images from the column {column!r} and labels from 'label'.",)


def test_image_columns_by_name_are_texts_without_the_suffix(path: Path) -> None:
    assert read(path, "file,label\na.txt,x\nb.png,y\n").modality == "text"
    with pytest.raises(DataError, match=r"2 image files of 2 .* are not there"):
        load(path, image_column="file")


def test_missing_images_are_all_named(path: Path) -> None:
    save_images(path.parent, "a.png")
    rows = "".join(f"gone{i}.png,y\n" for i in range(12))
    with pytest.raises(DataError) as caught:
        read(path, "image,label\na.png,x\n" + rows)
    text = str(caught.value)
    assert text.startswith("12 image files of 13 that t.csv names are not there: ")
    assert f"{path.parent / 'gone9.png'} (t.csv line 12) and 2 more. Expected paths from {path.parent}" in text
    assert "--skip-bad" in text
    with pytest.raises(DataError, match=r"1 row without a path in the column 'image': t\.csv line 3\."):
        read(path, "image,label\na.png,x\n,y\n", image_column="image")


def test_bad_images_are_skipped_with_all_that_belongs_to_them(path: Path) -> None:
    save_images(path.parent, "a.png", "b.png", "c.png")
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    Image.fromarray(noise).save(path.parent / "cut.jpg")
    (path.parent / "cut.jpg").write_bytes((path.parent / "cut.jpg").read_bytes()[:-400])
    (path.parent / "words.png").write_text("no image")
    content = (
        "image,label,g,split\nwords.png,y,1,train\na.png,x,2,train\ncut.jpg,x,1,test\nb.png,y,3,test\nc.png,x,2,test\n"
    )
    with pytest.raises(DataError, match=r"1 file of 5 cannot be read as images: .*words\.png .*--skip-bad"):
        read(path, content)
    task = load(path, skip_bad=True, group_column="g")
    assert [task.classes[i] for i in task.labels] == ["x", "y", "x"]
    assert (task.split, task.group_names) == (("train", "test", "test"), ("2", "3"))
    assert task.notes[-1] == (
        f"Left out 2 unreadable images: {path.parent / 'words.png'}, {path.parent / 'cut.jpg'} (--skip-bad)."
    )
    assert task.samples[2].getpixel((0, 0)) == (2, 0, 0)
    assert len({task.samples.content_hash(i) for i in range(3)}) == 3
    assert load(**task.origin).fingerprint == task.fingerprint
    with pytest.raises(DataError, match=r"None of the 2 images can be read"):
        read(path, "image,label\nwords.png,y\ncut.jpg,x\n", skip_bad=True)


def test_texts_and_images_in_one_table_must_be_told_apart(path: Path) -> None:
    save_images(path.parent, "a.png", "b.png")
    content = "image,caption,text,label\na.png,c,one,x\nb.png,d,two,y\n"
    with pytest.raises(DataError, match=r"--image-column image or --text-column text"):
        read(path, content)
    assert load(path, image_column="image").modality == "image"
    assert load(path, text_column="caption").samples[1] == "d"
    with pytest.raises(DataError, match="--text-column and --image-column are both given"):
        load(path, text_column="text", image_column="image")


def test_tables_of_a_folder_are_parts_by_their_names(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("id,text,label\n1,a,x\n2,b,y\n3,c,x\n")
    (tmp_path / "my_test.tsv").write_text("label\ttext\ny\td\nx\te\n")
    (tmp_path / "validation.jsonl").write_text('{"text": "f", "label": "x"}\n')
    (tmp_path / "README.md").touch()
    task = load(tmp_path)
    parts = {task.samples[i]: (part, task.classes[task.labels[i]]) for i, part in enumerate(task.split)}
    assert parts == {
        "a": ("train", "x"),
        "b": ("train", "y"),
        "c": ("train", "x"),
        "d": ("test", "y"),
        "e": ("test", "x"),
        "f": ("validation", "x"),
    }
    assert (task.name, task.notes[0]) == (tmp_path.name, "Ignored columns that not every table has: 'id'.")
    places = [task.samples.describe(i) for i in range(6)]
    assert places[0] == "my_test.tsv line 2"
    several = load([tmp_path / "my_test.tsv", tmp_path / "train.csv"])
    assert (len(several.labels), load(**several.origin).fingerprint) == (5, several.fingerprint)
    with pytest.raises(DataError, match=r"parts of .* are given by files or splits already"):
        load(tmp_path, split_column="label", label_column="text")


def test_tables_without_parts_are_one(tmp_path: Path) -> None:
    for name, rows in (("a", "a,x\nb,y\n"), ("b", "c,x\nd,y\n")):
        (tmp_path / f"{name}.csv").write_text("text,label\n" + rows)
    assert (len(load(tmp_path).labels), load(tmp_path).split) == (4, ())
    (tmp_path / "a.csv").rename(tmp_path / "train.csv")
    with pytest.raises(DataError, match=r"given parts by their names, but not b\.csv"):
        load(tmp_path)
    (tmp_path / "b.csv").unlink()
    (tmp_path / "train.csv").rename(tmp_path / "test.csv")
    (tmp_path / "dev.csv").write_text("text,label\ne,x\n")
    with pytest.raises(DataError, match=r"None of the tables is the train part: dev\.csv, test\.csv"):
        load(tmp_path)


def test_tables_beside_their_images(tmp_path: Path) -> None:
    save_images(tmp_path, "pictures/a.png", "pictures/b.png")
    (tmp_path / "labels.csv").write_text("file,label\npictures/a.png,x\npictures/b.png,y\n")
    assert load(tmp_path).modality == "image"
    save_images(tmp_path, "pictures/a.png", "pictures/b.png", "more/c.png")
    assert load(tmp_path).classes == ("more", "pictures")  # class folders, with a stray table
    (tmp_path / "labels.csv").rename(tmp_path / "train.csv")
    assert load(tmp_path).classes == ("x", "y")


def test_a_part_whose_labels_are_secret_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\na,x\nb,y\n")
    (tmp_path / "test.csv").write_text("text,label\nc,\nd,\n")
    task = load(tmp_path)
    assert (len(task.labels), task.split) == (2, ("train", "train"))
    assert "The given test part is not used: it has no labels." in task.notes
    (tmp_path / "test.csv").write_text("text,label\nc,\nd,y\n")
    with pytest.raises(DataError, match=r"1 sample without a label: test\.csv line 2"):
        load(tmp_path)


def test_contradictions_of_other_kinds(path: Path) -> None:
    content = "text,label\na,1.5\na,2.5\nb,1.5\nb,1.5\nc,3\n"
    task = read(path, content)
    assert task.labels.tolist() == [[1.5], [3]]
    assert "Dropped 1 exact duplicate" in task.notes[-2]
    assert "t.csv line 2 (1.5) = t.csv line 3 (2.5)" in task.notes[-1]
    tagged = read(path, "text,label\na,x|y\na,y\nb,x\nc,y\n", task="multi-label")
    assert "t.csv line 2 ('x|y') = t.csv line 3 ('y')" in tagged.notes[-1]


def test_memory_does_not_grow_with_the_rows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stays of 8,000 texts is the number of each one's class."""
    with path.open("w") as stream:
        stream.write("text,label\n")
        stream.writelines(f"{'word ' * 20}{i},c{i % 5}\n" for i in range(8_000))
    monkeypatch.setattr(spool, "_IN_MEMORY_BYTES", 4096)
    load(path)
    tracemalloc.start()
    try:
        task = load(path)
        # Other threads of the process have allocations of their own.
        ours = tracemalloc.Filter(True, "*/bequest/*")
        held = sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([ours]).traces)
    finally:
        tracemalloc.stop()
    assert len(task.hashes) == 8_000
    assert 8_000 * 8 <= held < 8_000 * 8 + 100_000
