"""The store: what a frozen function made of a sample, kept on disk and read memory-mapped.

A key names the function (weights, preprocessing, view, tap, precision, layout, torch version); a record in it is
found by the sample's content hash. A key that does not match is a miss, never a wrong answer. Shards are written
whole or not at all, each by one process, and never changed: several processes may share a store.

A record is one array. What consists of several (the activations at a cut through parallel branches) is kept on one
shelf an array, `{**key, "array": name}`; a sample is missing where any of them lacks it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import tempfile
import time
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np

from bequest.core.errors import RunError
from bequest.core.results import write_json
from bequest.data.feature_files import read_manifest
from bequest.engine.linked import LINK_SUFFIX, LinkedGroup, linked_name, read_linked
from bequest.engine.quota import KEY_FILE, Note, Quota, StoredShelf, given_limit, refusal, remove_shelf, stored_shelves
from bequest.engine.shard import SUFFIX, Array, DamagedShard, Shard, as_tensor, read_shard, write_shard

if TYPE_CHECKING:
    from torch import Tensor

_LARGE = 2**26
_STEP = 4096

_PLACE = np.dtype([("shard", "<u4"), ("length", "<u4"), ("start", "<i8")])
_UNSORTED = 2**16
"""Entries of the index that may wait to be sorted in, or a quarter of it if that is more."""
_TOUCH_EVERY_S = 60.0


Stored = Shard | LinkedGroup
"""What holds some records: a file of the store's own, or a row group of one that it links to."""


def default_folder() -> Path:
    """`$BEQUEST_CACHE`, else the user's cache folder."""
    if given := os.environ.get("BEQUEST_CACHE"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "bequest"


class Store:
    """A folder of keyed records.

    Args:
        folder: Where it lies; made when something is first written. None for the user's.
        limit_bytes: Beyond it, what is least recently used is deleted, except what this process uses. None for
            `$BEQUEST_CACHE_LIMIT`, else 20 GB, or half of what is free and the store's own on its disk if that is
            less.
        note: Told what the user should know.
    """

    def __init__(
        self, folder: Path | None = None, *, limit_bytes: int | None = None, note: Note = warnings.warn
    ) -> None:
        self.folder = folder or default_folder()
        self._limit_bytes, self._note = given_limit() if limit_bytes is None else limit_bytes, note
        self._quota = Quota(self.folder, self._limit_bytes, note)
        self._open: dict[str, Shelf] = {}
        self._volatile: tuple[tempfile.TemporaryDirectory[str], Quota] | None = None

    def shelf(self, key: dict[str, Any], *, persistent: bool = True) -> Shelf:
        """The records under one key.

        Args:
            key: Everything that the records depend on beside the sample, as plain data.
            persistent: False where the key cannot name the function for certain (a user's Python function):
                then the records end with this object.
        """
        digest = hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=16).hexdigest()
        if digest not in self._open:
            quota = self._quota if persistent else self._temporary()
            self._open[digest] = Shelf(quota.folder / digest, key, quota)
        return self._open[digest]

    @property
    def limit_bytes(self) -> int:
        """How large the store may become."""
        return self._quota.limit

    def room(self, num_bytes: int, *, persistent: bool = True) -> bool:
        """Whether so many bytes more are within the limit and fit on the disk, all else that can give way gone.

        Args:
            num_bytes: Of the records.
            persistent: As for `shelf`.
        """
        return (self._quota if persistent else self._temporary()).room(num_bytes)

    def take(self, folder: Path) -> int:
        """Read features from a folder of shards that `bequest features` has written, as if they were stored here.

        Nothing is copied: a link to each file lies in the shelf, and the folder has to stay. Links do not count for
        the limit and do not give way.

        Args:
            folder: Of shards.

        Returns:
            How many samples it has.

        Raises:
            RunError: It is no such folder, files are missing, or the links cannot be made.
        """
        manifest = read_manifest(folder)
        for layer, key in manifest.keys.items():
            self.shelf(key).link(manifest.files(folder), layer)
        return manifest.num_samples

    def shelves(self) -> list[StoredShelf]:
        """What is stored, by any process, the most recently used first."""
        return stored_shelves(self.folder)

    def clear(self, *, older_than_s: float = 0.0, key: str = "", dry_run: bool = False) -> list[StoredShelf]:
        """Delete what is stored, and say what that was.

        Args:
            older_than_s: Only what was last used so many seconds ago or more.
            key: Only what lies in folders whose names begin so.
            dry_run: Only say what would be deleted.
        """
        latest = time.time() - older_than_s
        chosen = [s for s in self.shelves() if s.used <= latest and s.folder.name.startswith(key)]
        for shelf in [] if dry_run else chosen:
            remove_shelf(shelf.folder)
        return chosen

    def _temporary(self) -> Quota:
        if self._volatile is None:
            folder = tempfile.TemporaryDirectory(prefix="bequest-")
            self._volatile = folder, Quota(Path(folder.name), self._limit_bytes, self._note)
        return self._volatile[1]


@dataclass(frozen=True)
class Records(Sequence[Array]):
    """Some samples' records, read from disk when they are asked for.

    Attributes:
        shards: What is known of each shard.
        values: Memory-mapped values of each shard; None of those that hold no record of these.
        places: Shard, length and start of each sample's record.
    """

    shards: Sequence[Stored]
    values: Sequence[Array | None]
    places: Array

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Records(self.shards, self.values, self.places[index])
        self._refuse_bfloat16()
        return self._stored(index)

    @property
    def dtype(self) -> str:
        """Name of the values' type, as torch has it."""
        return self.shards[int(self.places["shard"][0])].dtype if len(self) else "float32"

    @property
    def lengths(self) -> Array:
        """First dimension of each record, int64 (samples,)."""
        return self.places["length"].astype(np.int64)

    @property
    def seconds(self) -> float:
        """What computing these records took, whenever and wherever that was."""
        counts = np.bincount(self.places["shard"])
        return float(sum(int(counts[i]) * self.shards[i].seconds for i in np.flatnonzero(counts).tolist()))

    def select(self, positions: Array) -> Records:
        """The records at some positions, in their order."""
        return Records(self.shards, self.values, self.places[positions])

    def gather(self, indices: Array, out: Array | None = None) -> Array:
        """Records of one shape in memory.

        Args:
            indices: Which, (n,).
            out: Filled and returned, (n, …); None for a new array.

        Raises:
            ValueError: They differ in length.
            TypeError: They are bfloat16, which numpy does not have.
        """
        self._refuse_bfloat16()
        return self._gather(indices, out)

    def stack(self) -> Array:
        """All records as one array (samples, …); they must be of one shape, and not bfloat16.

        Where that would be large it is a mapped file without a name, so that memory need not hold it.
        """
        first = self[0] if len(self) else None
        if first is None or first.nbytes * len(self) < _LARGE:
            return self.gather(np.arange(len(self)))
        out = room_for(self, *first.shape)
        for start in range(0, len(self), _STEP):
            rows = np.arange(start, min(start + _STEP, len(self)))
            self.gather(rows, out[rows[0] : rows[-1] + 1])
        return out

    def tensor(self, index: int) -> Tensor:
        """One record as a tensor of its own, of the dtype that was stored, bfloat16 among them."""
        return as_tensor(self._stored(index).copy(), self.dtype)

    def tensors(self, indices: Iterable[int]) -> list[Tensor]:
        """Some records, of any lengths, as tensors of their own."""
        return [self.tensor(i) for i in indices]

    def gather_tensor(self, indices: Array) -> Tensor:
        """Records of one shape as one tensor (n, …), of the dtype that was stored; raises as `gather`."""
        return as_tensor(self._gather(indices), self.dtype)

    def _stored(self, index: int) -> Array:
        shard, length, start = self.places[index].item()
        return self._values(shard)[start : start + length]

    def _gather(self, indices: Array, out: Array | None = None) -> Array:
        places = self.places[indices]
        if len(self) == 0 or len(lengths := np.unique(places["length"])) > 1:
            raise ValueError(f"the records are of lengths {self.lengths[:4].tolist()}…; expected one, and some record")
        length = int(lengths[0]) if len(lengths) else int(self.places["length"][0])
        first = self._values(int(self.places["shard"][0]))
        out = np.empty((len(places), length, *first.shape[1:]), first.dtype) if out is None else out
        order = np.lexsort((places["start"], places["shard"]))
        ends = np.flatnonzero(np.diff(places["shard"][order])) + 1
        for group in np.split(order, ends) if len(order) else []:
            values = self._values(int(places["shard"][group[0]]))
            out[group] = _windows(values, length)[places["start"][group]]
        return out

    def _values(self, shard: int) -> Array:
        values = self.values[shard]
        assert values is not None, "a shelf opens what it gives out"
        return values

    def _refuse_bfloat16(self) -> None:
        if self.dtype == "bfloat16":
            raise TypeError("numpy has no bfloat16: read these records with tensor, tensors or gather_tensor.")


def room_for(records: Records, *shape: int) -> Array:
    """An array for as many samples, each of a shape; where it is large, a mapped file without a name on their disk.

    Raises:
        RunError: The disk has no room for it.
    """
    whole, dtype = (len(records), *shape), records[0].dtype
    num_bytes = math.prod(whole) * dtype.itemsize
    if num_bytes < _LARGE:
        return np.empty(whole, dtype)
    folder = records.shards[0].path.parent
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            _reserve(file.fileno(), num_bytes)
            return np.memmap(file, dtype, "w+", shape=whole)
    except OSError as error:
        raise refusal(folder, error, num_bytes) from error


def _reserve(file: int, num_bytes: int) -> None:
    # A mapped file with holes ends the process when the disk is full: nothing can refuse what is put into memory.
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file, 0, num_bytes)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # which say that this file system cannot
            raise


def lengths_of(items: Sequence[Any]) -> Array:
    """First dimension of each item, int64 (items,), without reading stored ones."""
    lengths = getattr(items, "lengths", None)
    return np.array([len(item) for item in items], dtype=np.int64) if lengths is None else lengths


class Shelf:
    """The records under one key: append-only shards, found by a sorted table of content hashes."""

    def __init__(self, folder: Path, key: dict[str, Any], quota: Quota) -> None:
        self.folder, self.key, self._quota = folder, key, quota
        self._shards: list[Stored] = []
        self._values: list[Array | None] = []
        self._touched: dict[int, float] = {}
        self._hashes: Array = np.empty(0, "S16")
        self._places: Array = np.empty(0, _PLACE)
        self._unsorted: list[tuple[Array, Array]] = []
        self._num_unsorted = 0
        self._known: set[str] = set()

    def missing(self, hashes: Array) -> Array:
        """Positions in `hashes` of the samples that have no record, each content once, int64, ascending.

        Args:
            hashes: uint8 (samples, 16).
        """
        keys = _keys(hashes)
        absent = np.flatnonzero(self._find(keys) < 0)
        _, first = np.unique(keys[absent], return_index=True)
        return absent[np.sort(first)]

    def read(self, hashes: Array) -> Records:
        """The records of samples, uint8 (samples, 16), that are all present; KeyError for others."""
        rows = self._find(_keys(hashes))
        if len(rows) and rows.min() < 0:
            raise KeyError(f"{np.count_nonzero(rows < 0)} of {len(rows)} samples have no record in {self.folder}")
        return Records(self._shards, self._values, _shared(self._places[rows]))

    def add(self, hashes: Array, records: Sequence[Array | Tensor], seconds: float) -> None:
        """Write one shard.

        Args:
            hashes: uint8 (records, 16): content hash of each sample.
            records: One array or tensor a sample; all of one dtype and one shape after the first dimension.
            seconds: What computing them took together.

        Raises:
            RunError: They cannot be written; the disk is full, though what this process does not use was deleted.
            SourceError: The records differ in dtype or shape, or are of a dtype that is not known.
        """
        self._quota.make_room(num_bytes := sum(record.nbytes for record in records) + 24 * len(records))
        self._write(hashes, records, seconds, num_bytes)

    def link(self, files: Sequence[Path], layer: str) -> None:
        """Read a layer of Parquet files of features (`bequest.data.feature_files`) too, from where they lie.

        Args:
            files: Which; they have to stay.
            layer: Which of theirs this shelf's records are.

        Raises:
            RunError: The links cannot be made.
        """
        try:
            if not (self.folder / KEY_FILE).exists():
                write_json(self.folder / KEY_FILE, self.key, durable=False)
            for file in files:
                place = self.folder / linked_name(file.absolute(), layer)
                if not place.is_symlink():
                    place.symlink_to(file.absolute())
        except OSError as error:
            raise RunError(
                f"Cannot make links in {self.folder} ({error.strerror}); expected a store on a disk that has links. "
                "Name another: --cache."
            ) from error

    def _write(
        self, hashes: Array, records: Sequence[Array | Tensor], seconds: float, num_bytes: int, again: bool = True
    ) -> None:
        try:
            if not (self.folder / KEY_FILE).exists():
                write_json(self.folder / KEY_FILE, self.key, durable=False)
            shard, lengths, values = write_shard(self.folder, hashes, records, seconds)
        except OSError as error:
            if not (again and self._quota.mended(error, num_bytes)):
                raise refusal(self._quota.folder, error, num_bytes) from error
            self._write(hashes, records, seconds, num_bytes, again=False)
        else:
            self._enter(shard, hashes, lengths, values)

    def _find(self, keys: Array) -> Array:
        """The row of each key in the sorted table, -1 where there is none; shards with a row found are open."""
        rows = self._look_up(keys)
        if len(rows) and rows.min() < 0:
            self._refresh()
            rows = self._look_up(keys)
        while not self._open(np.unique(self._places["shard"][rows[rows >= 0]])):
            rows = self._look_up(keys)
        return rows

    def _look_up(self, keys: Array) -> Array:
        self._sort()
        if not len(self._hashes):
            return np.full(len(keys), -1)
        rows = np.searchsorted(self._hashes, keys)
        rows[rows == len(self._hashes)] = 0
        return np.where(self._hashes[rows] == keys, rows, -1)

    def _sort(self) -> None:
        if self._unsorted:
            new, places = (np.concatenate(part) for part in zip(*self._unsorted, strict=True))
            order = np.argsort(new, kind="stable")
            new, places = new[order], places[order]
            rows = np.searchsorted(self._hashes, new)
            self._hashes = _shared(np.insert(self._hashes, rows, new))
            self._places = _shared(np.insert(self._places, rows, places))
            self._unsorted.clear()
            self._num_unsorted = 0

    def _refresh(self) -> None:
        """Enter the shards that this process, or another, has written since the last time."""
        files = sorted(file for file in self.folder.glob(f"*{SUFFIX}") if file.name not in self._known)
        faults: list[Exception] = []
        for file in files:
            try:
                self._enter(*read_shard(file), None)
            except (DamagedShard, OSError) as error:
                faults.append(error)
        for link in sorted(path for path in self.folder.glob(f"*{LINK_SUFFIX}") if path.name not in self._known):
            self._known.add(link.name)
            try:
                for group in read_linked(link):
                    self._enter(group, group.hashes, group.lengths, None)
            except (DamagedShard, OSError) as error:
                faults.append(error)
        self._report(faults)

    def _enter(self, shard: Stored, hashes: Array, lengths: Array, values: Array | None) -> None:
        places = np.empty(len(lengths), _PLACE)
        places["shard"], places["length"] = len(self._shards), lengths
        places["start"] = np.cumsum(lengths) - lengths
        self._known.add(shard.path.name)
        self._shards.append(shard)
        self._values.append(values)
        if values is not None:
            self._quota.in_use.add(shard.path)
            self._touched[len(self._shards) - 1] = time.monotonic()
        self._unsorted.append((_shared(_keys(hashes)), _shared(places)))
        self._num_unsorted += len(places)
        if self._num_unsorted > max(_UNSORTED, len(self._hashes) // 4):
            self._sort()

    def _open(self, shards: Array) -> bool:
        """Map shards that are not yet; False where some were damaged or gone, and their records are forgotten."""
        closed = [i for i in shards.tolist() if self._values[i] is None]
        faults: dict[int, Exception] = {}
        with ThreadPoolExecutor() as pool:
            for i, outcome in zip(closed, pool.map(_try_to_open, [self._shards[i] for i in closed]), strict=True):
                if isinstance(outcome, Exception):
                    faults[i] = outcome
                else:
                    self._values[i] = outcome
                    self._quota.in_use.add(self._shards[i].path)
        self._touch([i for i in shards.tolist() if i not in faults])
        if faults:
            kept = ~np.isin(self._places["shard"], list(faults))
            self._hashes, self._places = self._hashes[kept], self._places[kept]
            self._report(list(faults.values()))
        return not faults

    def _touch(self, shards: list[int]) -> None:
        """Let it be seen that shards are in use, once a minute at most: the time of their files' last change."""
        now = time.monotonic()
        for i in shards:
            if now - self._touched.get(i, -math.inf) > _TOUCH_EVERY_S:
                self._touched[i] = now
                with suppress(OSError):  # deleted by another process, or not ours to change
                    os.utime(self._shards[i].path, follow_symlinks=False)

    def _report(self, faults: list[Exception]) -> None:
        """Remove what is damaged, and say so once; what another process has removed is no fault."""
        for error in faults:
            if isinstance(error, DamagedShard):
                error.path.unlink(missing_ok=True)
        if told := [error for error in faults if not isinstance(error, FileNotFoundError)]:
            self._quota.note(
                f"{len(told)} of the files in the store's folder {self.folder} cannot be used ({told[0]}); what they "
                "held is computed again."
            )


def _try_to_open(shard: Stored) -> Array | Exception:
    try:
        return shard.open()
    except (DamagedShard, OSError) as error:
        return error


_tables: WeakValueDictionary[tuple[str, bytes], Array] = WeakValueDictionary()


def _shared(table: Array) -> Array:
    """The table, not to be written to, or an equal one in use: those of shelves that are filled together are equal."""
    key = str(table.dtype), hashlib.blake2b(table.view(np.uint8).data, digest_size=16).digest()
    table.flags.writeable = False
    return _tables.setdefault(key, table)


def _keys(hashes: Array) -> Array:
    """Hashes as strings of 16 bytes, which numpy can sort: trailing zeros, which it ignores, differ in none."""
    return np.ascontiguousarray(hashes, np.uint8).reshape(-1, 16).view("S16").ravel()


def _windows(values: Array, length: int) -> Array:
    """The `length` rows from every row on, without a copy: (rows - length + 1, length, …)."""
    shape = (len(values) - length + 1, length, *values.shape[1:])
    strides = (values.strides[0], *values.strides)
    return np.lib.stride_tricks.as_strided(values, shape, strides, writeable=False)
