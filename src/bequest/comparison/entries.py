"""The methods that a comparison runs, with their settings and teachers, each known to suit the source and the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bequest.core.distillation import DISTILLED, TEACHER, Distillation
from bequest.core.errors import DataError, MethodError, SourceError
from bequest.core.plan import Part, Plan, Solve, Train
from bequest.core.registry import MethodInfo, get_method
from bequest.core.task import Task
from bequest.engine.feature_teaching import guided_stages
from bequest.engine.teaching import Teaching
from bequest.nn.taps import Tap, tapped
from bequest.sources import Source


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


def check_features(source: Source, task: Task, entries: Sequence[Entry], settings: Distillation) -> None:
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


def check_source_task(source_task: Task | None, source: Source, entries: Sequence[Entry]) -> None:
    """Raise an error where the source's own data do not suit it, or no method learns from them."""
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
