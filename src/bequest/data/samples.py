"""Samples made of other samples: chosen ones, and several one after another."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

from bequest.core.errors import DataError
from bequest.core.task import HashArray, Hashed, IntArray, Modality, Samples
from bequest.data.messages import counted, listed
from bequest.data.spool import spool_hashes


def unreadable(samples: Samples, first: DataError) -> DataError:
    """What to tell when a sample cannot be read: of all that cannot, not of the first alone.

    Args:
        samples: All of the task's; each is read to find out.
        first: The fault that was met.
    """

    def fault(index: int) -> str:
        try:
            samples[index]
        except DataError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor() as pool:
        faults = {i: text for i, text in enumerate(pool.map(fault, range(len(samples)))) if text}
    others = [samples.describe(i) for i, text in faults.items() if text != str(first)]
    if not others:
        return first
    return DataError(
        f"{first} So it is with {counted(len(others), 'other')} of {len(samples):,} samples: {listed(others, 100)}."
    )


def hashes_of(samples: Samples) -> HashArray:
    """uint8 (samples, 16): the content hash of each."""
    if isinstance(samples, Hashed):
        return samples.hashes
    return spool_hashes(samples.content_hash(i) for i in range(len(samples)))


@dataclass(frozen=True)
class Chosen:
    """Some of other samples.

    Attributes:
        samples: What is chosen from.
        indices: Which, in order.
    """

    samples: Samples
    indices: Sequence[int] | IntArray

    @property
    def modality(self) -> Modality:
        """What a sample is."""
        return self.samples.modality

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.samples[int(self.indices[index])]

    @cached_property
    def hashes(self) -> HashArray:
        """uint8 (samples, 16)."""
        hashes = hashes_of(self.samples)
        return spool_hashes(hashes[i].tobytes() for i in self.indices)

    def content_hash(self, index: int) -> bytes:
        """16 bytes of the sample's content."""
        return self.samples.content_hash(int(self.indices[index]))

    def describe(self, index: int) -> str:
        """Where the sample came from."""
        return self.samples.describe(int(self.indices[index]))


@dataclass(frozen=True)
class Joined:
    """Samples of one modality, one after another.

    Attributes:
        parts: The samples, one or more.
    """

    parts: tuple[Samples, ...]

    @property
    def modality(self) -> Modality:
        """What a sample is."""
        return self.parts[0].modality

    @cached_property
    def hashes(self) -> HashArray:
        """uint8 (samples, 16)."""
        return spool_hashes(hashes_of(part).tobytes() for part in self.parts)

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(len(part) for part in self.parts))

    def _find(self, index: int) -> tuple[Samples, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        i = bisect.bisect_right(self._ends, index)
        return self.parts[i], index - (self._ends[i - 1] if i else 0)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Any:
        part, i = self._find(index)
        return part[i]

    def content_hash(self, index: int) -> bytes:
        """16 bytes of the sample's content."""
        part, i = self._find(index)
        return part.content_hash(i)

    def describe(self, index: int) -> str:
        """Where the sample came from."""
        part, i = self._find(index)
        return part.describe(i)
