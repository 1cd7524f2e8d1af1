"""A GGUF file's header, walked to its end before a library reads it: theirs follow any length that it names.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from bequest.core.errors import SourceError

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value, by the number of its type."""
_STRING, _ARRAY = 8, 9
_DEEPEST, _MOST_DIMS = 4, 8
_LEAST_ENTRY, _LEAST_TENSOR = 8 + 4 + 1, 8 + 4 + 4 + 8


class _Broken(Exception):
    """What is wrong with a header."""


@dataclass
class _Walk:
    """A place in a file's bytes.

    Attributes:
        data: The bytes.
        at: The place.
    """

    data: mmap.mmap
    at: int = 0

    def skip(self, num_bytes: int) -> int:
        """Where some bytes begin that lie ahead; the place is behind them then."""
        if num_bytes > len(self.data) - self.at:
            raise _Broken(f"byte {self.at:,} names {num_bytes:,} more than there are")
        self.at += num_bytes
        return self.at - num_bytes

    def number(self, kind: str) -> int:
        """The next number, by struct's letter for its kind."""
        [found] = struct.unpack_from("<" + kind, self.data, self.skip(struct.calcsize("<" + kind)))
        return found

    def count(self, least: int) -> int:
        """The next number of things, each of which takes at least so many bytes."""
        found = self.number("Q")
        if found * least > len(self.data) - self.at:
            raise _Broken(f"byte {self.at:,} names {found:,} things, for which there is no room")
        return found

    def string(self) -> None:
        self.skip(self.number("Q"))

    def value(self, kind: int, depth: int = 0) -> None:
        if kind in _SIZES:
            self.skip(_SIZES[kind])
        elif kind == _STRING:
            self.string()
        elif kind == _ARRAY and depth < _DEEPEST:
            self.array(depth)
        else:
            raise _Broken(f"byte {self.at:,} names a value of kind {kind}")

    def array(self, depth: int) -> None:
        kind = self.number("I")
        if kind in _SIZES:
            self.skip(self.count(_SIZES[kind]) * _SIZES[kind])
            return
        for _ in range(self.count(8)):
            self.value(kind, depth + 1)

    def tensor(self) -> None:
        self.string()
        dims = self.number("I")
        if dims > _MOST_DIMS:
            raise _Broken(f"byte {self.at:,} names a tensor of {dims:,} dimensions")
        self.skip(8 * dims + 4 + 8)


def check_gguf(path: Path) -> None:
    """Raise `SourceError` where a file's header does not end within the file."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _walk(_Walk(data))
    except (_Broken, ValueError, OSError) as error:  # mmap takes no empty file
        raise SourceError(
            f"{path} cannot be read as a GGUF file ({error}); expected a whole one, of version 2 or 3. Replace it."
        ) from error


def _walk(place: _Walk) -> None:
    magic, version = place.number("I"), place.number("I")
    if magic != int.from_bytes(b"GGUF", "little") or version not in (2, 3):
        raise _Broken("it does not begin as one")
    tensors, entries = place.count(_LEAST_TENSOR), place.count(_LEAST_ENTRY)
    for _ in range(entries):
        place.string()
        place.value(place.number("I"))
    for _ in range(tensors):
        place.tensor()
