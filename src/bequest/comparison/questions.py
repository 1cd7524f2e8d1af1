"""The open questions about parameter-efficient fine-tuning, answered from a comparison's records."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import zip_longest

from bequest.core.intervals import Difference
from bequest.core.questions import FAMILY, FULL, Gap, Parity, Questions, Race, Ranks, Ratio, Reached
from bequest.core.results import TrialRecord
from bequest.nn.objectives import Objective

TOLERANCE = 0.005
"""How near to full fine-tuning counts as its accuracy: half a point of a metric that is 1 at best, or half a per cent
of one that can have any size."""

ENERGY = 0.9
"""Share of full fine-tuning's energy that the suggested rank holds."""

_ROUNDING = 1e-9


def concerned(families: Mapping[str, str]) -> set[str]:
    """Names of the methods that the questions are about: full fine-tuning and the parameter-efficient ones.

    Args:
        families: Of every method of a comparison, by name. Where either side is missing there is no question.
    """
    efficient = {name for name, family in families.items() if family == FAMILY}
    return {FULL, *efficient} if efficient and FULL in families else set()


def answer(
    trials: Sequence[TrialRecord],
    methods: Collection[str],
    objective: Objective,
    ahead: Mapping[str, Difference | None],
) -> Questions | None:
    """What the trials tell of the questions; None where there is nothing to ask, or no result yet on either side.

    Args:
        trials: Of a comparison, those that failed among them.
        methods: From `concerned`.
        objective: Of the task.
        ahead: By how much full fine-tuning's test metric exceeds that of the others; None where too few
            seeds tell.
    """
    done: dict[str, dict[int, TrialRecord]] = {}
    for trial in trials:
        if trial.method in methods and trial.error is None:
            done.setdefault(trial.method, {})[trial.seed] = trial
    full = done.pop(FULL, {})
    if not full or not done:
        return None
    gaps = (_gap(method, own, full, ahead.get(method)) for method, own in done.items())
    parities = (_parity(method, own, full, objective) for method, own in done.items())
    ranks = [found for method, own in {FULL: full, **done}.items() for found in _ranks(method, own.values())]
    return Questions(
        metric=objective.metric,
        higher_is_better=objective.higher_is_better,
        tolerance=TOLERANCE,
        relative=not objective.higher_is_better,
        gaps=[gap for gap in gaps if gap is not None],
        parities=[parity for parity in parities if parity is not None],
        ranks=ranks,
        suggested_rank=_suggested(next((found.energy for found in ranks if found.method == FULL), [])),
        merging={
            method: trial.weights.merging
            for method, own in done.items()
            for trial in own.values()
            if trial.weights is not None and trial.weights.merging is not None
        },
    )


def _gap(
    method: str, own: Mapping[int, TrialRecord], full: Mapping[int, TrialRecord], ahead: Difference | None
) -> Gap | None:
    if ahead is not None:
        return Gap(method, **asdict(ahead.reversed()))
    pairs = [(trial.test, full[seed].test) for seed, trial in own.items() if seed in full]
    differences = [ours - theirs for ours, theirs in pairs if ours is not None and theirs is not None]
    return Gap(method, statistics.mean(differences), None, None, len(differences)) if differences else None


def _parity(
    method: str, own: Mapping[int, TrialRecord], full: Mapping[int, TrialRecord], objective: Objective
) -> Parity | None:
    found = (_race(trial, full[seed], objective) for seed, trial in own.items() if seed in full)
    races = [race for race in found if race is not None]
    if not races:
        return None
    return Parity(method, races, _ratio(races, "steps"), _ratio(races, "seconds"))


def _race(own: TrialRecord, full: TrialRecord, objective: Objective) -> Race | None:
    ours, theirs = _course(own), _course(full)
    if not ours or not theirs:
        return None
    # Higher is better from here on.
    sign = 1 if objective.higher_is_better else -1
    best = max(sign * metric for metric, _ in theirs)
    mark = best - TOLERANCE * (1 if objective.higher_is_better else abs(best))

    def reached(course: list[tuple[float, Reached]]) -> Reached | None:
        return next((where for metric, where in course if sign * metric >= mark - _ROUNDING), None)

    where = reached(theirs)
    assert where is not None, "full fine-tuning reaches its own best"
    return Race(own.seed, sign * mark, reached(ours), where, end=ours[-1][1])


def _course(trial: TrialRecord) -> list[tuple[float, Reached]]:
    """The metric on held-out labels, and what it took until then, stages one after the other; empty where untold."""
    course: list[tuple[float, Reached]] = []
    steps, seconds = 0, 0.0
    for epoch in trial.epochs:
        if epoch.steps is None:
            return []
        steps += epoch.steps
        seconds += epoch.seconds if epoch.epoch else 0.0
        course.append((epoch.validation_metric, Reached(steps, seconds)))
    return course


def _ratio(races: Sequence[Race], what: str) -> Ratio | None:
    """The middle seed's ratio of steps or seconds; seeds that did not reach the mark come after those that did."""
    ratios: list[tuple[bool, float]] = []
    for race in races:
        if race.full.steps:
            ratios.append((race.own is None, getattr(race.own or race.end, what) / getattr(race.full, what)))
    if not ratios:
        return None
    late, value = sorted(ratios)[len(ratios) // 2]
    # Of a seed that came to its end nothing more is known: all that is certain is what holds of the middle end.
    value = sorted(ratio for _, ratio in ratios)[len(ratios) // 2] if late else value
    return Ratio(value, not late, len(ratios))


def _ranks(method: str, trials: Iterable[TrialRecord]) -> list[Ranks]:
    """One record, or none where no matrix of the method's was measured."""
    for trial in trials:
        found = [s for s in (trial.weights.spectra if trial.weights else []) if s.adaptable]
        if found:
            effective = [s.effective_rank for s in found]
            # A matrix of a small side has all its energy where another still has not.
            energy = zip_longest(*(s.energy for s in found), fillvalue=1.0)
            return [
                Ranks(
                    method,
                    trial.seed,
                    len(found),
                    statistics.median(effective),
                    min(effective),
                    max(effective),
                    statistics.median(s.rank_90 for s in found),
                    statistics.median(s.rank_99 for s in found),
                    [statistics.median(shares) for shares in energy],
                )
            ]
    return []


def _suggested(energy: Sequence[float]) -> int | None:
    return next((2**i for i, share in enumerate(energy) if share >= ENERGY), None)
