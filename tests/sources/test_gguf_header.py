"""GGUF headers: whole ones are let through, and no length in a forged one is followed."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from bequest.core.errors import SourceError
from bequest.sources.gguf_header import check_gguf


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def header(*entries: bytes, tensors: int = 0, version: int = 3, count: int | None = None) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, len(entries) if count is None else count) + b"".join(entries)


def array(kind: int, count: int, content: bytes) -> bytes:
    return string("a") + struct.pack("<IIQ", 9, kind, count) + content


WHOLE = (
    string("name") + struct.pack("<I", 8) + string("a model"),
    string("rate") + struct.pack("<If", 6, 0.5),
    array(8, 2, string("one") + string("two")),
    array(5, 3, bytes(12)),
    array(9, 1, struct.pack("<IQ", 0, 2) + bytes(2)),
)
TENSOR = string("weight") + struct.pack("<IQQIQ", 2, 4, 4, 0, 0)


def test_a_whole_header_is_let_through(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(header(*WHOLE, tensors=1) + TENSOR + bytes(64))
    check_gguf(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GGUF",
        b"GGML" + bytes(60),
        header(version=1),
        header(count=2**62),
        header(tensors=2**62),
        header(array(5, 2**62, b"")),
        header(array(8, 2**60, bytes(20))),
        header(string("a") + struct.pack("<IQ", 8, 2**63)),
        header(string("a") + struct.pack("<I", 99) + bytes(20)),
        header(array(9, 1, struct.pack("<IQ", 9, 1) * 9 + bytes(20))),
        header(tensors=1) + string("weight") + struct.pack("<I", 2**31) + bytes(60),
        (header(*WHOLE, tensors=1) + TENSOR)[:-5],
    ],
)
def test_a_forged_one_is_refused_at_once(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"a\.gguf cannot be read as a GGUF file"):
        check_gguf(path)
