"""How much disk a store may take, and what gives way to new records: the files least recently used."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bequest.core.errors import RunError
from bequest.core.results import read_json
from bequest.engine.linked import LINK_SUFFIX, count_linked
from bequest.engine.shard import SUFFIX, count_records

KEY_FILE = "key.json"
Note = Callable[[str], None]

_DEFAULT_LIMIT = 20 * 10**9
_SPARE = 10**9
"""Bytes of the disk that `room` leaves to others."""
_STALE_S = 24 * 3600
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SECONDS = {"m": 60, "h": 3600, "d": 24 * 3600}
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class StoredFile:
    """A file of a store.

    Attributes:
        path: Where it lies.
        num_bytes: Its size.
        used: When it was last read or written, seconds since 1970.
    """

    path: Path
    num_bytes: int
    used: float

    @property
    def temporary(self) -> bool:
        """Whether it is being written, or was when its process ended."""
        return self.path.name.startswith(".")


@dataclass(frozen=True)
class StoredShelf:
    """What a store holds under one key.

    Attributes:
        folder: Where it lies; its name is the key's digest.
        key: What the records depend on beside the sample.
        num_records: How many there are.
        num_bytes: Of its files.
        used: When one of them was last read or written, seconds since 1970.
    """

    folder: Path
    key: dict[str, Any]
    num_records: int
    num_bytes: int
    used: float


class Quota:
    """Keeps a store below its limit.

    Args:
        folder: The store's.
        limit_bytes: None for 20 GB, or half of what is free and the store's own on its disk if that is less.
        note: Told what the user should know.
    """

    def __init__(self, folder: Path, limit_bytes: int | None, note: Note) -> None:
        self.folder, self.note = folder, note
        self.in_use: set[Path] = set()
        self._limit = limit_bytes
        self._total: int | None = None

    @property
    def limit(self) -> int:
        """In bytes."""
        if self._limit is None:
            own = sum(file.num_bytes for file in stored_files(self.folder))
            self._limit = min(_DEFAULT_LIMIT, (_free(self.folder) + own) // 2)
        return self._limit

    def make_room(self, num_bytes: int) -> None:
        """Delete what is least recently used where so many bytes more would exceed the limit.

        What this process has mapped stays, even if that alone exceeds the limit; then the user is told. The folder
        is looked through the first time, and when what it held then and was written since exceeds the limit.
        """
        if self._total is None or self._total + num_bytes > self.limit:
            self._remove_stale()
            self._total = sum(file.num_bytes for file in stored_files(self.folder))
            if (excess := self._total + num_bytes - self.limit) > 0:
                self._total -= self.evict(excess + self.limit // 10)  # not again for every shard
            if self._total + num_bytes > self.limit:
                self.note(
                    f"The store in {self.folder} exceeds its limit of {in_units(self.limit)}, since this run uses all "
                    "of it. A larger limit: $BEQUEST_CACHE_LIMIT."
                )
        self._total += num_bytes

    def evict(self, num_bytes: int) -> int:
        """Delete files that this process does not use, the least recently used first; how many bytes that frees."""
        freed = 0
        for file in sorted(self._evictable(), key=lambda file: file.used):
            if freed >= num_bytes:
                break
            freed += file.num_bytes if _remove(file.path) else 0
        return freed

    def room(self, num_bytes: int) -> bool:
        """Whether so many bytes, beside what this process uses, are within the limit and fit on the disk."""
        files = stored_files(self.folder)
        used = sum(file.num_bytes for file in files if file.path in self.in_use)
        evictable = sum(file.num_bytes for file in self._evictable())
        return used + num_bytes <= self.limit and num_bytes + _SPARE <= _free(self.folder) + evictable

    def mended(self, error: OSError, num_bytes: int) -> bool:
        """Whether what kept so many bytes from being written is out of the way, so that it may be tried again."""
        # A folder may be gone because another process has cleared the store.
        return isinstance(error, FileNotFoundError) or (error.errno in _FULL and self.evict(num_bytes) > 0)

    def _evictable(self) -> list[StoredFile]:
        return [file for file in stored_files(self.folder) if not file.temporary and file.path not in self.in_use]

    def _remove_stale(self) -> None:
        """Delete what processes that were killed had begun to write."""
        for file in stored_files(self.folder):
            if file.temporary and time.time() - file.used > _STALE_S:
                _remove(file.path)


def refusal(folder: Path, error: OSError, num_bytes: int) -> RunError:
    """What the user is told when so many bytes cannot be written to a store's folder."""
    return RunError(
        f"Cannot write to the store in {folder} ({error.strerror}): {in_units(num_bytes)} are needed, "
        f"{in_units(_free(folder))} are free. Free some (`bequest cache clear` removes what is stored), or "
        "name another folder: --cache."
    )


def stored_files(folder: Path) -> list[StoredFile]:
    """All files of a store but its keys; those of older layouts and unfinished ones among them."""
    return [file for shelf in _shelf_folders(folder) for file in _files(shelf)]


def stored_shelves(folder: Path) -> list[StoredShelf]:
    """What a store holds, the most recently used first."""
    shelves: list[StoredShelf] = []
    for shelf in _shelf_folders(folder):
        files, links = _files(shelf), [*shelf.glob(f"*{LINK_SUFFIX}")]
        if files or links:
            count = sum(count_records(file.path) for file in files if file.path.name.endswith(SUFFIX))
            count += sum(map(count_linked, links))
            size = sum(file.num_bytes for file in files)
            used = max([*(file.used for file in files), *(link.lstat().st_mtime for link in links)])
            shelves.append(StoredShelf(shelf, _key(shelf), count, size, used))
    return sorted(shelves, key=lambda shelf: -shelf.used)


def remove_shelf(folder: Path) -> None:
    """Delete what a store holds under one key; a process that has it mapped keeps what it mapped."""
    for file in [*folder.iterdir()]:
        _remove(file)
    try:
        folder.rmdir()
    except OSError:
        return  # another process is writing into it


def given_limit() -> int | None:
    """`$BEQUEST_CACHE_LIMIT` in bytes; None where it is not set.

    Raises:
        RunError: It is no size.
    """
    text = os.environ.get("BEQUEST_CACHE_LIMIT", "").strip()
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text, re.IGNORECASE)
    if text and not found:
        raise RunError(f"$BEQUEST_CACHE_LIMIT is {text!r}; expected a size, e.g. 500MB, 20GB or 1.5TB.")
    return int(float(found[1]) * _UNITS[found[2].upper()]) if found else None


def parse_age(text: str) -> float:
    """`30m`, `12h` or `7d` in seconds.

    Raises:
        RunError: The text is none of these.
    """
    if not (found := re.fullmatch(r"(\d+(?:\.\d+)?)([mhd])", text.strip())):
        raise RunError(f"The age is {text!r}; expected minutes, hours or days, e.g. 30m, 12h or 7d.")
    return float(found[1]) * _SECONDS[found[2]]


def in_units(num_bytes: float) -> str:
    """Bytes as people write them, e.g. `1.5 GB`."""
    name, factor = max(((n, f) for n, f in _UNITS.items() if f <= max(num_bytes, 1)), key=lambda unit: unit[1])
    return f"{num_bytes / factor:.{1 if name else 0}f} {name.replace('K', 'k')}B"


def _shelf_folders(folder: Path) -> Iterator[Path]:
    """Folders that a store has made: whatever else lies beside them is not its own."""
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if re.fullmatch("[0-9a-f]{32}", path.name) and (path / KEY_FILE).is_file():
                yield path


def _files(shelf: Path) -> list[StoredFile]:
    """The shelf's files but its key; what another process deletes meanwhile is left out, and nothing else."""
    files: list[StoredFile] = []
    with suppress(FileNotFoundError):
        for entry in os.scandir(shelf):
            with suppress(FileNotFoundError):
                if entry.name != KEY_FILE and entry.is_file(follow_symlinks=False):
                    found = entry.stat(follow_symlinks=False)
                    files.append(StoredFile(shelf / entry.name, found.st_size, found.st_mtime))
    return files


def _key(shelf: Path) -> dict[str, Any]:
    try:
        key = read_json(shelf / KEY_FILE)
    except RunError:
        return {}
    return key if isinstance(key, dict) else {}


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False  # another process was first, or does not let it go
    return True


def _free(folder: Path) -> int:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free
