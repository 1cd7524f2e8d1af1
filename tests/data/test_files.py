"""`bequest.data.files`: regular files alone are read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bequest.data.files import read_regular


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_regular(tmp_path / "file") == read_regular(tmp_path / "link") == b"abc"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    for name in ("pipe", "endless"):
        with pytest.raises(OSError, match="not a regular file"):
            read_regular(tmp_path / name)
    with pytest.raises(OSError, match="Is a directory"):
        read_regular(tmp_path)
    with pytest.raises(OSError, match="No such file"):
        read_regular(tmp_path / "gone")
    for name in ("a\0b", "a\ud800"):
        with pytest.raises(OSError, match=r"null byte|surrogates"):
            read_regular(tmp_path / name)
