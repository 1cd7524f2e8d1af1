"""Samples in a tar of WebDataset's layout, read as a stream: what is damaged, lacking or too large is said.

Python's tarfile takes a damaged header for the tar's end, seeks on where the tar has ended, follows maps of holes, and
keeps every member that it met; so some of its steps are taken otherwise here.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from tarfile import HeaderError, ReadError
from typing import IO, Any, Self

from bequest.core.errors import DataError
from bequest.data.addresses import reason

LARGEST = 2**28
"""Bytes of a sample at most, its members and their headers together: it is held in memory whole."""

_LONGEST_HEADER = 2**20
"""Bytes of what a tar says beside a member's header (long names, PAX fields), which is read whole too."""
_HEADERS = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)
_SPARSE = "a sparse member, which may stand for far more bytes than the tar holds; expected members as they are"
_READ_BYTES = 2**20
_END_MARK = tarfile.EOFHeaderError  # pyright: ignore[reportAttributeAccessIssue]
_NO_HEADER = tarfile.EmptyHeaderError  # pyright: ignore[reportAttributeAccessIssue]

_PACKED: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
"""How what begins with these bytes is read."""
_FAULTS = (
    *(tarfile.TarError, zlib.error, lzma.LZMAError),
    *(ArithmeticError, EOFError, LookupError, OSError, RecursionError, ValueError),
)
"""What damaged files lead libraries to."""

Members = Mapping[str, bytes | DataError]
"""A sample's contents, by extension; an error in the place of one that has none of its own."""


def tar_samples(file: IO[bytes], url: str) -> Iterator[tuple[str, Members | DataError]]:
    """The samples: members side by side whose names are the same up to the first dot of the last part.

    Args:
        file: The tar, or one that is compressed.
        url: What errors call it.

    Yields:
        A sample's name and its members; an error in their place where they are too large.

    Raises:
        DataError: The tar is damaged, or a member is there twice.
    """
    last = "none"
    try:
        with tarfile.open(fileobj=_unpacked(file), mode="r|", tarinfo=_Member) as archive:
            for last, members in _grouped(archive):
                yield last, members
            _check_over(archive.fileobj)
    except _FAULTS as error:
        raise DataError(
            f"{url} cannot be read as a tar after its sample {last} ({reason(error)}); expected a whole one. "
            "Replace it."
        ) from error


def _unpacked(file: IO[bytes]) -> Any:
    """What a file holds; tarfile's own way of it takes no notice of checksums, and stumbles over damaged headers."""
    begin = file.read(max(map(len, _PACKED)))
    whole = _Begun(begin, file)
    return next((opened(whole) for mark, opened in _PACKED.items() if begin.startswith(mark)), whole)


class _Begun:
    """A file whose first bytes were read, to be read from its start; streams cannot be gone back in."""

    def __init__(self, begin: bytes, file: IO[bytes]) -> None:
        self._begin, self._file = begin, file

    def read(self, size: int) -> bytes:
        """So many bytes at most; none at the end."""
        found, self._begin = self._begin[:size], self._begin[size:]
        return found or self._file.read(size)

    def seekable(self) -> bool:
        """Whether one may go back."""
        return False


class _Member(tarfile.TarInfo):
    """A member that takes no more than the tar holds; a damaged or lacking header is a fault, not the tar's end."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except _END_MARK:
            raise
        except _NO_HEADER as error:
            raise ReadError("it ends without a tar's end mark") from error
        except HeaderError as error:
            raise ReadError(f"the next member's header is damaged: {error}") from error

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        """What tarfile calls on every header, before it reads on."""
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise ReadError(f"{_SPARSE}: {self.name[:60]}")
        if self.type in _HEADERS and self.size > _LONGEST_HEADER:
            raise ReadError(f"a header of {self.size:,} bytes; expected {_LONGEST_HEADER:,} at most")
        return super()._proc_member(archive)  # pyright: ignore

    def _proc_gnusparse_10(self, *_: Any) -> None:
        """What tarfile calls where a member's PAX fields tell of a map of holes in what follows."""
        raise ReadError(f"{_SPARSE}: {self.name[:60]}")


def _check_over(file: Any) -> None:
    """Only zeros follow a tar's end mark; what else does, e.g. a second tar, would be left out."""
    while block := file.read(_READ_BYTES):
        if block.count(0) < len(block):
            raise ReadError("more follows after its end mark")


def _grouped(archive: tarfile.TarFile) -> Iterator[tuple[str, Members | DataError]]:
    name, members, held = "", dict[str, bytes | DataError](), 0
    while (member := archive.next()) is not None:
        archive.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  # all would be kept
        if member.issparse():
            raise ReadError(f"{_SPARSE}: {member.name[:60]}")
        if member.isdir():
            _skip(archive, member)
            continue
        folder, _, last = member.name.rpartition("/")
        stem, _, extension = last.partition(".")
        whole = f"{folder}/{stem}" if folder else stem
        if whole != name:
            if held:
                yield name, _within(members, held)
            name, members, held = whole, {}, 0
        if extension.lower() in members:
            raise DataError(f"{member.name} is there twice; expected every member's name once. Rename or remove one.")
        held += tarfile.BLOCKSIZE + max(0, member.size)
        if held > LARGEST:
            members = {}
            _skip(archive, member)
        else:
            members[extension.lower()] = _content(archive, member)
    if held:
        yield name, _within(members, held)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | DataError:
    if not member.isfile():
        return DataError("is a link or a device, without content of its own")
    content = archive.extractfile(member)
    assert content is not None, "a file has content"
    return content.read()


def _skip(archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    """Read to a member's end, for tarfile seeks on where the tar has long ended."""
    content = None if member.islnk() or member.issym() else archive.extractfile(member)
    while content is not None and content.read(_READ_BYTES):
        pass


def _within(members: Members, held: int) -> Members | DataError:
    if held <= LARGEST:
        return members
    return DataError(f"takes {held:,} bytes; expected {LARGEST:,} at most. Remove it, or make it smaller.")
