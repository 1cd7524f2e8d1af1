"""Texts; and their decoding, which reports every file that does not fit at once."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TextIO

import numpy as np

from bequest.core.errors import DataError
from bequest.core.task import HashArray, IntArray, Modality
from bequest.data.messages import counted, listed
from bequest.data.spool import spool_hashes, spool_texts

_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Texts:
    """Texts.

    Attributes:
        texts: The texts, exactly as they were decoded.
        places: Where each came from.
    """

    texts: Sequence[str]
    places: Sequence[str]

    @property
    def modality(self) -> Modality:
        """Always `text`."""
        return "text"

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> str:
        return self.texts[index]

    @cached_property
    def hashes(self) -> HashArray:
        """uint8 (samples, 16)."""
        return spool_hashes(map(_text_hash, self.texts))

    def content_hash(self, index: int) -> bytes:
        """BLAKE2b of the text as UTF-8 (16 bytes)."""
        return _text_hash(self.texts[index])

    def describe(self, index: int) -> str:
        """The file, or the row of a table or list."""
        return self.places[index]


@dataclass(frozen=True)
class Completions:
    """Prompts, each with what completes it.

    Attributes:
        prompts: The prompts; may be empty.
        completions: What follows each.
        places: Where each pair came from.
    """

    prompts: Sequence[str]
    completions: Sequence[str]
    places: Sequence[str]

    @property
    def modality(self) -> Modality:
        """Always `text`."""
        return "text"

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: int) -> tuple[str, str]:
        return self.prompts[index], self.completions[index]

    @cached_property
    def hashes(self) -> HashArray:
        """uint8 (samples, 16)."""
        return spool_hashes(self.content_hash(i) for i in range(len(self)))

    def content_hash(self, index: int) -> bytes:
        """BLAKE2b of both texts' hashes (16 bytes)."""
        return hashlib.blake2b(b"".join(map(_text_hash, self[index])), digest_size=16).digest()

    def describe(self, index: int) -> str:
        """The row of a table or list."""
        return self.places[index]


def read_texts(paths: Sequence[Path], encoding: str) -> Sequence[str]:
    """The text of every file, without a byte order mark, newlines as they are.

    Args:
        paths: The files.
        encoding: A codec's name, or several with commas between: each file is read with the first that fits.

    Raises:
        DataError: An encoding is unknown or not of whole characters, or files cannot be read or decoded: all of them
            are named.
    """
    texts, faults = _read(paths, encoding)
    if faults.unread:
        raise DataError(
            f"Cannot read {listed(faults.unread)}; expected readable files. Check their permissions, or leave them "
            "out: --skip-bad."
        )
    if faults.undecoded:
        raise DataError(_undecoded_message(faults.undecoded, len(paths), encoding, "; or leave them out: --skip-bad"))
    return texts


def read_sound_texts(paths: Sequence[Path], encoding: str) -> tuple[Sequence[str], IntArray]:
    """The text of every file that can be read and decoded, and the positions of those files.

    Args:
        paths: The files.
        encoding: As for `read_texts`.

    Raises:
        DataError: An encoding is unknown.
    """
    texts, faults = _read(paths, encoding)
    return texts, np.setdiff1d(np.arange(len(paths)), np.array(faults.positions, np.int64))


@contextmanager
def opened(path: Path, codec: str) -> Iterator[TextIO]:
    """A text file, newlines as they are, after its byte order mark."""
    with path.open(encoding=codec, newline="") as stream:
        if stream.read(1) != "\ufeff":
            stream.seek(0)
        yield stream


def fitting_codec(path: Path, encoding: str) -> str:
    """The first codec that decodes the whole file.

    Args:
        path: The file.
        encoding: As for `read_texts`.

    Raises:
        DataError: An encoding is unknown, or the file cannot be read, or none decodes it.
    """
    names = _codecs(encoding)
    try:
        fitting = next((name for name in names if _fits(path, name)), None)
        if fitting is None:
            _decode(path.read_bytes(), names)
    except OSError as error:
        raise DataError(
            f"Cannot read {path} ({error.strerror or error}); expected a readable file. Check its permissions."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(_undecoded_message([_Undecoded.of(path, error)], 1, encoding, "")) from error
    return fitting or names[0]


def _fits(path: Path, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    with path.open("rb") as stream:
        try:
            while chunk := stream.read(_CHUNK_BYTES):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


@dataclass(frozen=True)
class _Undecoded:
    path: Path
    byte: int
    is_utf16: bool

    @staticmethod
    def of(path: Path, error: UnicodeDecodeError) -> _Undecoded:
        return _Undecoded(path, error.start, error.object.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)))


@dataclass(frozen=True)
class _Faults:
    positions: list[int]
    unread: list[str]
    undecoded: list[_Undecoded]


def _read(paths: Sequence[Path], encoding: str) -> tuple[Sequence[str], _Faults]:
    names, faults = _codecs(encoding), _Faults([], [], [])

    def texts() -> Iterator[str]:
        for i, path in enumerate(paths):
            try:
                yield _decode(path.read_bytes(), names)
            except UnicodeDecodeError as error:
                faults.positions.append(i)
                faults.undecoded.append(_Undecoded.of(path, error))
            except OSError as error:
                faults.positions.append(i)
                faults.unread.append(f"{path} ({error.strerror or error})")

    return spool_texts(texts()), faults


def _text_hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


def _codecs(encoding: str) -> list[str]:
    names = [name.strip() for name in encoding.split(",")]
    for name in names:
        try:
            b"a".decode(name)
        except LookupError:
            raise DataError(
                f"There is no text encoding {name!r}; expected one that Python knows, such as utf-8, latin-1 "
                "or cp1252. Correct --encoding."
            ) from None
        except UnicodeDecodeError:
            pass  # a codec of two or four bytes a character
        if _makes_halves(name):
            raise DataError(
                f"The text encoding {name!r} can stand for half characters, which no file can hold; expected one such "
                "as utf-8 or latin-1. Convert the texts, or correct --encoding."
            )
    return names


def _makes_halves(codec: str) -> bool:
    try:
        "\ud800".encode(codec)
    except UnicodeError:
        return False
    return True


def _decode(data: bytes, names: list[str]) -> str:
    first: UnicodeDecodeError | None = None
    for name in names:
        try:
            return data.decode(name).removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            first = first or error
    assert first is not None
    raise first


def _undecoded_message(faults: list[_Undecoded], num_files: int, encoding: str, otherwise: str) -> str:
    places = [f"{fault.path} (byte {fault.byte})" for fault in faults]
    are = "is" if len(faults) == 1 else "are"
    what = f"{counted(len(faults), 'file')} of {num_files:,} {are}" if num_files > 1 else "The file is"
    if faults[0].is_utf16:
        remedy = "--encoding utf-16, which the first bytes announce"
    elif num_files > 1 and codecs.lookup(encoding.split(",")[0].strip()).name == "utf-8":
        remedy = (
            "--encoding utf-8,latin-1 to read each file by the first that fits, or --encoding latin-1 if none is UTF-8"
        )
    else:
        remedy = "--encoding latin-1, for text from older Western systems"
    return (
        f"{what} not {encoding} text, from the byte given: {listed(places, len(places))}. Expected "
        f"{encoding}. Save as UTF-8, or pass the encoding: {remedy}{otherwise}."
    )
