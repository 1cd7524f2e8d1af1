"""`bequest.data.loading`: what it reads, and what it refuses in which words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bequest.core.errors import DataError
from bequest.data import load


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.csv"
    path.write_text("text,label,split\ngood,1,train\nbad,0,train\nfine,1,test\n")
    return path


def test_origin_replays_the_load(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(table.parent)
    task = load("reviews.csv", text_column="text", encoding="latin-1")
    assert task.origin == {
        "path": str(table),
        "task": "auto",
        "text_column": "text",
        "image_column": None,
        "label_column": None,
        "split_column": None,
        "group_column": None,
        "encoding": "latin-1",
        "skip_bad": False,
    }
    monkeypatch.chdir("/")
    assert load(**task.origin).fingerprint == task.fingerprint
    assert task.name == "reviews"


def test_home_is_expanded(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(table.parent))
    assert load("~/reviews.csv").origin["path"] == str(table)


def test_missing_path_names_its_neighbours(table: Path) -> None:
    with pytest.raises(DataError, match=r"holds no 'review\.csv'.* Did you mean 'reviews\.csv'\?"):
        load(table.parent / "review.csv")
    with pytest.raises(DataError, match=r"holds no 'zzz'.* There are: reviews\.csv\."):
        load(table.parent / "zzz" / "deeper" / "x.csv")
    with pytest.raises(DataError, match=r"reviews\.csv is a file\. Expected a folder of class folders"):
        load(table / "train")


def test_long_lists_of_neighbours_are_cut(tmp_path: Path) -> None:
    for i in range(50):
        (tmp_path / f"file{i:02}").touch()
    with pytest.raises(DataError) as caught:
        load(tmp_path / "zzz")
    assert "file19." in str(caught.value)
    assert "file20" not in str(caught.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").touch()
    with pytest.raises(DataError, match=r"a\.xlsx; expected a folder of class folders, or a table \(\.csv, "):
        load(tmp_path / "a.xlsx")


def test_columns_of_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--text-column, --split-column given, but .* is a folder of class folders"):
        load(tmp_path, text_column="text", split_column="part")


def test_a_class_folder_is_a_classification(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.txt").write_text(name)
    assert load(tmp_path, task="classification").kind == "classification"
    with pytest.raises(DataError, match=r"--task regression given, but .* is a folder of class folders, which is a cl"):
        load(tmp_path, task="regression")
    with pytest.raises(DataError, match=r"--task is 'multilabel'; expected .* mean 'multi-label'\?"):
        load(tmp_path, task="multilabel")  # type: ignore[arg-type]


def test_what_is_no_path_is_refused() -> None:
    with pytest.raises(DataError, match=r"Cannot read labelled data from a dict; expected a path"):
        load({"text": []})
    with pytest.raises(DataError, match=r"No path is given"):
        load([])


def test_several_paths(table: Path, tmp_path: Path) -> None:
    assert load([table]).fingerprint == load(table).fingerprint
    with pytest.raises(DataError, match=r"holds no 'gone\.csv'"):
        load([table, tmp_path / "gone.csv"])
    with pytest.raises(DataError, match=rf"Cannot read labelled data from {tmp_path}; expected a folder"):
        load([table, tmp_path])


def test_import_is_quick() -> None:
    code = "import sys, bequest.data; print(*{'PIL', 'torch', 'pandas'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == ""
