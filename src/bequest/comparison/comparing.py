"""A comparison: every method at every seed on the same draws, then rows, then the best model."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bequest.comparison.best import save_best
from bequest.comparison.board import leaderboard
from bequest.comparison.describing import describe_task
from bequest.comparison.ended import Ended
from bequest.comparison.entries import Entry, check_features, check_modality, check_source_task
from bequest.comparison.examples import collect
from bequest.comparison.folder import SIZES, RunFolder, digest, disk_error
from bequest.comparison.learning_curves import learning_curves
from bequest.comparison.local import Call, Job, Runner, advance, in_process
from bequest.comparison.protocol import Protocol
from bequest.comparison.ranks import Team
from bequest.comparison.scoring import test_labels
from bequest.comparison.setup import Setup, context_for, draws_for
from bequest.comparison.teacher import Taught, measure_teacher
from bequest.comparison.trials import Trials
from bequest.comparison.tuning import Attempted, Budget, Tuned, tune
from bequest.core.errors import RunError
from bequest.core.observe import Observer
from bequest.core.results import Leaderboard, TrialRecord
from bequest.core.sealed import SealedLabels
from bequest.core.task import Task
from bequest.engine.context import Context
from bequest.engine.store import Store
from bequest.sources import Source


def compare(
    task: Task,
    source: Source,
    entries: Sequence[Entry],
    protocol: Protocol,
    out: Path,
    observer: Observer,
    *,
    store: Store | None = None,
    settings: dict[str, Any] | None = None,
    measure: Callable[[str, int], int] | None = None,
    advise: Callable[[Leaderboard], list[str]] | None = None,
    report: Any = None,
    runner: Runner = in_process,
) -> Leaderboard:
    """Run every method at every seed, or take up a run that was interrupted; write the run's folder.

    Args:
        task: The labelled data.
        source: The pretrained network.
        entries: From `enter`.
        protocol: What is the same for every row.
        out: The run's folder.
        observer: Hears of progress.
        store: Of frozen outputs; None for the user's.
        settings: For `bequest replay`.
        measure: From a row's name and a seed to the peak memory of a process that runs this trial alone, bytes, 0 where
            it ended badly; None measures none.
        advise: From the finished leaderboard to what to take from it; None for nothing.
        report: Called with the leaderboard and the folder at the end, to write the report.
        runner: Carries trials out.

    Raises:
        RunError: The folder cannot be used or written, or no trial ended well.
        SourceError: The source does not take this kind of sample.
        DataError: The sizes do not fit the data, or a sample cannot be read.
    """
    check_modality(task, source)
    if notes := _learned_before(task, source, protocol):  # else the task's own hashes need not be made again
        task = replace(task, notes=(*task.notes, *notes))
    sealed = protocol.sealed(task)
    if protocol.teaching is not None:
        protocol.teaching.check(sealed.public, source)
        check_features(source, sealed.public, entries, protocol.teaching.settings)
    check_source_task(protocol.source_task, source, entries)
    context = context_for(source, sealed, entries, protocol, store or Store(note=observer.note), observer)
    team = Team(context.runtime.ranks)
    # Sizes that do not fit the data are told before any work.
    begin = partial(_Comparison.begin, context, task, sealed, entries, runner=runner, team=team)
    parts = [begin(part, RunFolder(out / SIZES / str(part.train_size)), is_part=True) for part in _parts(protocol)]
    comparison = begin(protocol, RunFolder(out), measure=measure)
    team.meet({"data": task.fingerprint, "source": source.fingerprint})
    if not team.ranks.is_main:
        return team.follow(comparison.setup.context_of)
    for note in task.notes:
        observer.note(note)
    try:
        return team.lead(partial(comparison.carry_out, settings or {}, parts, advise, report))
    except OSError as error:
        raise disk_error(error, out, context.store.folder) from error


def _learned_before(task: Task, source: Source, protocol: Protocol) -> list[str]:
    """A note of each network that knows labels of samples that are tested on."""
    teachers = () if protocol.teaching is None else protocol.teaching.teachers
    notes: list[str] = []
    for role, network in (("source", source), *(("teacher", teacher) for teacher in teachers)):
        if network.learned is not None:
            known, tested = set(map(bytes, network.learned)), task.hashes[protocol.tested(task)]
            if again := sum(bytes(found) in known for found in tested):
                notes.append(
                    f"The {role} {network.name} has learned from labels of {again:,} of the {len(tested):,} samples "
                    "that are tested on: scores flatter it and what learns from it. Split as its run did "
                    "(--split-seed, --test-size, no --folds), or test on other samples."
                )
    return notes


_MOST_OF_THE_TIME = 0.1
"""That leaderboards between trials may take."""
_AT_ONCE_S = 1.0
"""A shorter wait for the next one is none."""


def _parts(protocol: Protocol) -> list[Protocol]:
    """Of each smaller number of labels, the protocol of the same comparison with that one."""
    return [replace(protocol, train_size=size, smaller_sizes=()) for size in protocol.smaller_sizes]


@dataclass
class _Comparison:
    setup: Setup
    trials: Trials
    ended: Ended
    runner: Runner
    last: Leaderboard | None = None
    due: float = 0.0

    @classmethod
    def begin(
        cls,
        context: Context,
        task: Task,
        sealed: SealedLabels,
        entries: Sequence[Entry],
        protocol: Protocol,
        folder: RunFolder,
        *,
        runner: Runner,
        team: Team,
        measure: Callable[[str, int], int] | None = None,
        is_part: bool = False,
    ) -> _Comparison:
        draws = {seed: draws_for(task, entries, protocol, seed) for seed in protocol.seeds}
        tuning = draws_for(task, entries, protocol, protocol.tuning_seed)[0]
        about = describe_task(task)
        setup = Setup(context, list(entries), protocol, draws, tuning, folder, sealed, about, is_part)
        return cls(setup, Trials(setup, team), Ended(setup, measure), runner)

    def carry_out(
        self,
        settings: dict[str, Any],
        parts: Sequence[_Comparison],
        advise: Callable[[Leaderboard], list[str]] | None,
        report: Any,
    ) -> Leaderboard:
        setup = self.setup
        with setup.folder.claimed(settings, setup.identity()):
            if setup.context.teaching is not None:
                setup.taught = measure_teacher(setup.context, setup.tested, test_labels(setup.sealed, setup.tested))
            board = self.run_trials()
            best = board.best
            if best is None:
                errors = "\n".join(f"{row.method}, {error}" for row in board.rows for error in row.errors)
                raise RunError(f"No trial ended with a result:\n{errors}")
            if parts:
                boards = {part.setup.num_labels: part.run_as_part(settings, setup.taught) for part in parts}
                nested = _are_nested([*(part.setup for part in parts), setup])
                board = replace(
                    board, learning_curves=learning_curves({**boards, setup.num_labels: board}, nested=nested)
                )
            if advise is not None:
                board = replace(board, advice=advise(board))
            setup.folder.write_board(board)
            save_best(setup, board.trials, best)
            with setup.sealed.opened() as task:
                setup.folder.write_examples(collect(task, setup.folder, board))
            if report is not None:
                report(board, setup.folder.path)
            return board

    def run_as_part(self, settings: dict[str, Any], taught: Taught | None) -> Leaderboard:
        """Run at a smaller number of labels; the folder is what a run with that number alone begins with."""
        setup, size = self.setup, self.setup.protocol.train_size
        setup.taught = taught
        setup.context.observer.note(f"The same with {size:,} labels.")
        with setup.folder.claimed({**settings, "train_size": size, "train_sizes": None}, setup.identity()):
            return self.run_trials()

    def run_trials(self) -> Leaderboard:
        """The leaderboard once every trial has ended; those that the folder holds are not run again."""
        setup = self.setup
        if setup.protocol.budget is not None:
            self.tune(setup.protocol.budget)
        finished, progress = self.finished(), partial(setup.context.observer.progress, "trials")
        progress(0, len(setup.planned))
        for record in finished.values():
            self.take(record, is_new=False)
        missing = [(entry, seed) for entry, seed in setup.planned if (entry.name, seed) not in finished]
        progress(len(finished), len(setup.planned))
        with closing(self.runner(self.trials, [_job(entry.name, seed) for entry, seed in missing])) as ended:
            for _, record in ended:
                self.take(record, is_new=True)
                progress(len(self.ended.trials), len(setup.planned))
        board = self.last
        assert board is not None, "some trial is planned"
        setup.folder.write_board(board)
        return board

    def finished(self) -> dict[tuple[str, int], TrialRecord]:
        """The trials that the folder holds already, by method and seed; damaged ones are all named at once."""
        found: dict[tuple[str, int], TrialRecord] = {}
        faults: list[str] = []
        for entry, seed in self.setup.planned:
            try:
                record = self.setup.folder.finished(entry.name, seed, self.setup.trial_identity(entry, seed))
            except RunError as error:
                faults.append(str(error))
                continue
            if record is not None:
                found[entry.name, seed] = record
        if faults:
            raise RunError("\n".join(faults))
        return found

    def take(self, record: TrialRecord, *, is_new: bool) -> None:
        """Enter a trial that has ended, and show it with the leaderboard."""
        record, measured = self.ended.take(record)
        self.setup.context.observer.trial(record, self.latest(is_new=is_new or measured))

    def latest(self, *, is_new: bool) -> Leaderboard:
        """The leaderboard, or an earlier one: of thousands of trials it takes seconds, and records hold what counts."""
        began, is_whole = time.monotonic(), len(self.ended.trials) == len(self.setup.planned)
        if self.last is None or began >= self.due or is_whole:
            self.last = leaderboard(self.setup, self.ended)
            if is_new:
                self.setup.folder.write_board(self.last)
            ended = time.monotonic()
            self.due = ended + max(0.0, (ended - began) / _MOST_OF_THE_TIME - _AT_ONCE_S)
        return self.last

    def tune(self, budget: Budget) -> None:
        """Give every method the hyperparameters that held-out labels choose, where it has any to choose."""
        setup = self.setup
        numbers = [number for number, entry in enumerate(setup.entries) if setup.searched(entry)]
        jobs = [self.search(setup.entries[number], budget) for number in numbers]
        found: dict[int, Tuned] = {}
        with closing(self.runner(self.trials, jobs)) as ended:
            for job, tuned in ended:
                found[numbers[job]] = tuned
        for number, tuned in sorted(found.items()):
            setup.choose(number, tuned)

    def search(self, entry: Entry, budget: Budget) -> Generator[Call, Attempted, Tuned]:
        """The job of choosing a method's hyperparameters."""
        setup, seed, tried = self.setup, self.setup.protocol.tuning_seed, count()
        name = digest({"trial": setup.trial_identity(entry, seed), "select_by": setup.protocol.select_by})
        search = tune(setup.folder.path, name, setup.searched(entry), entry.settings, budget)
        chosen, found = advance(search)
        while chosen is not None:
            if budget.trials is not None:
                setup.context.observer.progress(f"tuning {entry.name}", next(tried), budget.trials)
            chosen, found = advance(search, (yield Call(entry.name, seed, chosen)))
        return found


def _job(method: str, seed: int) -> Job:
    """A trial."""
    return (yield Call(method, seed))


def _are_nested(setups: Sequence[Setup]) -> bool:
    """Whether with every seed the labels of each comparison lie within those of the next."""
    return all(
        bool(np.isin(few.labelled, many.labelled).all())
        for fewer, more in pairwise(setups)
        for seed in fewer.draws
        for few, many in zip(fewer.draws[seed], more.draws[seed], strict=True)
    )
