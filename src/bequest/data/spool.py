"""Long sequences that need next to no memory: their bytes lie in temporary files without a name, mapped.

What is short stays in memory, so a small task opens no file.
"""

from __future__ import annotations

import json
import mmap
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import getitem
from typing import Any, BinaryIO, TypeVar, cast, overload

import numpy as np

from bequest.core.errors import DataError
from bequest.core.task import HashArray, IntArray

T = TypeVar("T")

_IN_MEMORY_BYTES = 2**20
_NOT_TEXT = b"\0"  # stands before a cell that is not a str, as JSON


class Spool:
    """Bytes, written one after another and then read as one array."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._file: BinaryIO | None = None

    def write(self, data: bytes) -> None:
        """Appends the bytes."""
        self._buffer += data
        if len(self._buffer) >= _IN_MEMORY_BYTES:
            self._flush()

    def finish(self) -> HashArray:
        """All bytes, uint8 (bytes,), which can be read but not written."""
        if self._file is None:
            return np.frombuffer(bytes(self._buffer), np.uint8)
        self._flush()
        with self._file as file:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)

    def _flush(self) -> None:
        try:
            if self._file is None:
                self._file = cast(BinaryIO, tempfile.TemporaryFile(prefix="bequest-"))  # noqa: SIM115
            self._file.write(self._buffer)
            self._file.flush()
        except OSError as error:
            raise DataError(
                f"Cannot write to the folder of temporary files, {tempfile.gettempdir()}: {error.strerror}. Expected "
                "room for a copy of the texts. Free some, or set TMPDIR to another folder."
            ) from error
        self._buffer.clear()


@dataclass(frozen=True)
class Lazy(Sequence[T]):
    """A sequence whose items are made when they are asked for.

    Attributes:
        length: How many there are.
        get: Makes the item at a position.
    """

    length: int
    get: Callable[[int], T]

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return [self.get(i) for i in range(*index.indices(self.length))]
        if not -self.length <= index < self.length:
            raise IndexError(index)
        return self.get(int(index) % self.length)


def picked(values: Sequence[T], indices: IntArray) -> Sequence[T]:
    """Some of the values, in the order of the indices, read when they are asked for."""
    return Lazy(len(indices), partial(_pick, values, indices))


def joined(parts: Sequence[Sequence[T]]) -> Sequence[T]:
    """The values of several sequences, one sequence after another."""
    if len(parts) == 1:
        return parts[0]
    ends = np.cumsum([len(part) for part in parts])
    return Lazy(int(ends[-1]), partial(_find, tuple(parts), ends))


def spool_texts(texts: Iterable[str]) -> Sequence[str]:
    """The texts, out of memory."""
    return spool_columns(([text] for text in texts), 1)[0]


def spool_columns(rows: Iterable[Sequence[Any]], num_columns: int) -> tuple[Sequence[Any], ...]:
    """The columns of a table, out of memory.

    Args:
        rows: `num_columns` cells each: str, or what JSON can hold; what it cannot becomes its str.
        num_columns: How many columns there are.
    """
    data, ends, end = Spool(), Spool(), 0
    for row in rows:
        for cell in row:
            encoded = _encoded(cell)
            end += len(encoded)
            data.write(encoded)
            ends.write(end.to_bytes(8, "little"))
    places = ends.finish().view("<u8").reshape(-1, num_columns)
    read = partial(_cell, data.finish(), places.ravel(), num_columns)
    return tuple(Lazy(len(places), partial(read, column)) for column in range(num_columns))


def spool_hashes(hashes: Iterable[bytes]) -> HashArray:
    """uint8 (samples, 16): hashes of 16 bytes each, out of memory."""
    spool = Spool()
    for value in hashes:
        spool.write(value)
    return spool.finish().reshape(-1, 16)


def _encoded(cell: Any) -> bytes:
    if isinstance(cell, str):
        data = cell.encode(errors="surrogatepass")
        if not data.startswith(_NOT_TEXT):
            return data
    return _NOT_TEXT + json.dumps(cell, default=str).encode()


def _cell(data: HashArray, ends: np.ndarray[Any, Any], num_columns: int, column: int, row: int) -> Any:
    i = row * num_columns + column
    found = data[int(ends[i - 1]) if i else 0 : int(ends[i])].tobytes()
    if found.startswith(_NOT_TEXT):
        return json.loads(found[1:])
    return found.decode(errors="surrogatepass")


def _pick(values: Sequence[T], indices: IntArray, index: int) -> T:
    return getitem(values, int(indices[index]))


def _find(parts: tuple[Sequence[T], ...], ends: IntArray, index: int) -> T:
    part = int(np.searchsorted(ends, index, side="right"))
    return parts[part][index - (int(ends[part - 1]) if part else 0)]
