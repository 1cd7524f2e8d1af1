"""The store: what a frozen function made of a sample, kept on disk and read memory-mapped.

A key names the function (weights, preprocessing, view, tap, precision, layout, torch version); a record in it is
found by the sample's content hash. A key that does not match is a miss, never a wrong answer. Shards are written
whole or not at all, each by one process, and never changed: several processes may share a store.

A record is one array. What consists of several (the activations at a cut through parallel branches) is kept on one
shelf an array, `{**key, "array": name}`; a sample is missing where any of them lacks it.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bequest.core.results import write_json
from bequest.engine.shard import SUFFIX, Array, DamagedShard, Shard, as_tensor, read_shard, write_shard

if TYPE_CHECKING:
    from torch import Tensor

Note = Callable[[str], None]

_PLACE = np.dtype([("shard", "<u4"), ("length", "<u4"), ("start", "<i8")])


def default_folder() -> Path:
    """`$BEQUEST_CACHE`, else the user's cache folder."""
    if given := os.environ.get("BEQUEST_CACHE"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "bequest"


class Store:
    """A folder of keyed records.

    Args:
        folder: Where it lies; made when something is first written.
        note: Told what the user should know.
    """

    def __init__(self, folder: Path | None = None, *, note: Note = warnings.warn) -> None:
        self.folder, self.note = folder or default_folder(), note
        self._open: dict[str, Shelf] = {}
        self._volatile: tempfile.TemporaryDirectory[str] | None = None

    def shelf(self, key: dict[str, Any], *, persistent: bool = True) -> Shelf:
        """The records under one key.

        Args:
            key: Everything that the records depend on beside the sample, as plain data.
            persistent: False where the key cannot name the function for certain (a user's Python function):
                then the records end with this object.
        """
        digest = hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=16).hexdigest()
        if digest not in self._open:
            self._open[digest] = Shelf((self.folder if persistent else self._temporary()) / digest, key, self.note)
        return self._open[digest]

    def room(self, num_bytes: int) -> bool:
        """Whether so much may be written."""
        import shutil

        existing = next(f for f in (self.folder, *self.folder.parents) if f.exists())
        return shutil.disk_usage(existing).free > 2 * num_bytes

    def _temporary(self) -> Path:
        if self._volatile is None:
            self._volatile = tempfile.TemporaryDirectory(prefix="bequest-")
        return Path(self._volatile.name)


@dataclass(frozen=True)
class Records(Sequence[Array]):
    """Some samples' records, read from disk when they are asked for.

    Attributes:
        shards: What is known of each shard.
        values: Memory-mapped values of each shard; None of those that hold no record of these.
        places: Shard, length and start of each sample's record.
    """

    shards: Sequence[Shard]
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
        return float(sum(int(counts[i]) * self.shards[int(i)].seconds for i in np.flatnonzero(counts)))

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
        """All records in memory, (samples, …); they must be of one shape, and not bfloat16."""
        return self.gather(np.arange(len(self)))

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


def lengths_of(items: Sequence[Any]) -> Array:
    """First dimension of each item, int64 (items,), without reading stored ones."""
    lengths = getattr(items, "lengths", None)
    return np.array([len(item) for item in items], dtype=np.int64) if lengths is None else lengths


class Shelf:
    """The records under one key: append-only shards, found by a sorted table of content hashes."""

    def __init__(self, folder: Path, key: dict[str, Any], note: Note) -> None:
        self.folder, self.key, self._note = folder, key, note
        self._shards: list[Shard] = []
        self._values: list[Array | None] = []
        self._hashes: Array = np.empty(0, "S16")
        self._places: Array = np.empty(0, _PLACE)
        self._unsorted: list[tuple[Array, Array]] = []
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
        return Records(self._shards, self._values, self._places[rows])

    def add(self, hashes: Array, records: Sequence[Array | Tensor], seconds: float) -> None:
        """Write one shard.

        Args:
            hashes: uint8 (records, 16): content hash of each sample.
            records: One array or tensor a sample; all of one dtype and one shape after the first dimension.
            seconds: What computing them took together.
        """
        if not (self.folder / "key.json").exists():
            write_json(self.folder / "key.json", self.key)
        shard, lengths, values = write_shard(self.folder, hashes, records, seconds)
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
            self._hashes = np.insert(self._hashes, rows, new)
            self._places = np.insert(self._places, rows, places)
            self._unsorted.clear()

    def _refresh(self) -> None:
        """Enter the shards that this process, or another, has written since the last time."""
        files = sorted(file for file in self.folder.glob(f"*{SUFFIX}") if file.name not in self._known)
        faults: list[Exception] = []
        for file in files:
            try:
                self._enter(*read_shard(file), None)
            except (DamagedShard, OSError) as error:
                faults.append(error)
        self._report(faults)

    def _enter(self, shard: Shard, hashes: Array, lengths: Array, values: Array | None) -> None:
        places = np.empty(len(lengths), _PLACE)
        places["shard"], places["length"] = len(self._shards), lengths
        places["start"] = np.cumsum(lengths) - lengths
        self._known.add(shard.path.name)
        self._shards.append(shard)
        self._values.append(values)
        self._unsorted.append((_keys(hashes), places))

    def _open(self, shards: Array) -> bool:
        """Map shards that are not yet; False where some were damaged or gone, and their records are forgotten."""
        closed = [int(i) for i in shards if self._values[i] is None]
        faults: dict[int, Exception] = {}
        with ThreadPoolExecutor() as pool:
            for i, outcome in zip(closed, pool.map(_try_to_open, [self._shards[i] for i in closed]), strict=True):
                if isinstance(outcome, Exception):
                    faults[i] = outcome
                else:
                    self._values[i] = outcome
        if faults:
            kept = ~np.isin(self._places["shard"], list(faults))
            self._hashes, self._places = self._hashes[kept], self._places[kept]
            self._report(list(faults.values()))
        return not faults

    def _report(self, faults: list[Exception]) -> None:
        """Remove what is damaged, and say so once; what another process has removed is no fault."""
        for error in faults:
            if isinstance(error, DamagedShard):
                error.path.unlink(missing_ok=True)
        if told := [error for error in faults if not isinstance(error, FileNotFoundError)]:
            self._note(
                f"{len(told)} of the files in the store's folder {self.folder} cannot be used ({told[0]}); what they "
                "held is computed again."
            )


def _try_to_open(shard: Shard) -> Array | Exception:
    try:
        return shard.open()
    except (DamagedShard, OSError) as error:
        return error


def _keys(hashes: Array) -> Array:
    """Hashes as strings of 16 bytes, which numpy can sort: trailing zeros, which it ignores, differ in none."""
    return np.ascontiguousarray(hashes, np.uint8).reshape(-1, 16).view("S16").ravel()


def _windows(values: Array, length: int) -> Array:
    """The `length` rows from every row on, without a copy: (rows - length + 1, length, …)."""
    shape = (len(values) - length + 1, length, *values.shape[1:])
    strides = (values.strides[0], *values.strides)
    return np.lib.stride_tricks.as_strided(values, shape, strides, writeable=False)
