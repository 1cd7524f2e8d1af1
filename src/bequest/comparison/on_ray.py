"""The runner that carries out the parts of a comparison as tasks of Ray.

The work is put into Ray's object store once; a worker takes it from there when its first task comes, with a store of
frozen outputs of its own machine. What a trial leaves comes back with its record, and this process alone writes the
run's folder. So machines need no disk in common; the data must lie at the same paths on all of them.

A worker that dies and a machine that is lost are no fault of a trial: it is carried out again, up to `ATTEMPTS` times.
"""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import bequest
from bequest.comparison.folder import RunFolder, locked
from bequest.comparison.local import Call, Job, advance
from bequest.comparison.trials import Trials
from bequest.core.errors import BequestError, DataError, RunError, first_line
from bequest.engine.cluster import Resources, check_versions, versions
from bequest.engine.memory import enough_memory

ATTEMPTS = 4
"""How often a part is carried out before it is given up: a worker that dies at it each time may well die of it."""

_LOCK, _LOCK_EVERY_S = ".passes.lock", 0.05
_LOOK_EVERY_S = 30.0


def on_ray(ray: Any, asked: Resources, trials: Trials, jobs: Sequence[Job]) -> Generator[tuple[int, Any]]:
    """The runner; with its first two arguments bound it is a `bequest.comparison.local.Runner`.

    Args:
        ray: The module, connected.
        asked: What one task has for itself.
        trials: The comparison.
        jobs: What is to be done.

    Yields:
        A job's number and what it came to, as they end.

    Raises:
        RunError: The work cannot be sent, a worker's versions are others, the cluster is gone, or workers died at a
            part each time that it was carried out; all else has ended then.
        BequestError: Whatever a part raises.
    """
    tasks = _Tasks(ray, asked, trials, jobs)
    try:
        for number in range(len(jobs)):
            yield from tasks.advance(number)
        while tasks.pending:
            yield from tasks.next()
    except ConnectionError as error:  # an OSError, but none of a disk
        raise RunError(
            f"The connection to Ray's cluster was lost ({first_line(error)}); expected one until the end. Finished "
            "trials are kept, and the same command goes on with them."
        ) from error
    finally:
        with suppress(ConnectionError):
            for ref in tasks.pending:
                ray.cancel(ref, force=True)
    if tasks.lost:
        raise RunError("\n".join(tasks.lost))


@dataclass(frozen=True)
class Ended:
    """What a worker gives back.

    Attributes:
        value: What came of the part.
        files: Of a trial, by name.
        notes: What the user should know.
        environment: Versions and machine.
    """

    value: Any
    files: dict[str, bytes]
    notes: list[str]
    environment: dict[str, Any]


class _Tasks:
    """Jobs, and the tasks that are under way for them."""

    def __init__(self, ray: Any, asked: Resources, trials: Trials, jobs: Sequence[Job]) -> None:
        self.ray, self.asked, self.setup, self.jobs = ray, asked, trials.setup, jobs
        try:
            self.parcel = ray.put(trials.parcel())
        except (TypeError, AttributeError, ValueError) as error:
            raise RunError(
                f"The comparison cannot be sent to Ray's workers ({first_line(error)}); expected data, a source and "
                "methods that can be pickled. Leave --on out."
            ) from error
        # Ray itself repeats nothing: how often, and after which faults, is the same for tasks and their results.
        self.task = ray.remote(carry_out).options(**asked.describe(), max_retries=0)
        self.pending: dict[Any, tuple[int, Call, int]] = {}
        self.lost: list[str] = []
        self.environment: dict[str, Any] = {}

    def advance(self, number: int, found: Any = None) -> Iterator[tuple[int, Any]]:
        """Begin the next part of a job; what it came to if there is none."""
        call, value = advance(self.jobs[number], found)
        if call is None:
            yield number, value
        else:
            self.begin(number, call, 1)

    def begin(self, number: int, call: Call, attempt: int) -> None:
        ref = self.task.remote(versions(), [self.parcel], call, self.asked.threads)
        self.pending[ref] = number, call, attempt

    def next(self) -> Iterator[tuple[int, Any]]:
        """Wait for the next task that ends, and go on with its job."""
        from ray.exceptions import RayError, RayTaskError

        ready, _ = self.ray.wait(list(self.pending), num_returns=1, timeout=_LOOK_EVERY_S)
        if not ready and not self.asked.fit(self.ray):
            self.setup.context.say(f"No machine of the cluster has {self.asked} now; waiting for one.")
        for ref in ready:
            number, call, attempt = self.pending.pop(ref)
            try:
                done: Ended = self.ray.get(ref)
            except RayTaskError as error:
                if not isinstance(error.cause, RayError):
                    raise _own(error.cause, _place(error, self.ray.util.get_node_ip_address())) from error
                self.again(number, call, attempt, error.cause)
            except RayError as error:
                self.again(number, call, attempt, error)
            else:
                self.take(call, done)
                yield from self.advance(number, done.value)

    def take(self, call: Call, done: Ended) -> None:
        """Keep what a trial left, and say what its worker has to say."""
        self.setup.folder.unpack(call.method, call.seed, done.files)
        for note in done.notes:
            self.setup.context.say(note)
        if not self.environment:
            self.environment = self.setup.environment = {**done.environment, "ray": self.ray.__version__}
        differing = [name for name, value in done.environment.items() if self.environment[name] != value]
        if differing:
            self.setup.context.say(
                f"Workers of Ray differ in {', '.join(differing)}: the last digits of what they compute may, too."
            )

    def again(self, number: int, call: Call, attempt: int, error: Exception) -> None:
        """Carry a part out once more whose worker or machine is gone, or give it up."""
        reason = first_line(error)
        if attempt < ATTEMPTS:
            self.setup.context.say(f"A worker of Ray was lost with {call} ({reason}); it is carried out again.")
            self.begin(number, call, attempt + 1)
            return
        self.lost.append(
            f"{ATTEMPTS} workers of Ray were lost one after another with {call} ({reason}); expected one that lives. "
            "If memory runs out, state what a task needs (--resources memory=8GB). All else is kept, and the same "
            "command goes on with it."
        )


def carry_out(begun: Mapping[str, str], parcel: Sequence[Any], call: Call, threads: int) -> Ended:
    """What a worker does; it keeps the work for the next task.

    Args:
        begun: The versions that the comparison is made with.
        parcel: The place of the work in the object store, in a list, so that it is not read for every task.
        call: The part of the work.
        threads: To compute with.

    Raises:
        RunError: Versions differ, or the work cannot be made here.
        BequestError: Whatever the part raises.
    """
    check_versions(begun)
    torch.set_num_threads(threads)
    opened = _opened(parcel[0])
    trials, setup = opened.trials, opened.trials.setup
    with TemporaryDirectory(prefix="bequest-") as folder:
        setup.folder = RunFolder(Path(folder))
        # What lacks memory here lacks it in the part too, which tells it.
        with _turn(setup.context.store.folder), suppress(MemoryError), enough_memory():
            trials.prepare(call.method, call.seed)
        value = call.of(trials)
        files = setup.folder.packed(call.method, call.seed) if call.settings is None else {}
    notes, opened.notes[:] = list(opened.notes), []
    return Ended(value, files, notes, setup.environment)


@dataclass
class _Opened:
    """The comparison in a worker's process.

    Attributes:
        ref: Its place in the object store.
        trials: The comparison.
        notes: What is to be said of it.
    """

    ref: Any
    trials: Trials
    notes: list[str] = field(default_factory=list[str])


_kept: list[_Opened] = []
"""The last one, which is that of the next task until a comparison goes on to another phase."""


def _opened(ref: Any) -> _Opened:
    if not _kept or _kept[0].ref != ref:
        import ray
        from ray.exceptions import RaySystemError

        _kept.clear()
        notes: list[str] = []
        try:
            parcel: Any = ray.get(ref)
        except RaySystemError as error:
            raise RunError(
                f"A worker of Ray cannot read what the comparison is made of ({first_line(error)}); expected the "
                "packages and modules there that it was made with. Install them on every machine of the cluster."
            ) from error
        _kept.append(_Opened(ref, parcel.opened(notes.append), notes))
    return _kept[0]


@contextmanager
def _turn(folder: Path) -> Generator[None]:
    """While it is open no other worker fills the store: each would make the passes that all begin with."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("ab") as file:
        while not locked(file):
            time.sleep(_LOCK_EVERY_S)
        yield


def _place(error: Exception, here: str) -> str:
    """The address of the machine that an error of Ray comes from, as its text tells it; empty where it is here."""
    found = re.search(r"ip=([\d.:a-f]*[\da-f])", str(error))
    return "" if not found or found[1] == here else found[1]


def _own(error: Exception, place: str) -> Exception:
    """What a part raised, with what to know of where it did."""
    if isinstance(error, ConnectionError):
        return DataError(f"A worker of Ray cannot reach what it reads ({first_line(error)}); expected the data there.")
    if isinstance(error, DataError) and place:
        return DataError(f"{error} A worker of Ray at {place} says so; the data must lie at the same paths there.")
    if isinstance(error, BequestError | OSError) or "failed to import" not in str(error):
        return error
    return RunError(
        f"A worker of Ray cannot import bequest ({first_line(error)}); expected bequest {bequest.__version__} on "
        "every machine of the cluster. Install it there."
    )
