"""Whether this process is one of several that a launcher started for one run, as accelerate and torchrun do."""

from __future__ import annotations

import os
from dataclasses import dataclass

_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables by which a process that inherits them would take itself for one of the run's."""


@dataclass(frozen=True)
class Launched:
    """This process among those of one run.

    Attributes:
        rank: Its number, from 0; 0 is the main process.
        number: How many there are.
    """

    rank: int = 0
    number: int = 1

    @property
    def is_main(self) -> bool:
        """Whether it is the one that writes and talks."""
        return self.rank == 0


def launched() -> Launched:
    """What the launcher's environment variables say; one process without a launcher."""
    return Launched(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def alone() -> dict[str, str]:
    """The environment of a process that is to run by itself, whoever started this one."""
    return {name: value for name, value in os.environ.items() if name not in _NAMES}
