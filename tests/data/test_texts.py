"""Texts without labels, for language models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bequest.core.errors import DataError
from bequest.data import from_arrays, from_texts, load


def samples(task: Any) -> list[Any]:
    assert task.kind == "causal-lm" and task.classes == () and task.labels.shape == (len(task.samples), 0)
    return [task.samples[i] for i in range(len(task.samples))]


def table(folder: Path, rows: list[dict[str, Any]], name: str = "corpus.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_a_text_file_is_divided_at_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes(b"one\r\nline\r\n\r\n  two\n \n\nthree, and a comma\n")
    task = load(path, task="causal-lm")
    assert samples(task) == ["one\r\nline\r", "  two", "three, and a comma\n"]
    assert task.notes == ("Divided book.txt at blank lines into 3 texts. To have it otherwise: a folder of files.",)
    assert load(**task.origin).fingerprint == task.fingerprint


def test_a_folder_of_text_files_each_a_text(tmp_path: Path) -> None:
    for name, text in (("a/1.txt", "first\n\nstill"), ("a/2.txt", "second"), ("b.txt", "third"), ("c.md", "no")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    task = load(tmp_path, task="causal-lm")
    assert samples(task) == ["first\n\nstill", "second", "third"]
    assert task.split == () and "Ignored 1 other file: 1 .md." in task.notes
    assert task.samples.describe(2).endswith("b.txt")


def test_folders_that_are_given_parts(tmp_path: Path) -> None:
    for name in ("train/1.txt", "train/deep/2.txt", "test/3.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    task = load(tmp_path, task="causal-lm")
    parts = dict(zip(samples(task), task.split, strict=True))
    assert parts == {"train/1.txt": "train", "train/deep/2.txt": "train", "test/3.txt": "test"}


def test_a_folder_without_texts(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("x")
    with pytest.raises(DataError, match=r"holds no .txt files. There are: 1 .md. Expected some, each a text"):
        load(tmp_path, task="causal-lm")


def test_a_column_of_texts(tmp_path: Path) -> None:
    task = load(table(tmp_path, [{"text": "a b", "id": 1}, {"text": "c d", "id": 2}]), task="causal-lm")
    assert samples(task) == ["a b", "c d"] and "Took texts from 'text'." in task.notes
    alone = load(table(tmp_path, [{"body text": "a b"}, {"body text": "c d"}]), task="causal-lm")
    assert samples(alone) == ["a b", "c d"]
    csv = tmp_path / "one.csv"
    csv.write_text('text\n"a, b"\nc\n')
    assert samples(load(csv, task="causal-lm")) == ["a, b", "c"]


def test_prompts_and_completions(tmp_path: Path) -> None:
    path = table(tmp_path, [{"prompt": "1+1=", "completion": "2"}, {"prompt": "1+2=", "completion": "3"}])
    task = load(path, task="causal-lm")
    assert samples(task) == [("1+1=", "2"), ("1+2=", "3")]
    assert "Took prompts from the column 'prompt' and completions from 'completion'." in task.notes
    other = table(tmp_path, [{"x": "a", "y": "b", "split": "train"}, {"x": "c", "y": "d", "split": "test"}])
    named = load(other, task="causal-lm", text_column="x", label_column="y")
    assert samples(named) == [("a", "b"), ("c", "d")] and named.split == ("train", "test")
    assert samples(load(other, task="causal-lm", text_column="x")) == ["a", "c"]


def test_one_prompt_may_have_several_completions_and_duplicates_are_dropped(tmp_path: Path) -> None:
    rows = [{"prompt": "hi", "completion": c} for c in ("ho", "he", "ho")]
    task = load(table(tmp_path, rows), task="causal-lm")
    assert samples(task) == [("hi", "ho"), ("hi", "he")]
    assert "Dropped 1 exact duplicate, keeping one of each." in task.notes


def test_faults_of_tables(tmp_path: Path) -> None:
    path = table(tmp_path, [{"x": "a", "y": "b"}])
    with pytest.raises(DataError, match=r"Cannot tell which column of corpus.jsonl holds the texts; there are: 'x'"):
        load(path, task="causal-lm")
    with pytest.raises(DataError, match="--group-column given, but --task causal-lm reads texts alone"):
        load(path, task="causal-lm", text_column="x", group_column="y")
    empty = table(tmp_path, [{"prompt": "a", "completion": " "}, {"prompt": "", "completion": "b"}])
    with pytest.raises(DataError, match=r"1 text without any content: corpus.jsonl line 1"):
        load(empty, task="causal-lm")
    (tmp_path / "b.txt").write_text("a\n\nb")
    with pytest.raises(DataError, match=r"--text-column given, but .* is no table"):
        load(tmp_path / "b.txt", task="causal-lm", text_column="x")


def test_texts_from_python() -> None:
    assert samples(from_texts(["a b", "c d"])) == ["a b", "c d"]
    pairs = from_texts([("a", "b")], test=[["c", "d"]])
    assert samples(pairs) == [("a", "b"), ("c", "d")] and pairs.split == ("train", "test")
    with pytest.raises(DataError, match=r"1 text of 2 of another kind: texts\[1\]. Expected str, or pairs"):
        from_texts(["a", ("b", "c")])
    with pytest.raises(DataError, match="none at all"):
        from_texts([])


def test_labels_are_refused() -> None:
    with pytest.raises(DataError, match="--task causal-lm is for texts without labels, but labels are given"):
        from_arrays(["a", "b"], ["x", "y"], task="causal-lm")
