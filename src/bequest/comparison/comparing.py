"""A comparison: every method at every seed on the same draws, then rows, then the best model."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bequest.comparison.cost import PeakMemory
from bequest.comparison.describing import describe_source, describe_task, environment
from bequest.comparison.entries import Entry, check_features, check_modality, check_source_task
from bequest.comparison.examples import collect
from bequest.comparison.folder import BEST, SIZES, RunFolder, digest, disk_error
from bequest.comparison.groups import group_scores, worst
from bequest.comparison.learning_curves import learning_curves
from bequest.comparison.local import Call, Job, Runner, advance, in_process
from bequest.comparison.protocol import Protocol, all_tested
from bequest.comparison.questions import answer, concerned
from bequest.comparison.ranks import ENDS_A_TRIAL, Part, Team
from bequest.comparison.scoring import Fold, by_sample, check_finite, inference, scored, test_labels, test_outputs
from bequest.comparison.significance import Scores, against_best, difference, pairs
from bequest.comparison.statistics import RANKING, make_row, rank
from bequest.comparison.teacher import Taught, measure_teacher
from bequest.comparison.tuning import Attempted, Budget, Tuned, attempted, ranges, tune
from bequest.comparison.weights import examine
from bequest.core.errors import RunError, TrainingError
from bequest.core.observe import Observer, Silent
from bequest.core.questions import FULL
from bequest.core.registry import Hyperparameter
from bequest.core.results import Leaderboard, Row, SelectBy, TrialRecord
from bequest.core.sealed import SealedLabels
from bequest.core.task import Draw, HashArray, IntArray, Task
from bequest.engine.adapted import AdaptedModel
from bequest.engine.context import Context
from bequest.engine.memory import enough_memory
from bequest.engine.run import Outcome, make_plan, prepare, restore
from bequest.engine.runtime import choose_runtime
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
    context = _context(source, sealed, entries, protocol, store or Store(note=observer.note), observer)
    team = Team(context.runtime.ranks)
    # Sizes that do not fit the data are told before any work.
    begin = partial(_Comparison.begin, context, task, sealed, entries, runner=runner, team=team)
    parts = [begin(part, RunFolder(out / SIZES / str(part.train_size)), is_part=True) for part in _parts(protocol)]
    comparison = begin(protocol, RunFolder(out), measure=measure)
    team.meet({"data": task.fingerprint, "source": source.fingerprint})
    if not team.ranks.is_main:
        return team.follow(comparison.context_of)
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


def _context(
    source: Source,
    sealed: SealedLabels,
    entries: Sequence[Entry],
    protocol: Protocol,
    store: Store,
    observer: Observer,
) -> Context:
    return Context(
        source,
        sealed.public,
        store,
        choose_runtime(protocol.precision),
        observer,
        views=protocol.views,
        cut=protocol.cut,
        taps=tuple(dict.fromkeys(tap for entry in entries for tap in entry.taps)),
        source_task=protocol.source_task,
        teaching=protocol.teaching,
    )


_MOST_OF_THE_TIME = 0.1
"""That leaderboards between trials may take."""
_AT_ONCE_S = 1.0
"""A shorter wait for the next one is none."""


@dataclass(frozen=True)
class Parcel:
    """A comparison on its way to another process, which has a store of its own and writes no run's folder.

    Attributes:
        source: The pretrained network.
        cache: Folder of the store.
        runtime: Device and precision, which must be the same there.
        about: What else a comparison is made of.
    """

    source: Source
    cache: Path
    runtime: dict[str, Any]
    about: dict[str, Any]

    def opened(self, note: Callable[[str], None]) -> _Comparison:
        """The comparison, without trials.

        Args:
            note: Told what the user should know.

        Raises:
            RunError: Device or precision are others here.
        """
        sealed, entries, protocol = (self.about[name] for name in ("sealed", "entries", "protocol"))
        store = Store(self.cache, note=note)
        context = _context(self.source, sealed, entries, protocol, store, _Noted(note))
        here = context.runtime.describe()
        if here != self.runtime:
            told = "; ".join(f"{k}: {self.runtime[k]} there, {v} here" for k, v in here.items() if self.runtime[k] != v)
            raise RunError(
                f"A worker does not compute as the process that the comparison began in does ({told}); expected the "
                "same. Begin where there is what workers have, state accelerators (--resources gpus=1), or name the "
                "precision: --precision float32."
            )
        return _Comparison(context, folder=RunFolder(Path()), **self.about)


class _Noted(Silent):
    """An observer that passes on notes alone."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    def note(self, text: str) -> None:
        """Passed on."""
        self._tell(text)


def _parts(protocol: Protocol) -> list[Protocol]:
    """Of each smaller number of labels, the protocol of the same comparison with that one."""
    return [replace(protocol, train_size=size, smaller_sizes=()) for size in protocol.smaller_sizes]


def _divided(entries: Sequence[Entry]) -> bool:
    """Whether some method is fitted on held-out labels, so that half of them must be kept for ranking all."""
    return any("validation" in entry.fit_on for entry in entries)


def _draws(task: Task, entries: Sequence[Entry], protocol: Protocol, seed: int) -> list[Draw]:
    draws = protocol.draws(task, seed)
    return [draw.divided(task.strata, seed) for draw in draws] if _divided(entries) else draws


@dataclass
class _Comparison:
    context: Context
    entries: list[Entry]
    protocol: Protocol
    draws: dict[int, list[Draw]]
    folder: RunFolder
    sealed: SealedLabels
    task: dict[str, Any]
    tuning_draw: Draw
    measure: Callable[[str, int], int] | None = None
    is_part: bool = False
    runner: Runner = in_process
    team: Team = field(default_factory=Team)
    tuning: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    trials: list[TrialRecord] = field(default_factory=list)
    scores: dict[SelectBy, dict[str, dict[int, Scores]]] = field(
        default_factory=dict[SelectBy, dict[str, dict[int, Scores]]]
    )
    taught: Taught | None = None
    prepared: int = 0
    last: Leaderboard | None = None
    due: float = 0.0
    environment: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.environment = environment(self.context)

    @classmethod
    def begin(
        cls,
        context: Context,
        task: Task,
        sealed: SealedLabels,
        entries: Sequence[Entry],
        protocol: Protocol,
        folder: RunFolder,
        **more: Any,
    ) -> _Comparison:
        draws = {seed: _draws(task, entries, protocol, seed) for seed in protocol.seeds}
        tuning = _draws(task, entries, protocol, protocol.tuning_seed)[0]
        return cls(context, list(entries), protocol, draws, folder, sealed, describe_task(task), tuning, **more)

    def carry_out(
        self,
        settings: dict[str, Any],
        parts: Sequence[_Comparison],
        advise: Callable[[Leaderboard], list[str]] | None,
        report: Any,
    ) -> Leaderboard:
        with self.folder.claimed(settings, self.identity()):
            if self.context.teaching is not None:
                self.taught = measure_teacher(self.context, self.tested, test_labels(self.sealed, self.tested))
            board = self.run_trials()
            best = board.best
            if best is None:
                errors = "\n".join(f"{row.method}, {error}" for row in board.rows for error in row.errors)
                raise RunError(f"No trial ended with a result:\n{errors}")
            if parts:
                boards = {part.num_labels: part.run_as_part(settings, self.taught) for part in parts}
                curves = learning_curves({**boards, self.num_labels: board}, nested=_are_nested([*parts, self]))
                board = replace(board, learning_curves=curves)
            if advise is not None:
                board = replace(board, advice=advise(board))
            self.folder.write_board(board)
            self.save_best(best)
            with self.sealed.opened() as task:
                self.folder.write_examples(collect(task, self.folder, board))
            if report is not None:
                report(board, self.folder.path)
            return board

    def run_as_part(self, settings: dict[str, Any], taught: Taught | None) -> Leaderboard:
        """Run at a smaller number of labels; the folder is what a run with that number alone begins with."""
        self.taught = taught
        own = {**settings, "train_size": self.protocol.train_size, "train_sizes": None}
        self.context.observer.note(f"The same with {self.protocol.train_size:,} labels.")
        with self.folder.claimed(own, self.identity()):
            return self.run_trials()

    def run_trials(self) -> Leaderboard:
        """The leaderboard once every trial has ended; those that the folder holds are not run again."""
        if self.protocol.budget is not None:
            self.tune(self.protocol.budget)
        finished, progress = self.finished(), partial(self.context.observer.progress, "trials")
        progress(0, len(self.planned))
        for record in finished.values():
            self.take(record, is_new=False)
        missing = [(entry, seed) for entry, seed in self.planned if (entry.name, seed) not in finished]
        progress(len(finished), len(self.planned))
        with closing(self.runner(self, [_job(entry.name, seed) for entry, seed in missing])) as ended:
            for _, record in ended:
                self.take(record, is_new=True)
                progress(len(self.trials), len(self.planned))
        board = self.last
        assert board is not None, "some trial is planned"
        self.folder.write_board(board)
        return board

    def take(self, record: TrialRecord, *, is_new: bool) -> None:
        """Enter a trial that has ended, in its place among those that are planned, and look at what is to be known."""
        self.enter(record)
        first = self.first_well(record.method)
        if first is not None:
            looked_at = self.looked_at(first)
            is_new |= looked_at is not first
            self.enter(looked_at)
            record = looked_at if looked_at.seed == record.seed else record
        self.context.observer.trial(record, self.latest(is_new=is_new))

    def latest(self, *, is_new: bool) -> Leaderboard:
        """The leaderboard, or an earlier one: of thousands of trials it takes seconds, and records hold what counts."""
        began, is_whole = time.monotonic(), len(self.trials) == len(self.planned)
        if self.last is None or began >= self.due or is_whole:
            self.last = self.board()
            if is_new:
                self.folder.write_board(self.last)
            ended = time.monotonic()
            self.due = ended + max(0.0, (ended - began) / _MOST_OF_THE_TIME - _AT_ONCE_S)
        return self.last

    def enter(self, record: TrialRecord) -> None:
        """Put a record in its place among the trials, or in that of the one that stood there."""
        places = {(entry.name, seed): place for place, (entry, seed) in enumerate(self.planned)}
        others = [t for t in self.trials if (t.method, t.seed) != (record.method, record.seed)]
        is_known = len(others) < len(self.trials)
        self.trials = sorted([*others, record], key=lambda t: places[t.method, t.seed])
        if record.error is None and not is_known:
            kept, select_by = self.folder.test_outputs(record.method, record.seed), self.protocol.select_by
            for criterion, scores in by_sample(self.context, self.sealed, select_by, *kept).items():
                of_method = self.scores.setdefault(criterion, {}).setdefault(record.method, {})
                of_method[record.seed] = scores

    def first_well(self, method: str) -> TrialRecord | None:
        """Of a method's trials the one at the first seed that ended well; None while an earlier seed's may."""
        ended = {trial.seed: trial for trial in self.trials if trial.method == method}
        for seed in self.draws:
            if seed not in ended or ended[seed].error is None:
                return ended.get(seed)
        return None

    def looked_at(self, record: TrialRecord) -> TrialRecord:
        """The record with what is measured of one trial of a method only."""
        if self.asks_for_inference(record):
            record = self.timed(record)
        if self.asks_for_weights(record):
            record = self.examined(record)
        return self.measured(record) if self.asks_for_memory(record) else record

    @property
    def num_labels(self) -> int:
        """How many a method may see before the test."""
        return len(self.any_draw.labelled)

    @property
    def any_draw(self) -> Draw:
        """One of them: all are of the same sizes, but for a fold's remainder."""
        return next(iter(self.draws.values()))[0]

    @property
    def tested(self) -> IntArray:
        """The samples that each seed tests on, in the order in which trials keep what networks gave for them."""
        return all_tested(next(iter(self.draws.values())))

    @property
    def questioned(self) -> set[str]:
        """Names of the methods that the open questions are about; none at a smaller number of labels."""
        if self.is_part:
            return set()
        return concerned({entry.name: entry.info.family for entry in self.entries if entry.teaching is None})

    @property
    def planned(self) -> list[tuple[Entry, int]]:
        """Method and seed of each trial, in the order in which they run."""
        return [(entry, seed) for seed in self.draws for entry in self.entries]

    def finished(self) -> dict[tuple[str, int], TrialRecord]:
        """The trials that the folder holds already, by method and seed; damaged ones are all named at once."""
        found: dict[tuple[str, int], TrialRecord] = {}
        faults: list[str] = []
        for entry, seed in self.planned:
            try:
                record = self.folder.finished(entry.name, seed, self.trial_identity(entry, seed))
            except RunError as error:
                faults.append(str(error))
                continue
            if record is not None:
                found[entry.name, seed] = record
        if faults:
            raise RunError("\n".join(faults))
        return found

    def entry(self, name: str) -> Entry:
        """The method of a row."""
        return next(entry for entry in self.entries if entry.name == name)

    def searched(self, entry: Entry) -> dict[str, tuple[Hyperparameter, float, float]]:
        """The hyperparameters of a method that held-out labels choose; empty without a budget."""
        if self.protocol.budget is None:
            return {}
        return ranges(entry.info.hyperparameters, entry.settings, entry.given)

    def tune(self, budget: Budget) -> None:
        """Give every method the hyperparameters that held-out labels choose, where it has any to choose."""
        numbers = [number for number, entry in enumerate(self.entries) if self.searched(entry)]
        jobs = [self.search(self.entries[number], budget) for number in numbers]
        found: dict[int, Tuned] = {}
        with closing(self.runner(self, jobs)) as ended:
            for job, tuned in ended:
                found[numbers[job]] = tuned
        for number, tuned in sorted(found.items()):
            entry = self.entries[number]
            self.tuning[entry.name] = asdict(tuned)
            method = entry.info.build({**entry.given, **tuned.settings})
            settings = {**entry.settings, **entry.info.resolve(method, self.context.source.modality)}
            self.entries[number] = replace(entry, method=method, settings=settings)

    def search(self, entry: Entry, budget: Budget) -> Generator[Call, Attempted, Tuned]:
        """The job of choosing a method's hyperparameters."""
        seed, tried = self.protocol.tuning_seed, count()
        name = digest({"trial": self.trial_identity(entry, seed), "select_by": self.protocol.select_by})
        search = tune(self.folder.path, name, self.searched(entry), entry.settings, budget)
        chosen, found = advance(search)
        while chosen is not None:
            if budget.trials is not None:
                self.context.observer.progress(f"tuning {entry.name}", next(tried), budget.trials)
            chosen, found = advance(search, (yield Call(entry.name, seed, chosen)))
        return found

    def attempt(self, name: str, seed: int, settings: Mapping[str, Any]) -> Attempted:
        """Try a setting of a method on the draw that hyperparameters are chosen by."""
        entry = self.entry(name)
        context = self.context_of(name, self.tuning_draw, tested=False)

        def attempt(chosen: Mapping[str, Any]) -> tuple[float, float]:
            method = entry.info.build({**entry.given, **chosen})
            return self.held_out_score(self.team.run(context, Part(name, method, self.tuning_draw, seed, tested=False)))

        return attempted(attempt, settings)

    def prepare(self, name: str, seed: int) -> None:
        """Make the frozen passes of all that is planned up to a trial, in this order.

        A pass's numbers depend, in the last digits, on what was stored before it. So every store is filled in the same
        order, whichever trials are carried out beside it. What this trial makes for earlier ones is counted as its own.
        """
        searched = [(entry, self.protocol.tuning_seed) for entry in self.entries if self.searched(entry)]
        steps, passes = [*searched, *self.planned], self.context.passes
        place = next(i for i, (entry, s) in enumerate(steps) if (entry.name, s) == (name, seed))
        computed = passes.computed
        passes.begin_trial(None, None)
        for entry, step_seed in steps[self.prepared : place]:
            for draw in self.folds(step_seed):
                prepare(self.context, entry.method, draw, seed=step_seed)
        self.prepared = max(self.prepared, place)
        computed = passes.computed - computed
        entry, folders = self.entry(name), self.folder.folds(name, seed, self.protocol.folds)
        for number, (draw, folder) in enumerate(zip(self.folds(seed), folders, strict=True)):
            passes.begin_trial(folder, self.trial_identity(entry, seed))
            if computed and not number:
                passes.count("passes of earlier trials", 0, computed)
            prepare(self.context, entry.method, draw, seed=seed)

    def context_of(self, name: str, draw: Draw, *, tested: bool = True) -> Context:
        """What a method sees on a draw: where it is tested, no label of the draw's test part."""
        task = self.sealed.without(draw.test) if tested else self.context.task
        return replace(self.context, teaching=self.entry(name).teaching, task=task)

    def folds(self, seed: int) -> list[Draw]:
        """Of a trial, or of the settings that are tried."""
        return self.draws.get(seed, [self.tuning_draw])

    def parcel(self) -> Parcel:
        """What another process makes the same comparison of."""
        names = ("entries", "protocol", "draws", "sealed", "task", "tuning_draw", "is_part", "tuning", "taught")
        about = {name: getattr(self, name) for name in names}
        return Parcel(self.context.source, self.context.store.folder, self.context.runtime.describe(), about)

    def held_out_score(self, outcome: Outcome) -> tuple[float, float]:
        """Of a setting that is tried: the score that rows are ranked by, the higher the better, and the loss."""
        context, objective, indices = self.context, self.context.objective, self.tuning_draw.ranking
        labels = context.labels(indices)
        score = objective.score(outcome.validation, labels)
        if self.protocol.select_by == "worst-group":
            score = worst(group_scores(context.task, indices, outcome.validation)) or 0.0
        loss = float(objective.loss(outcome.validation, labels))
        check_finite({objective.metric: score, "loss": loss})
        return (score if objective.higher_is_better else -score), loss

    def trial(self, name: str, seed: int) -> TrialRecord:
        """Carry out a trial; what ended well lies in the folder then."""
        entry, folders = self.entry(name), self.folder.folds(name, seed, self.protocol.folds)
        identity = self.trial_identity(entry, seed)
        folds: list[Fold] = []
        try:
            with PeakMemory(self.context.runtime.device) as memory:
                for draw, folder in zip(self.draws[seed], folders, strict=True):
                    folds.append(self.fold(entry, seed, draw, folder, identity))
            with enough_memory():
                outputs = test_outputs(folds, self.tested)
                record = self.record(entry, seed, folds, outputs)
        except ENDS_A_TRIAL as error:
            reason = str(error) or type(error).__name__
            if isinstance(error, TrainingError):
                kept = self.folder.keep_last_good(name, seed, folders[len(folds)])
                reason += f" The weights kept: {kept.relative_to(self.folder.path)}."
            unfinished = [self.passes()] if len(folds) < len(folders) else []
            asked, computed = np.sum([*(fold.passes for fold in folds), *unfinished], axis=0).tolist()
            return replace(self.blank(entry, seed), error=reason, asked_samples=asked, frozen_samples=computed)
        taken = {"added_memory_bytes": memory.added_bytes, "accelerator_memory_bytes": memory.accelerator_bytes}
        record, kept = replace(record, **taken), folds[0].outcome
        self.folder.finish(record, identity, kept.trained, kept.head, outputs, self.tested)
        return record

    def fold(self, entry: Entry, seed: int, draw: Draw, folder: Path, identity: str) -> Fold:
        """Train on a fold, of whose test part the labels are out of reach, and on no others."""
        context = self.context_of(entry.name, draw)
        outcome = self.team.run(context, Part(entry.name, entry.method, draw, seed), folder, identity)
        labels, objective = context.labels(draw.ranking), context.objective
        scores = (
            objective.score(outcome.validation, labels),
            float(objective.loss(outcome.validation, labels)),
            worst(group_scores(context.task, draw.ranking, outcome.validation)),
        )
        return Fold(draw, outcome, scores, self.passes())

    def passes(self) -> tuple[int, int]:
        """Samples that the last training asked frozen functions about, and those that had to be computed."""
        passes = self.context.passes.trial.values()
        return sum(p[0] for p in passes), sum(p[1] for p in passes)

    def blank(self, entry: Entry, seed: int) -> TrialRecord:
        """A trial's record before anything came of it."""
        objective = self.context.objective
        about = {"metric": objective.metric, "higher_is_better": objective.higher_is_better}
        return TrialRecord(entry.name, seed, entry.settings, **about)

    def record(self, entry: Entry, seed: int, folds: Sequence[Fold], outputs: torch.Tensor) -> TrialRecord:
        """What is told of a trial; what predictions cost is measured at the first seed."""
        blank, kept = self.blank(entry, seed), folds[0]
        found = scored(blank, self.context, self.sealed, folds, self.tested, outputs, self.taught)
        is_first = seed == next(iter(self.draws))
        return replace(found, **inference(self.context, kept.outcome.network, kept.draw.test)) if is_first else found

    def ordered_scores(self, criterion: SelectBy, methods: Iterable[str]) -> dict[str, dict[int, Scores]]:
        """Sample by sample, of these methods and of the seeds in order, whatever the order in which trials end."""
        of_methods = {name: self.scores.get(criterion, {}).get(name, {}) for name in methods}
        return {name: {seed: own[seed] for seed in self.draws if seed in own} for name, own in of_methods.items()}

    def asks_for_inference(self, record: TrialRecord) -> bool:
        """Whether what a method's predictions cost was not measured along with the trial at the first seed."""
        return all(trial.inference_per_s is None for trial in self.trials if trial.method == record.method)

    def timed(self, record: TrialRecord) -> TrialRecord:
        """The record with what its network's predictions cost, kept in the folder."""
        plan = make_plan(self.context, self.entry(record.method).method, record.seed)
        network = restore(plan, *self.folder.trained(record.method, record.seed))
        record = replace(record, **inference(self.context, network, self.draws[record.seed][0].test))
        self.folder.amend(record)
        return record

    def asks_for_weights(self, record: TrialRecord) -> bool:
        """Whether a question wants to look at them, and they were not looked at of any trial of the method."""
        known = {trial.method for trial in self.trials if trial.weights is not None}
        return record.method in self.questioned - known

    def examined(self, record: TrialRecord) -> TrialRecord:
        """The record with what its training did to the weights, kept in the folder."""
        trained, head = self.folder.trained(record.method, record.seed)
        plan = make_plan(self.context, self.entry(record.method).method, record.seed)
        weights = examine(self.context, plan, trained, head, self.draws[record.seed][0].test)
        record = replace(record, weights=weights)
        self.folder.amend(record)
        return record

    def asks_for_memory(self, record: TrialRecord) -> bool:
        """Whether a method's memory has still to be measured."""
        known = {trial.method for trial in self.trials if trial.peak_memory_bytes}
        return self.measure is not None and record.method not in known

    def measured(self, record: TrialRecord) -> TrialRecord:
        """The record with the memory of a process of its own, kept in the folder."""
        assert self.measure is not None, "memory is asked for"
        record = replace(record, peak_memory_bytes=self.measure(record.method, record.seed))
        self.folder.amend(record)
        return record

    def board(self) -> Leaderboard:
        by_method: dict[str, list[TrialRecord]] = {}
        for trial in self.trials:
            by_method.setdefault(trial.method, []).append(trial)
        any_draw, select_by = self.any_draw, self.protocol.select_by
        rows = rank([make_row(t, select_by) for t in by_method.values()], select_by)
        scores = self.ordered_scores(select_by, [row.method for row in rows])
        metric = self.ordered_scores("metric", self.questioned)
        ahead = {name: difference(metric[FULL], own) for name, own in metric.items() if name != FULL}
        return Leaderboard(
            rows=[self.with_tuning(row) for row in against_best(rows, scores)],
            task=self.task,
            source=describe_source(self.context.source),
            protocol={
                "train_size": self.num_labels,
                "train": len(any_draw.train),
                "validation": len(any_draw.validation),
                "selection": None if any_draw.selection is None else len(any_draw.selection),
                "test": len(self.tested),
                **({} if self.protocol.folds is None else {"folds": self.protocol.folds}),
                "seeds": list(self.protocol.seeds),
                "split_seed": self.protocol.split_seed,
                "views": self.protocol.views.describe(),
                "select_by": select_by,
                "ranking": RANKING[select_by],
                **({} if self.taught is None else {"teacher": self.taught.record}),
                **({} if self.protocol.budget is None else {"tuning": self.describe_tuning(self.protocol.budget)}),
            },
            environment=self.environment,
            passes={
                "asked": sum(trial.asked_samples for trial in self.trials),
                "computed": sum(trial.frozen_samples for trial in self.trials),
            },
            trials=list(self.trials),
            differences=pairs(scores),
            questions=answer(self.trials, self.questioned, self.context.objective, ahead),
        )

    def with_tuning(self, row: Row) -> Row:
        """The row with a note of what its hyperparameters cost to choose."""
        found = self.tuning.get(row.method)
        if found is None:
            return row
        note = f"tuned over {found['tried']} settings, took {found['seconds']:.0f} s"
        return replace(row, notes=[note, *row.notes])

    def describe_tuning(self, budget: Budget) -> dict[str, Any]:
        return {"budget": budget.describe(), "seed": self.protocol.tuning_seed, "methods": self.tuning}

    def save_best(self, row: Row) -> None:
        """Make the median seed's network again from what it trained, and save it whole."""
        entry = self.entry(row.method)
        assert row.median_seed is not None
        trained, head = self.folder.trained(row.method, row.median_seed)
        network = restore(make_plan(self.context, entry.method, row.median_seed), trained, head)
        record = {
            "method": row.method,
            "seed": row.median_seed,
            "settings": row.settings,
            "validation": row.validation.mean if row.validation else None,
            "test": row.test.mean if row.test else None,
            "task": self.context.task.name,
            "task_fingerprint": self.context.task.fingerprint,
            "evidence": self.evidence(row),
        }
        task = self.context.task
        learned = self.learned(entry, row.median_seed)
        model = AdaptedModel(network, self.context.source, task.classes, record, task.kind, learned)
        model.save(self.folder.path / BEST)

    def learned(self, entry: Entry, seed: int) -> HashArray:
        """Content hashes of the samples of whose labels a row's network knows, those of its ancestors among them."""
        networks = (self.context.source, *(() if entry.teaching is None else entry.teaching.teachers))
        own = self.context.task.hashes[self.draws[seed][0].labelled]
        return np.unique(np.concatenate([own, *(n.learned for n in networks if n.learned is not None)]), axis=0)

    def evidence(self, row: Row) -> dict[str, Any]:
        """What the model card tells of a row and its median seed; no times, so that a model is the same made twice."""
        [trial] = [t for t in self.trials if (t.method, t.seed) == (row.method, row.median_seed)]
        draw = self.draws[trial.seed][0]
        return {
            "metric": row.metric,
            "validation": row.validation and asdict(row.validation),
            "test": row.test and asdict(row.test),
            "own_test": trial.test,
            "metrics": {name: asdict(found) for name, found in row.metrics.items()},
            "by_class": trial.by_class,
            "groups": {name: found.score for name, found in trial.groups.items()},
            "labels": trial.labels,
            "validation_labels": len(draw.held_out),
            "tested": len(self.tested),
            **({} if self.protocol.folds is None else {"folds": self.protocol.folds}),
            "trainable_parameters": trial.trainable_parameters,
            "rivals": len(self.entries) - 1,
            **({"tuning": self.tuning[row.method]} if row.method in self.tuning else {}),
            "environment": self.environment,
        }

    def trial_identity(self, entry: Entry, seed: int) -> str:
        identity = {**self.identity(), "method": entry.name, "settings": entry.settings, "seed": seed}
        # Rows without a teacher too: their records tell how often they agree with it.
        teaching = self.protocol.teaching
        return digest(identity if teaching is None else {**identity, "teaching": teaching.describe()})

    def identity(self) -> dict[str, Any]:
        return {
            "task": self.context.task.fingerprint,
            "source": self.context.source.name,
            "weights": self.context.source.fingerprint,
            "preprocessing": self.context.source.preprocess.fingerprint,
            "train_size": self.protocol.train_size,
            "test_size": self.protocol.test_size,
            "split_seed": self.protocol.split_seed,
            "folds": self.protocol.folds,
            "precision": self.context.runtime.describe(),
            "views": self.protocol.views.describe(),
            "divided": _divided(self.entries),
            "source_task": self.protocol.source_task and self.protocol.source_task.fingerprint,
        }


def _job(method: str, seed: int) -> Job:
    """A trial."""
    return (yield Call(method, seed))


def _are_nested(comparisons: Sequence[_Comparison]) -> bool:
    """Whether with every seed the labels of each comparison lie within those of the next."""
    return all(
        bool(np.isin(few.labelled, many.labelled).all())
        for fewer, more in pairwise(comparisons)
        for seed in fewer.draws
        for few, many in zip(fewer.draws[seed], more.draws[seed], strict=True)
    )
