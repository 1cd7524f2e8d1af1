"""One trial of a run in a process of its own, so that what memory it takes is its own.

`python -m bequest.alone RUN METHOD SEED` prints the peak, bytes. Nothing is stored before, so that the frozen passes
which the trial would have to make were it alone are in it.
"""

from __future__ import annotations

import sys
from tempfile import TemporaryDirectory

from bequest.api import repeat
from bequest.comparison.cost import PeakMemory
from bequest.core.observe import Silent
from bequest.core.results import Leaderboard, TrialRecord


class _Watch(Silent):
    """Reads the peak when a trial ends: what follows it, such as the report, is none of its cost."""

    def __init__(self, memory: PeakMemory) -> None:
        self.memory, self.num_bytes, self.error = memory, 0, None

    def trial(self, record: TrialRecord, board: Leaderboard) -> None:
        self.num_bytes, self.error = self.memory.bytes, record.error


def main(run: str, method: str, seed: str) -> None:
    """Repeat a trial and print its peak memory.

    Args:
        run: Folder of the run.
        method: Of the trial: the row's name.
        seed: Of the trial.
    """
    with PeakMemory() as memory, TemporaryDirectory() as folder:
        watch = _Watch(memory)
        repeat(run, method, int(seed), folder, observer=watch)
    if watch.error is not None:
        sys.exit(watch.error)
    print(watch.num_bytes)


if __name__ == "__main__":
    main(*sys.argv[1:])
