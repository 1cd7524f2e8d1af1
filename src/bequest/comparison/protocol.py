"""The protocol: every method at every seed on the same draws, then rows, then the best model."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

import bequest
from bequest.comparison.cost import PeakMemory, measure_inference
from bequest.comparison.examples import collect
from bequest.comparison.folder import BEST, SIZES, RunFolder, digest
from bequest.comparison.groups import group_scores, worst, worst_group_influence
from bequest.comparison.learning_curves import learning_curves
from bequest.comparison.questions import answer, concerned
from bequest.comparison.ranks import ENDS_A_TRIAL, Team
from bequest.comparison.significance import Scores, against_best, by_unit
from bequest.comparison.statistics import RANKING, make_row, rank
from bequest.comparison.teacher import Taught, measure_teacher
from bequest.comparison.tuning import Budget, ranges, tune
from bequest.comparison.weights import examine
from bequest.core.distillation import DISTILLED, TEACHER, Distillation
from bequest.core.errors import DataError, MethodError, RunError, SourceError, TrainingError
from bequest.core.observe import Observer
from bequest.core.plan import Part, Plan, Solve, Train
from bequest.core.registry import MethodInfo, get_method
from bequest.core.results import WORST_GROUP, Leaderboard, Row, SelectBy, TrialRecord
from bequest.core.sealed import SealedLabels
from bequest.core.task import Draw, IntArray, Task
from bequest.data.views import Views
from bequest.engine.adapted import AdaptedModel
from bequest.engine.context import Context
from bequest.engine.feature_teaching import guided_stages
from bequest.engine.run import LAST_GOOD, Outcome, make_plan, restore
from bequest.engine.runtime import Precision, choose_runtime
from bequest.engine.store import Store
from bequest.engine.teaching import Teaching
from bequest.nn.taps import Tap, tapped
from bequest.sources import Source

_MAX_SCATTER = 500
"""Test samples of a regression whose predictions are kept in the record."""


@dataclass(frozen=True)
class Protocol:
    """What is the same for every row.

    Attributes:
        seeds: Each redraws labels, initialisation and order; the test part stays.
        train_size: Labels that a method may see before the test; None for all that are not test.
        test_size: Test samples, or their fraction below 1.
        split_seed: Chooses the test part.
        precision: `auto`, `float32` or `bfloat16`.
        views: What training sees of each sample.
        cut: Whether frozen layers are computed once; False trains the plain way, to the same result.
        source_task: The source's own labelled data, for methods that learn from them.
        select_by: Which score on held-out labels ranks the rows; trials do not depend on it.
        teaching: Of the rows that are distilled; None where none is.
        smaller_sizes: Further numbers of labels, below `train_size`, at which everything is run too.
        budget: What each method may spend on choosing its hyperparameters on held-out labels; None to take them as they
            are.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    train_size: int | None = None
    test_size: int | float = 0.25
    split_seed: int = 0
    precision: Precision = "auto"
    views: Views = field(default_factory=Views)
    cut: bool = True
    source_task: Task | None = None
    select_by: SelectBy = "metric"
    teaching: Teaching | None = None
    smaller_sizes: tuple[int, ...] = ()
    budget: Budget | None = None

    @property
    def tuning_seed(self) -> int:
        """Of the trials that hyperparameters are chosen by: the first that no row is of."""
        return next(seed for seed in count() if seed not in self.seeds)


@dataclass(frozen=True)
class Entry:
    """A method with its settings.

    Attributes:
        info: As registered.
        method: Built.
        settings: Every hyperparameter as it will be used.
        given: Those that the user set.
        fit_on: Parts that its solvers see.
        taps: Of the source's body, what its solvers read.
        trains: Whether it has a training stage.
        teaching: Of its training stages; None where they have no teacher.
        swept: Whether there are rows of other temperatures beside it.
    """

    info: MethodInfo
    method: Any
    settings: dict[str, Any] = field(default_factory=dict)
    fit_on: frozenset[Part] = frozenset()
    taps: tuple[Tap, ...] = ()
    trains: bool = False
    teaching: Teaching | None = None
    swept: bool = False
    given: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its row."""
        if self.teaching is None:
            return self.info.name
        at = f" at {self.teaching.settings.temperature:g}" if self.swept else ""
        return self.info.name + DISTILLED + at


def enter(names: Sequence[str], settings: Mapping[str, Mapping[str, Any]], source: Source, task: Task) -> list[Entry]:
    """The methods by name, with their settings, each known to have a plan for this source and task.

    Raises:
        MethodError: A name or a hyperparameter is unknown or out of range; all faults of one kind at once.
    """
    unknown: list[str] = []
    for name in dict.fromkeys([*names, *settings]):
        try:
            get_method(name)
        except MethodError as error:
            unknown.append(str(error))
    if unknown:
        raise MethodError("\n".join(unknown))
    left_out = sorted(set(settings) - set(names))
    if left_out:
        raise MethodError(f"Settings are given for {', '.join(left_out)}, which is not among the methods to run.")
    entries: list[Entry] = []
    faults: list[str] = []
    for name in dict.fromkeys(names):
        info = get_method(name)
        try:
            check_applies(info, task)
            built = info.build(settings.get(name, {}))
            plan = built.plan(source, task)
            _check_stages(name, plan, task)
        except MethodError as error:
            faults.append(str(error))
            continue
        solves = [stage for stage in plan.stages if isinstance(stage, Solve)]
        fit_on: frozenset[Part] = frozenset(part for stage in solves for part in stage.fit_on)
        taps = tapped(plan.network.body)[1] if any(stage.source_features for stage in solves) else None
        trains = any(isinstance(stage, Train) for stage in plan.stages)
        given = dict(settings.get(name, {}))
        resolved = info.resolve(built, source.modality)
        entries.append(Entry(info, built, resolved, fit_on, taps or (), trains, given=given))
    if faults:
        raise MethodError("\n".join(faults))
    return entries


def with_teacher(entries: Sequence[Entry], teaching: Teaching, temperatures: Sequence[float] = ()) -> list[Entry]:
    """Each method as it is, then, if it trains, with the teacher: once, or at each of some temperatures.

    Raises:
        MethodError: None of them trains.
    """
    if not any(entry.trains for entry in entries):
        names = ", ".join(entry.name for entry in entries)
        raise MethodError(
            f"A teacher is given, but no training stage of {names} could learn from it; expected a method that trains "
            "by gradient descent, e.g. full or lora (`bequest ls methods`)."
        )
    names = {TEACHER: ", ".join(t.name for t in teaching.teachers)}
    lessons = [teaching.at(temperature) for temperature in temperatures] or [teaching]
    found: list[Entry] = []
    for entry in entries:
        found.append(entry)
        for lesson in lessons if entry.trains else ():
            settings = {**entry.settings, **lesson.settings.describe(), **names}
            found.append(replace(entry, teaching=lesson, swept=bool(temperatures), settings=settings))
    return found


def check_applies(info: MethodInfo, task: Task) -> None:
    """Raise `MethodError` if a method has nothing to fit on the task: a language model's texts carry no labels."""
    if task.kind == "causal-lm" and not info.trains:
        raise MethodError(
            f"{info.name} fits a head on one embedding a sample, but a language model predicts every token by the head "
            "that it has; expected a method that trains, e.g. full or lora. Choose one: `bequest ls methods`."
        )


def _check_stages(name: str, plan: Plan, task: Task) -> None:
    if task.kind == "causal-lm" and any(isinstance(s, Solve) or s.source_features for s in plan.stages):
        raise MethodError(
            f"{name} begins with a new head on stored features, but a language model keeps its own head, which knows "
            "the tokens already; expected a method that trains the network itself, e.g. full or lora."
        )


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

    Raises:
        RunError: The folder cannot be used or written, or no trial ended well.
        SourceError: The source does not take this kind of sample.
        DataError: The sizes do not fit the data, or a sample cannot be read.
    """
    check_modality(task, source)
    sealed = SealedLabels(task, _tuning_draw(task, entries, protocol).test)
    if protocol.teaching is not None:
        protocol.teaching.check(sealed.public, source)
        _check_features(source, sealed.public, entries, protocol.teaching.settings)
    _check_source_task(protocol.source_task, source, entries)
    context = Context(
        source,
        sealed.public,
        store or Store(note=observer.note),
        choose_runtime(protocol.precision),
        observer,
        views=protocol.views,
        cut=protocol.cut,
        taps=tuple(dict.fromkeys(tap for entry in entries for tap in entry.taps)),
        source_task=protocol.source_task,
        teaching=protocol.teaching,
    )
    team = Team(context.runtime.ranks)
    # Sizes that do not fit the data are told before any work.
    begin = partial(_Comparison.begin, context, task, sealed, entries, team=team)
    parts = [begin(part, RunFolder(out / SIZES / str(part.train_size)), is_part=True) for part in _parts(protocol)]
    comparison = begin(protocol, RunFolder(out), measure=measure)
    team.meet()
    if not team.ranks.is_main:
        return team.follow(context, {entry.name: entry.teaching for entry in entries})
    for note in task.notes:
        observer.note(note)
    try:
        return team.lead(partial(comparison.carry_out, settings or {}, parts, advise, report))
    except OSError as error:
        raise disk_error(error, out, context.store.folder) from error


def _check_features(source: Source, task: Task, entries: Sequence[Entry], settings: Distillation) -> None:
    """Raise `MethodError` where a method's features cannot come closer to a teacher's."""
    faults: list[str] = []
    for entry in entries if settings.feature_weight else ():
        if entry.teaching is None:
            continue
        plan = entry.method.plan(source, task)
        try:
            guided_stages(plan.network, plan.stages, settings.student_layer, source.batch(task))
        except MethodError as error:
            faults.append(f"{entry.info.name}: {error}")
    if faults:
        raise MethodError("\n".join(dict.fromkeys(faults)))


def _parts(protocol: Protocol) -> list[Protocol]:
    """Of each smaller number of labels, the protocol of the same comparison with that one."""
    return [replace(protocol, train_size=size, smaller_sizes=()) for size in protocol.smaller_sizes]


def _divided(entries: Sequence[Entry]) -> bool:
    """Whether some method is fitted on held-out labels, so that half of them must be kept for ranking all."""
    return any("validation" in entry.fit_on for entry in entries)


def _draws(task: Task, entries: Sequence[Entry], protocol: Protocol) -> dict[int, Draw]:
    sizes = {n: getattr(protocol, n) for n in ("train_size", "test_size", "split_seed")}
    draws = {seed: task.draw(seed, **sizes) for seed in protocol.seeds}
    return {seed: draw.divided(task.strata, seed) if _divided(entries) else draw for seed, draw in draws.items()}


def _tuning_draw(task: Task, entries: Sequence[Entry], protocol: Protocol) -> Draw:
    """Of the trials that hyperparameters are chosen by; its test part is that of all."""
    [draw] = _draws(task, entries, replace(protocol, seeds=(protocol.tuning_seed,))).values()
    return draw


@dataclass
class _Comparison:
    context: Context
    entries: list[Entry]
    protocol: Protocol
    draws: dict[int, Draw]
    folder: RunFolder
    sealed: SealedLabels
    task: dict[str, Any]
    tuning_draw: Draw
    measure: Callable[[str, int], int] | None = None
    is_part: bool = False
    team: Team = field(default_factory=Team)
    tuning: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    trials: list[TrialRecord] = field(default_factory=list)
    scores: dict[str, dict[int, Scores]] = field(default_factory=dict[str, dict[int, Scores]])
    taught: Taught | None = None

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
        draws, tuning = _draws(task, entries, protocol), _tuning_draw(task, entries, protocol)
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
                test = next(iter(self.draws.values())).test
                self.taught = measure_teacher(self.context, test, self.test_labels(test))
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
            self.entries = [self.tuned(entry, self.protocol.budget) for entry in self.entries]
        finished = self.finished()
        board = self.board()
        for done, (entry, seed) in enumerate(self.planned):
            self.context.observer.progress("trials", done, len(self.planned))
            record = finished.get((entry.name, seed))
            is_new = record is None
            record = self.trial(entry, seed, self.draws[seed]) if record is None else record
            if self.asks_for_weights(record):
                record, is_new = self.examined(entry, record), True
            if self.asks_for_memory(record):
                record, is_new = self.measured(record), True
            self.trials.append(record)
            if record.error is None:
                self.scores.setdefault(record.method, {})[seed] = self.by_sample(record)
            board = self.board()
            if is_new:
                self.folder.write_board(board)
            self.context.observer.trial(self.trials[-1], board)
        self.context.observer.progress("trials", len(self.planned), len(self.planned))
        self.folder.write_board(board)
        return board

    @property
    def num_labels(self) -> int:
        """How many a method may see before the test."""
        return len(next(iter(self.draws.values())).labelled)

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

    def tuned(self, entry: Entry, budget: Budget) -> Entry:
        """The method with the hyperparameters that held-out labels chose; as it is where it has none to choose."""
        info, seed = entry.info, self.protocol.tuning_seed
        searched = ranges(info.hyperparameters, entry.settings, entry.given)
        if not searched:
            return entry
        context = replace(self.context, teaching=entry.teaching)
        tried = count()

        def attempt(chosen: Mapping[str, Any]) -> tuple[float, float]:
            if budget.trials is not None:
                context.observer.progress(f"tuning {entry.name}", next(tried), budget.trials)
            method = info.build({**entry.given, **chosen})
            outcome = self.team.run(context, entry.name, method, self.tuning_draw, seed=seed, tested=False)
            return self.held_out_score(outcome)

        name = digest({"trial": self.trial_identity(entry, seed), "select_by": self.protocol.select_by})
        found = tune(self.folder.path, name, searched, entry.settings, budget, attempt)
        self.tuning[entry.name] = asdict(found)
        method = info.build({**entry.given, **found.settings})
        settings = {**entry.settings, **info.resolve(method, context.source.modality)}
        return replace(entry, method=method, settings=settings)

    def held_out_score(self, outcome: Outcome) -> tuple[float, float]:
        """Of a setting that is tried: the score that rows are ranked by, the higher the better, and the loss."""
        context, objective, indices = self.context, self.context.objective, self.tuning_draw.ranking
        labels = context.labels(indices)
        score = objective.score(outcome.validation, labels)
        if self.protocol.select_by == "worst-group":
            score = worst(group_scores(context.task, indices, outcome.validation)) or 0.0
        loss = float(objective.loss(outcome.validation, labels))
        return (score if objective.higher_is_better else -score), loss

    def trial(self, entry: Entry, seed: int, draw: Draw) -> TrialRecord:
        name, context = entry.name, replace(self.context, teaching=entry.teaching)
        identity, folder = self.trial_identity(entry, seed), self.folder.trial(name, seed)
        try:
            with PeakMemory(context.runtime.device) as memory:
                outcome = self.team.run(context, name, entry.method, draw, seed=seed, folder=folder, identity=identity)
        except ENDS_A_TRIAL as error:
            reason = str(error) or type(error).__name__
            if isinstance(error, TrainingError):
                reason += f" The weights kept: {(folder / LAST_GOOD).relative_to(self.folder.path)}."
            record = replace(self.blank(entry, seed), error=reason)
            outcome = None
        else:
            taken = {"added_memory_bytes": memory.added_bytes, "accelerator_memory_bytes": memory.accelerator_bytes}
            record = replace(self.record(entry, seed, draw, outcome), **taken)
        passes = self.context.passes.trial.values()
        record = replace(record, asked_samples=sum(p[0] for p in passes), frozen_samples=sum(p[1] for p in passes))
        if outcome is not None:
            self.folder.finish(record, identity, outcome.trained, outcome.head, outcome.test, draw.test)
        return record

    def blank(self, entry: Entry, seed: int) -> TrialRecord:
        """A trial's record before anything came of it."""
        objective = self.context.objective
        about = {"metric": objective.metric, "higher_is_better": objective.higher_is_better}
        return TrialRecord(entry.name, seed, entry.settings, **about)

    def record(self, entry: Entry, seed: int, draw: Draw, outcome: Outcome) -> TrialRecord:
        context, objective = self.context, self.context.objective
        validation, test = context.labels(draw.ranking), self.test_labels(draw.test)
        further = {name: score(outcome.test, test) for name, score in objective.metrics.items()}
        with self.sealed.opened() as task:
            groups = group_scores(task, draw.test, outcome.test)
        worst_group = worst(groups)
        inference = None
        if all(trial.inference_per_s is None for trial in self.trials if trial.method == entry.name):
            inference = measure_inference(context, outcome.network, draw.test)
        return replace(
            self.blank(entry, seed),
            validation=objective.score(outcome.validation, validation),
            validation_loss=float(objective.loss(outcome.validation, validation)),
            test=objective.score(outcome.test, test),
            test_loss=float(objective.loss(outcome.test, test)),
            metrics={
                **{name: value for name, value in further.items() if value is not None},
                **({} if worst_group is None else {WORST_GROUP: worst_group}),
                **({} if self.taught is None else self.taught.agreement(outcome.test)),
            },
            confusion=_confusion(outcome.test, test) if objective.confusion else [],
            scatter=_scatter(outcome.test, test) if objective.standardised else [],
            epochs=outcome.history,
            epochs_planned=outcome.epochs_planned,
            solved=outcome.solved,
            trainable_parameters=outcome.trainable_parameters,
            stored_bytes=sum(t.numel() * t.element_size() for t in outcome.trained.values()),
            optimizer_bytes=outcome.history[-1].optimizer_bytes if outcome.history else 0,
            train_s=outcome.own_s + outcome.shared_s,
            shared_s=outcome.shared_s,
            inference_per_s=inference and inference.per_s,
            latency_p50_ms=inference and inference.latency_p50_ms,
            latency_p95_ms=inference and inference.latency_p95_ms,
            forward_flops=inference and inference.forward_flops,
            labels=len(draw.labelled),
            merged=outcome.merged,
            frozen_shares=outcome.frozen_shares,
            validation_worst_group=worst(group_scores(context.task, draw.ranking, outcome.validation)),
            groups=groups,
        )

    def test_labels(self, test: IntArray) -> torch.Tensor:
        """Of a finished network to be scored; dtype and shape as `Context.labels`."""
        with self.sealed.opened() as task:
            return torch.from_numpy(task.labels[test])

    def by_sample(self, record: TrialRecord) -> Scores:
        """The score that rows are ranked by, sample by sample of the test part; pieces of a unit together."""
        outputs, indices = self.folder.test_outputs(record.method, record.seed)
        if self.protocol.select_by == "worst-group":
            with self.sealed.opened() as task:
                scores = worst_group_influence(task, indices, outputs)
        else:
            scores = self.context.objective.influence(outputs, self.test_labels(indices))
        units = self.context.task.units
        return scores.numpy() if units is None else by_unit(scores.numpy(), units[indices])

    def asks_for_weights(self, record: TrialRecord) -> bool:
        """Whether a question wants to look at them: of each method it is about, at the first seed that ended well."""
        known = {trial.method for trial in self.trials if trial.weights is not None}
        return record.method in self.questioned - known and record.error is None and record.weights is None

    def examined(self, entry: Entry, record: TrialRecord) -> TrialRecord:
        """The record with what its training did to the weights, kept in the folder."""
        trained, head = self.folder.trained(record.method, record.seed)
        plan = make_plan(self.context, entry.method, record.seed)
        weights = examine(self.context, plan, trained, head, self.draws[record.seed].test)
        record = replace(record, weights=weights)
        self.folder.amend(record)
        return record

    def asks_for_memory(self, record: TrialRecord) -> bool:
        """Whether a method's memory has still to be measured: at the first seed that ended well."""
        known = {trial.method for trial in self.trials if trial.peak_memory_bytes}
        is_open = record.error is None and not record.peak_memory_bytes
        return self.measure is not None and is_open and record.method not in known

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
        any_draw, select_by = next(iter(self.draws.values())), self.protocol.select_by
        rows = rank([make_row(t, select_by) for t in by_method.values()], select_by)
        return Leaderboard(
            rows=[self.with_tuning(row) for row in against_best(rows, self.scores)],
            task=self.task,
            source=describe_source(self.context.source),
            protocol={
                "train_size": self.num_labels,
                "train": len(any_draw.train),
                "validation": len(any_draw.validation),
                "selection": None if any_draw.selection is None else len(any_draw.selection),
                "test": len(any_draw.test),
                "seeds": list(self.protocol.seeds),
                "split_seed": self.protocol.split_seed,
                "views": self.protocol.views.describe(),
                "select_by": select_by,
                "ranking": RANKING[select_by],
                **({} if self.taught is None else {"teacher": self.taught.record}),
                **({} if self.protocol.budget is None else {"tuning": self.describe_tuning(self.protocol.budget)}),
            },
            environment=environment(self.context),
            passes={
                "asked": sum(trial.asked_samples for trial in self.trials),
                "computed": sum(trial.frozen_samples for trial in self.trials),
            },
            trials=list(self.trials),
            questions=answer(self.trials, self.questioned, self.context.objective),
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
        entry = next(e for e in self.entries if e.name == row.method)
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
        AdaptedModel(network, self.context.source, task.classes, record, task.kind).save(self.folder.path / BEST)

    def evidence(self, row: Row) -> dict[str, Any]:
        """What the model card tells of a row and its median seed; no times, so that a model is the same made twice."""
        [trial] = [t for t in self.trials if (t.method, t.seed) == (row.method, row.median_seed)]
        draw = self.draws[trial.seed]
        return {
            "metric": row.metric,
            "validation": row.validation and asdict(row.validation),
            "test": row.test and asdict(row.test),
            "own_test": trial.test,
            "metrics": {name: asdict(found) for name, found in row.metrics.items()},
            "confusion": trial.confusion,
            "groups": {name: found.score for name, found in trial.groups.items()},
            "labels": trial.labels,
            "validation_labels": len(draw.held_out),
            "tested": len(draw.test),
            "trainable_parameters": trial.trainable_parameters,
            "rivals": len(self.entries) - 1,
            "environment": environment(self.context),
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
            "precision": self.context.runtime.describe(),
            "views": self.protocol.views.describe(),
            "divided": _divided(self.entries),
            "source_task": self.protocol.source_task and self.protocol.source_task.fingerprint,
        }


def _are_nested(comparisons: Sequence[_Comparison]) -> bool:
    """Whether with every seed the labels of each comparison lie within those of the next."""
    return all(
        bool(np.isin(fewer.draws[seed].labelled, more.draws[seed].labelled).all())
        for fewer, more in pairwise(comparisons)
        for seed in fewer.draws
    )


def environment(context: Context) -> dict[str, Any]:
    """Versions and machine, for records."""
    return {
        "bequest": bequest.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        **({} if context.runtime.ranks.alone else {"processes": context.runtime.ranks.number}),
        **context.runtime.describe(),
    }


def disk_error(error: OSError, out: Path, cache: Path) -> RunError:
    """What to tell of a file that could not be read or written."""
    file = Path(error.filename or out)
    if file.is_relative_to(cache):
        expected, another = f"a cache that can be read and written, with room, in {cache}", "name another: --cache"
    else:
        expected, another = "a folder that can be written, with room for the run", "choose another --out"
    return RunError(
        f"Cannot read or write {file} ({error.strerror or error}); expected {expected}. Check permissions, free space, "
        f"or {another}. Finished trials are kept, and the same command goes on with them."
    )


def _check_source_task(source_task: Task | None, source: Source, entries: Sequence[Entry]) -> None:
    if source_task is None:
        return
    check_modality(source_task, source)
    if source_task.kind != "classification":
        raise DataError(
            f"The source data {source_task.name!r} are for {source_task.kind}; expected one class a sample. Give "
            "labels that are classes."
        )
    if not any("source" in entry.fit_on for entry in entries):
        raise MethodError(
            "--source-data is given, but none of the methods learns from the source's data; expected one that does, "
            "e.g. pro2. Add it to --methods, or leave --source-data out."
        )


def check_modality(task: Task, source: Source) -> None:
    """Raise `SourceError` if the source takes other samples than the task's, or predicts what the task does not ask."""
    if task.modality != source.modality:
        raise SourceError(
            f"The source {source.name!r} takes samples of kind {source.modality!r}, but {task.name!r} holds "
            f"{task.modality!r}. Choose a source for {task.modality}: `bequest ls sources`."
        )
    if (task.kind == "causal-lm") != (source.head_kind == "causal-lm"):
        what = "a language model" if source.head_kind == "causal-lm" else "no language model"
        raise SourceError(
            f"The source {source.name!r} is {what}, but {task.name!r} is a {task.kind} task; expected a source for "
            f"that. Name it rather than hand it over, e.g. smollm2, or get it for the task: bequest.get_source(…, "
            f"kind={task.kind!r})."
        )


def describe_task(task: Task) -> dict[str, Any]:
    """What records tell of the task."""
    return {
        "name": task.name,
        "modality": task.modality,
        "kind": task.kind,
        "classes": list(task.classes),
        **_describe_labels(task),
        **_describe_groups(task),
        "samples": len(task.labels),
        "fingerprint": task.fingerprint,
        "notes": list(task.notes),
    }


def _describe_labels(task: Task) -> dict[str, Any]:
    """Samples of each class, of multi-label tasks those that carry it; of a regression each target's range.

    Of a language model's texts the number of documents.
    """
    if task.kind == "classification":
        return {"class_counts": np.bincount(task.labels, minlength=len(task.classes)).tolist()}
    if task.kind == "multi-label":
        return {"class_counts": (task.labels > 0).sum(0).tolist()}
    if task.kind == "causal-lm":
        return {"documents": len(np.unique(task.units))} if task.units is not None else {}
    labels = task.labels.astype(np.float64)
    numbers = {"mean": labels.mean(0), "sd": labels.std(0), "min": labels.min(0), "max": labels.max(0)}
    return {"targets": [{k: float(v[i]) for k, v in numbers.items()} for i in range(len(task.classes))]}


def _describe_groups(task: Task) -> dict[str, Any]:
    """Samples of each group."""
    if task.grouping is None:
        return {}
    names, numbers = task.grouping.names, task.grouping.numbers
    return {"groups": list(names), "group_counts": np.bincount(numbers, minlength=len(names)).tolist()}


def describe_source(source: Source) -> dict[str, Any]:
    """What records tell of the source."""
    return {
        "name": source.name,
        "modality": source.modality,
        "parameters": sum(p.numel() for p in source.body.parameters()),
        "width": source.width,
        "fingerprint": source.fingerprint,
        "licence": source.licence,
    }


def _scatter(outputs: torch.Tensor, labels: torch.Tensor) -> list[list[list[float]]]:
    """True and predicted values, of test samples at even steps where there are many."""
    chosen = np.linspace(0, len(labels) - 1, min(len(labels), _MAX_SCATTER)).round().astype(np.int64)
    pairs = torch.stack([labels, outputs], 2)[torch.from_numpy(chosen)]
    return [[[float(f"{value:.6g}") for value in pair] for pair in sample] for sample in pairs.tolist()]


def _confusion(outputs: torch.Tensor, labels: torch.Tensor) -> list[list[int]]:
    classes = outputs.shape[1]
    pairs = labels * classes + outputs.argmax(1)
    return torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes).tolist()
