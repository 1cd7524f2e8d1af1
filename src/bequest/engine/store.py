"""The store: what a frozen function made of a sample, kept on disk and read memory-mapped.

A key names the function (weights, preprocessing, view, tap, precision, layout, torch version); a record in it is
found by the sample's content hash. A key that does not match is a miss, never a wrong answer. Shards are written
whole or not at all, each by one process, and never changed: several processes may share a store.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bequest.core.results import atomic_open, write_json

_INDEX = np.dtype([("hash", "u1", 16), ("start", "<i8"), ("length", "<i8"), ("seconds", "<f8")])
_Place = tuple[int, int, int, float]
Array = np.ndarray[Any, Any]


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
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()
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
            self._open[digest] = Shelf((self.folder if persistent else self._temporary()) / digest, key)
        return self._open[digest]

    def _temporary(self) -> Path:
        if self._volatile is None:
            self._volatile = tempfile.TemporaryDirectory(prefix="bequest-")
        return Path(self._volatile.name)


@dataclass(frozen=True)
class Records(Sequence[Array]):
    """Some samples' records, read from disk when they are asked for.

    Attributes:
        shards: Flat memory-mapped values.
        places: (shard, start, length, seconds) of each sample.
    """

    shards: list[Array]
    places: list[_Place]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        shard, start, length, _ = self.places[index]
        return self.shards[shard][start : start + length]

    @property
    def lengths(self) -> Array:
        """First dimension of each record, int64 (samples,)."""
        return np.array([place[2] for place in self.places], dtype=np.int64)

    @property
    def seconds(self) -> float:
        """What computing these records took, whenever and wherever that was."""
        return float(sum(place[3] for place in self.places))

    def stack(self) -> Array:
        """All records in memory, (samples, …); they must be of one shape."""
        return np.stack([self[i] for i in range(len(self))])


class Shelf:
    """The records under one key: append-only shards of values, each with an index."""

    def __init__(self, folder: Path, key: dict[str, Any]) -> None:
        self.folder, self.key = folder, key
        self._shards: list[Array] = []
        self._places: dict[bytes, _Place] = {}
        self._known: set[str] = set()

    def missing(self, hashes: Sequence[bytes]) -> list[int]:
        """Positions in `hashes` of the samples that have no record, each content once."""
        self._refresh()
        first: dict[bytes, int] = {}
        for position, content in enumerate(hashes):
            if content not in self._places:
                first.setdefault(content, position)
        return list(first.values())

    def read(self, hashes: Sequence[bytes]) -> Records:
        """The records of samples that are all present."""
        return Records(self._shards, [self._places[content] for content in hashes])

    def add(self, hashes: Sequence[bytes], records: Sequence[Array], seconds: float) -> None:
        """Write one shard.

        Args:
            hashes: Content hash of each sample.
            records: One array a sample; all of one dtype and one shape after the first dimension.
            seconds: What computing them took together.
        """
        lengths = np.array([len(record) for record in records], dtype=np.int64)
        index = np.zeros(len(records), dtype=_INDEX)
        index["hash"] = np.frombuffer(b"".join(hashes), dtype=np.uint8).reshape(-1, 16)
        index["start"] = np.cumsum(lengths) - lengths
        index["length"] = lengths
        index["seconds"] = seconds / len(records)
        name = uuid.uuid4().hex
        if not (self.folder / "key.json").exists():
            write_json(self.folder / "key.json", self.key)
        # The index comes last: a shard without one is not there.
        for suffix, array in (("values", np.concatenate(records)), ("index", index)):
            with atomic_open(self.folder / f"{name}.{suffix}.npy") as file:
                np.save(file, array, allow_pickle=False)

    def _refresh(self) -> None:
        if not self.folder.is_dir():
            return
        for file in sorted(self.folder.glob("*.index.npy")):
            name = file.name.removesuffix(".index.npy")
            if name not in self._known:
                self._known.add(name)
                self._shards.append(np.load(self.folder / f"{name}.values.npy", mmap_mode="r", allow_pickle=False))
                shard = len(self._shards) - 1
                for row in np.load(file, allow_pickle=False):
                    place = (shard, int(row["start"]), int(row["length"]), float(row["seconds"]))
                    self._places.setdefault(row["hash"].tobytes(), place)
