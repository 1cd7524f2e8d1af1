"""Features in Parquet files elsewhere, as a store reads them: by a link in the shelf, mapped, checked as shards are.

A link's name ends with the layer that the shelf is of, in hexadecimal digits, since a name may hold anything.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bequest.core.errors import DataError
from bequest.core.task import HashArray
from bequest.data.feature_files import RowGroup, read_end, row_groups
from bequest.engine.shard import DamagedShard

Array = np.ndarray[Any, Any]

LINK_SUFFIX = ".link"


@dataclass(frozen=True)
class LinkedGroup:
    """A row group, with what the store asks of a shard.

    Attributes:
        path: The link.
        group: The row group.
    """

    path: Path
    group: RowGroup

    @property
    def dtype(self) -> str:
        """Always `float32`."""
        return "float32"

    @property
    def seconds(self) -> float:
        """What computing a record took, on average."""
        return self.group.seconds

    @property
    def hashes(self) -> HashArray:
        """uint8 (records, 16)."""
        return self.group.hashes

    @property
    def lengths(self) -> Array:
        """First dimension of each record, int64 (records,)."""
        return np.full(len(self.group.hashes), self.group.width, np.int64)

    def open(self) -> Array:
        """The values, end to end, memory-mapped, after every byte of them was checked.

        Raises:
            DamagedShard: They are others than were written.
            OSError: The file is gone or cannot be read.
        """
        try:
            return self.group.values().reshape(-1)
        except DataError as error:
            raise DamagedShard(self.path) from error


def linked_name(file: Path, layer: str) -> str:
    """What the link to a file is called."""
    digest = hashlib.blake2b(str(file).encode(errors="surrogatepass"), digest_size=16).hexdigest()
    return f"{digest}-{layer.encode().hex()}{LINK_SUFFIX}"


def read_linked(link: Path) -> list[LinkedGroup]:
    """The row groups of the file that a link points to.

    Raises:
        DamagedShard: It is damaged, or no file of features.
        OSError: It is gone.
    """
    link.stat()  # so that a file that is gone is told from a damaged one
    try:
        layer = bytes.fromhex(link.name.removesuffix(LINK_SUFFIX).rpartition("-")[2]).decode()
        return [LinkedGroup(link, group) for group in row_groups(link, layer)]
    except (DataError, ValueError) as error:
        raise DamagedShard(link) from error


def count_linked(link: Path) -> int:
    """How many records the file has that a link points to; none where it cannot be read."""
    try:
        return sum(read_end(link, str(link)).num_rows)
    except DataError:
        return 0
