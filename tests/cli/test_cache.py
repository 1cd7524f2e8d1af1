from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from bequest.cli.main import main
from bequest.engine.store import Store


@pytest.fixture
def keys(cache: Path) -> list[str]:
    """Two keys, the first used two days ago."""
    hashes = np.arange(48, dtype=np.uint8).reshape(3, 16)
    old = Store(cache).shelf({"what": "encoded", "preprocess": "aaaabbbbcccc"})
    old.add(hashes, [np.zeros(1000)] * 3, 0.0)
    for file in old.folder.iterdir():
        os.utime(file, (time.time() - 50 * 3600,) * 2)
    new = Store(cache).shelf(
        {"what": "features", "preprocess": "aaaabbbbcccc", "body": "ddddeeeeffff", "tap": "layer3"}
    )
    new.add(hashes[:2], [np.zeros(1000)] * 2, 0.0)
    return [old.folder.name, new.folder.name]


def test_ls(keys: list[str], cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEQUEST_CACHE_LIMIT", "3GB")
    assert main(["cache", "ls"]) == 0
    lines = capsys.readouterr().out.splitlines()
    [new, old] = lines[2:4]
    told = [keys[1][:8], "layer3", "ddddeeee", "aaaabbbb", "2"]
    assert new.split() == [*told, *new.split()[5:7], "just", "now"]
    assert old.split() == [keys[0][:8], "encoded", "–", "aaaabbbb", "3", "24.3", "kB", "2", "days", "ago"]
    assert lines[5].startswith("2 keys, ") and lines[5].endswith(" kB of at most 3.0 GB")
    assert str(cache) in lines[6]


def test_ls_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "ls", "--cache", str(tmp_path / "none")]) == 0
    assert capsys.readouterr().out.startswith("0 keys, 0 B of at most ")


def test_clear_by_age(keys: list[str], cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "clear", "--older-than", "1d", "--dry-run"]) == 0
    assert "Would delete 1 key, 24.3 kB." in capsys.readouterr().out
    assert len(Store(cache).shelves()) == 2
    assert main(["cache", "clear", "--older-than", "1d"]) == 0
    assert "Deleted 1 key, 24.3 kB." in capsys.readouterr().out
    assert [shelf.folder.name for shelf in Store(cache).shelves()] == keys[1:]


def test_clear_by_key_and_all(keys: list[str], cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "clear", "--key", keys[1][:8], "--cache", str(cache)]) == 0
    assert [shelf.folder.name for shelf in Store(cache).shelves()] == keys[:1]
    assert main(["cache", "clear", "--all"]) == 0
    assert Store(cache).shelves() == []
    capsys.readouterr()
    assert main(["cache", "clear", "--all"]) == 0
    assert capsys.readouterr().out == "Nothing to delete.\n"


@pytest.mark.parametrize("words", [[], ["--all", "--key", "0"], ["--dry-run"], ["--older-than", "soon"]])
def test_clear_must_be_told_what(
    keys: list[str], cache: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(["cache", "clear", *words]) == 1
    assert "e.g. " in capsys.readouterr().err
    assert len(Store(cache).shelves()) == 2
