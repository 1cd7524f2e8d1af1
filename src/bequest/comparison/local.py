"""Where the parts of a comparison are carried out: what a runner is, and the one that does it here, one by one.

A job is a generator that says which part of the work is to be done next and is sent what came of it: a trial is a job
of one part, a search for hyperparameters one of many. A runner drives jobs and gives what they come to.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from bequest.comparison.folder import RunFolder
from bequest.comparison.tuning import Attempted
from bequest.core.results import TrialRecord
from bequest.engine.context import Context

Asked = TypeVar("Asked")


class Work(Protocol):
    """A comparison, as a runner sees it.

    Attributes:
        context: Of the process that it is in.
        folder: Where trials are kept.
        environment: Versions and machine that it is carried out on, for records.
    """

    context: Context
    folder: RunFolder
    environment: dict[str, Any]

    def trial(self, name: str, seed: int) -> TrialRecord:
        """Carry out a trial; its files are in the folder then."""
        ...

    def attempt(self, name: str, seed: int, settings: Mapping[str, Any]) -> Attempted:
        """Try a setting of a method."""
        ...

    def prepare(self, name: str, seed: int) -> None:
        """Make the frozen passes of all that is planned up to here, in this order."""
        ...

    def parcel(self) -> Parcel:
        """What another process makes the same work of."""
        ...


class Parcel(Protocol):
    """Work that can be pickled."""

    def opened(self, note: Callable[[str], None]) -> Work:
        """The work, in a process of another.

        Args:
            note: Told what the user should know.
        """
        ...


@dataclass(frozen=True)
class Call:
    """A part of the work: a trial, or a setting that is tried.

    Attributes:
        method: The row's name.
        seed: Redraws labels, initialisation and order.
        settings: Of a setting that is tried; None for a trial.
    """

    method: str
    seed: int
    settings: dict[str, Any] | None = None

    def of(self, work: Work) -> Any:
        """Carried out: a `TrialRecord`, or an `Attempted`."""
        if self.settings is None:
            return work.trial(self.method, self.seed)
        return work.attempt(self.method, self.seed, self.settings)

    def __str__(self) -> str:
        what = "" if self.settings is None else f", with the settings {self.settings}"
        return f"{self.method} at seed {self.seed}{what}"


Job = Generator[Call, Any, Any]

Runner = Callable[[Work, Sequence[Job]], Generator[tuple[int, Any]]]
"""From work and jobs to what each job comes to, with its number, as they end."""


def in_process(work: Work, jobs: Sequence[Job]) -> Generator[tuple[int, Any]]:
    """The runner that does everything in this process, in order."""
    for number, job in enumerate(jobs):
        call, value = advance(job)
        while call is not None:
            call, value = advance(job, call.of(work))
        yield number, value


def advance(job: Generator[Asked, Any, Any], found: Any = None) -> tuple[Asked | None, Any]:
    """Send a job, or another generator of its kind, what came of what it asked for last.

    Args:
        job: The job.
        found: What came of it; None to begin.

    Returns:
        What it asks for next and None, or None and what it comes to.
    """
    try:
        return job.send(found), None
    except StopIteration as end:
        return None, end.value
