"""Texts, in memory; and their decoding, which reports every file that does not fit at once."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bequest.core.errors import DataError
from bequest.core.task import Modality
from bequest.data.messages import counted, listed


@dataclass(frozen=True)
class Texts:
    """Texts in memory.

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

    def content_hash(self, index: int) -> bytes:
        """BLAKE2b of the text as UTF-8 (16 bytes)."""
        return hashlib.blake2b(self.texts[index].encode(errors="surrogatepass"), digest_size=16).digest()

    def describe(self, index: int) -> str:
        """The file, or the row of a table or list."""
        return self.places[index]


def read_texts(paths: Sequence[Path], encoding: str) -> list[str]:
    """The text of every file, without a byte order mark, newlines as they are.

    Args:
        paths: The files.
        encoding: A codec's name, or several with commas between: each file is read with the first that fits.

    Raises:
        DataError: An encoding is unknown, or files cannot be read or decoded: all of them are named.
    """
    names = _codecs(encoding)
    texts: list[str] = []
    unread: list[str] = []
    undecoded: list[tuple[Path, UnicodeDecodeError]] = []
    for path in paths:
        try:
            texts.append(_decode(path.read_bytes(), names))
        except UnicodeDecodeError as error:
            undecoded.append((path, error))
        except OSError as error:
            unread.append(f"{path} ({error.strerror or error})")
    if unread:
        raise DataError(f"Cannot read {listed(unread)}; expected readable files. Check their permissions.")
    if undecoded:
        raise DataError(_undecoded_message(undecoded, len(paths), encoding))
    return texts


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
    return names


def _decode(data: bytes, names: list[str]) -> str:
    first: UnicodeDecodeError | None = None
    for name in names:
        try:
            return data.decode(name).removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            first = first or error
    assert first is not None
    raise first


def _undecoded_message(faults: list[tuple[Path, UnicodeDecodeError]], num_files: int, encoding: str) -> str:
    places = [f"{path} (byte {error.start})" for path, error in faults]
    are = "is" if len(faults) == 1 else "are"
    what = f"{counted(len(faults), 'file')} of {num_files:,} {are}" if num_files > 1 else "The file is"
    if faults[0][1].object.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        remedy = "--encoding utf-16, which the first bytes announce"
    elif num_files > 1 and codecs.lookup(encoding.split(",")[0].strip()).name == "utf-8":
        remedy = (
            "--encoding utf-8,latin-1 to read each file by the first that fits, or --encoding latin-1 if none is UTF-8"
        )
    else:
        remedy = "--encoding latin-1, for text from older Western systems"
    return (
        f"{what} not {encoding} text, from the byte given: {listed(places, len(places))}. Expected "
        f"{encoding}. Save as UTF-8, or pass the encoding: {remedy}."
    )
