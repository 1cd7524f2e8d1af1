"""`bequest.data.text`: what it reads, and what it refuses in which words."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from bequest.core.errors import DataError
from bequest.data.text import Texts, fitting_codec, opened, read_sound_texts, read_texts


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_hash_is_of_the_exact_text() -> None:
    texts = Texts(["café", "café ", "\ud800"], ["a", "b", "c"])
    assert texts.content_hash(0) == hashlib.blake2b("café".encode(), digest_size=16).digest()
    assert len({texts.content_hash(i) for i in range(3)}) == 3


def test_mark_is_dropped_and_newlines_stay(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\ntwo\n")
    assert list(read_texts([path], "utf-8")) == ["one\r\ntwo\n"]
    wide = write(tmp_path / "b.txt", "é".encode("utf-16"))
    assert list(read_texts([wide], "utf-16")) == ["é"]


def test_every_undecodable_file_is_named_with_the_byte(tmp_path: Path) -> None:
    good = write(tmp_path / "good.txt", "£".encode())
    bad = [write(tmp_path / f"bad{i:02}.txt", b"abc" + b"\xa3") for i in range(12)]
    with pytest.raises(DataError) as caught:
        read_texts([good, *bad], "utf-8")
    text = str(caught.value)
    assert text.startswith(f"12 files of 13 are not utf-8 text, from the byte given: {bad[0]} (byte 3), ")
    assert all(str(path) in text for path in bad)
    assert str(good) not in text
    assert "--encoding utf-8,latin-1 to read each file by the first that fits, or --encoding latin-1" in text


def test_encodings_are_tried_file_by_file(tmp_path: Path) -> None:
    paths = [write(tmp_path / "a", "£".encode()), write(tmp_path / "b", "£".encode("latin-1"))]
    assert list(read_texts(paths, "utf-8, latin-1")) == ["£", "£"]
    assert list(read_texts(paths, "latin-1")) == ["Â£", "£"]
    with pytest.raises(DataError, match=r"1 file of 2 is not ascii,utf-8 text.*b \(byte 0\)"):
        read_texts(paths, "ascii,utf-8")


def test_one_file_is_told_its_likely_encoding(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^The file is not utf-8 text.*pass the encoding: --encoding latin-1"):
        read_texts([write(tmp_path / "a", b"\xa3")], "utf-8")
    with pytest.raises(DataError, match="--encoding utf-16, which the first bytes announce"):
        read_texts([write(tmp_path / "a", "text".encode("utf-16"))], "utf-8")


@pytest.mark.parametrize("name", ["utf-99", "base64", ""])
def test_unknown_encoding(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=rf"There is no text encoding '{name}'; expected .* Correct --encoding"):
        read_texts([write(tmp_path / "a", b"a")], f"utf-8,{name}")


def test_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read .*gone.txt \(No such file"):
        read_texts([tmp_path / "gone.txt"], "utf-8")


def test_sound_files_are_told_from_others(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "a", b"a"),
        write(tmp_path / "b", b"\xa3"),
        tmp_path / "gone",
        write(tmp_path / "c", b"c"),
    ]
    texts, kept = read_sound_texts(paths, "utf-8")
    assert (list(texts), kept.tolist()) == (["a", "c"], [0, 3])


def test_a_large_file_is_decoded_in_pieces(tmp_path: Path) -> None:
    path = write(tmp_path / "a", "é".encode() * 2**20)  # pieces end within a character
    assert fitting_codec(path, "ascii,utf-8") == "utf-8"
    path = write(tmp_path / "b", "é".encode() * 2**20 + b"\xa3")
    with pytest.raises(DataError, match=r"b \(byte 2097152\)"):
        fitting_codec(path, "utf-8")
    with opened(write(tmp_path / "c", b"\xef\xbb\xbfone\r\n"), "utf-8") as stream:
        assert stream.read() == "one\r\n"


@pytest.mark.parametrize("name", ["utf-7", "unicode_escape", "utf-8,raw_unicode_escape"])
def test_encodings_of_half_characters_are_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.txt", b"+2AA-")
    for read in (lambda: read_texts([path], name), lambda: fitting_codec(path, name)):
        with pytest.raises(DataError, match=r"can stand for half characters, .* expected one such as utf-8"):
            read()
