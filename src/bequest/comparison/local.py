"""Where the parts of a comparison are carried out: what a runner is, and the one that does it here, one by one.

A job is a generator that says which part of the work is to be done next and is sent what came of it: a trial is a job
of one part, a search for hyperparameters one of many. A runner drives jobs and gives what they come to.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from bequest.comparison.trials import Trials

Asked = TypeVar("Asked")


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

    def of(self, trials: Trials) -> Any:
        """Carried out: a `TrialRecord`, or an `Attempted`."""
        if self.settings is None:
            return trials.trial(self.method, self.seed)
        return trials.attempt(self.method, self.seed, self.settings)

    def __str__(self) -> str:
        what = "" if self.settings is None else f", with the settings {self.settings}"
        return f"{self.method} at seed {self.seed}{what}"


Job = Generator[Call, Any, Any]

Runner = Callable[[Trials, Sequence[Job]], Generator[tuple[int, Any]]]
"""From what carries parts out and jobs to what each job comes to, with its number, as they end."""


def in_process(trials: Trials, jobs: Sequence[Job]) -> Generator[tuple[int, Any]]:
    """The runner that does everything in this process, in order."""
    for number, job in enumerate(jobs):
        call, value = advance(job)
        while call is not None:
            call, value = advance(job, call.of(trials))
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
