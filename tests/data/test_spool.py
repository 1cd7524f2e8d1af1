"""`bequest.data.spool`."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from bequest.core.errors import DataError
from bequest.data import spool
from bequest.data.spool import Lazy, Spool, joined, picked, spool_columns, spool_hashes, spool_texts


@pytest.fixture(params=["in memory", "in a file"])
def _where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "in a file":
        monkeypatch.setattr(spool, "_IN_MEMORY_BYTES", 1)


@pytest.mark.usefixtures("_where")
def test_cells_come_back_as_they_were() -> None:
    rows = [["café", 1, 2.5], ["", None, True], ["\0null", ["a", {"b": 1}], "\ud800"], ["x" * 3000, "[1]", "null"]]
    columns = spool_columns(iter(rows), 3)
    assert [list(column) for column in columns] == [list(column) for column in zip(*rows, strict=True)]
    assert columns[0][-1] == rows[3][0]
    assert columns[1][1:3] == [None, ["a", {"b": 1}]]
    with pytest.raises(IndexError):
        columns[0][4]


@pytest.mark.usefixtures("_where")
def test_texts_hashes_and_nothing() -> None:
    assert list(spool_texts(["a", "", "b"])) == ["a", "", "b"]
    assert spool_hashes([b"0" * 16, b"1" * 16]).tobytes() == b"0" * 16 + b"1" * 16
    assert spool_hashes([]).shape == (0, 16)
    assert [len(column) for column in spool_columns([], 2)] == [0, 0]


@pytest.mark.usefixtures("_where")
def test_they_can_be_sent_to_another_process() -> None:
    texts = spool_texts(["a", "bc"])
    assert list(pickle.loads(pickle.dumps(texts))) == ["a", "bc"]


def test_files_have_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    texts = spool_texts(["x" * 1000] * 3000)
    assert texts[2999] == "x" * 1000
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/dev/null")
    with pytest.raises(DataError, match=r"Cannot write to the folder of temporary files, /dev/null: .* set TMPDIR"):
        Spool().write(b"x" * 2**21)


def test_picked_and_joined() -> None:
    assert list(picked("abc", np.array([2, 0]))) == ["c", "a"]
    many = joined([[1, 2], [], [3]])
    assert (list(many), many[-1], len(many)) == ([1, 2, 3], 3, 3)
    with pytest.raises(IndexError):
        many[3]
    assert Lazy(3, str)[-1] == "2"
