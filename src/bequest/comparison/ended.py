"""The trials of a comparison that have ended, and what is looked at in one trial of each method."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

from bequest.comparison.scoring import by_sample, inference
from bequest.comparison.setup import Setup
from bequest.comparison.significance import Scores
from bequest.comparison.weights import examine
from bequest.core.results import SelectBy, TrialRecord
from bequest.engine.run import make_plan, restore
from bequest.nn.network import Network

BySeed = dict[str, dict[int, Scores]]
"""From a row's name and a seed to scores, sample by sample."""


@dataclass
class Ended:
    """Trials in the order in which they are planned, whatever the order in which they end.

    Attributes:
        setup: Of the comparison.
        measure: From a row's name and a seed to the peak memory of a process that runs this trial alone, bytes, 0 where
            it ended badly; None measures none.
        trials: Their records.
    """

    setup: Setup
    measure: Callable[[str, int], int] | None = None
    trials: list[TrialRecord] = field(default_factory=list)
    _scores: dict[SelectBy, BySeed] = field(default_factory=dict[SelectBy, BySeed])

    def take(self, record: TrialRecord) -> tuple[TrialRecord, bool]:
        """Enter a trial that has ended, and look at what is to be known of its method.

        Returns:
            Its record, and whether anything was measured.
        """
        self._enter(record)
        first = self._first_well(record.method)
        if first is None:
            return record, False
        looked_at = self._looked_at(first)
        self._enter(looked_at)
        return looked_at if looked_at.seed == record.seed else record, looked_at is not first

    def scores(self, criterion: SelectBy, methods: Iterable[str]) -> BySeed:
        """Sample by sample, of these methods and of the seeds in order."""
        of_methods = {name: self._scores.get(criterion, {}).get(name, {}) for name in methods}
        return {name: {seed: own[seed] for seed in self.setup.draws if seed in own} for name, own in of_methods.items()}

    @cached_property
    def _places(self) -> dict[tuple[str, int], int]:
        return {(entry.name, seed): place for place, (entry, seed) in enumerate(self.setup.planned)}

    def _enter(self, record: TrialRecord) -> None:
        """Put a record in its place among the trials, or in that of the one that stood there."""
        setup, place = self.setup, self._places[record.method, record.seed]
        at = bisect_left(self.trials, place, key=lambda t: self._places[t.method, t.seed])
        is_known = (record.method, record.seed) in ((t.method, t.seed) for t in self.trials[at : at + 1])
        self.trials[at : at + is_known] = [record]
        if record.error is None and not is_known:
            kept = setup.folder.test_outputs(record.method, record.seed)
            for criterion, scores in by_sample(setup.context, setup.sealed, setup.protocol.select_by, *kept).items():
                self._scores.setdefault(criterion, {}).setdefault(record.method, {})[record.seed] = scores

    def _first_well(self, method: str) -> TrialRecord | None:
        """Of a method's trials the one at the first seed that ended well; None while an earlier seed's may."""
        ended = {trial.seed: trial for trial in self.trials if trial.method == method}
        for seed in self.setup.draws:
            if seed not in ended or ended[seed].error is None:
                return ended.get(seed)
        return None

    def _looked_at(self, record: TrialRecord) -> TrialRecord:
        """The record with what is measured of one trial of a method only; the folder keeps it."""
        own, setup = [trial for trial in self.trials if trial.method == record.method], self.setup
        folder, test = setup.folder, setup.draws[record.seed][0].test
        if all(trial.inference_per_s is None for trial in own):  # else it was measured along with the trial
            record = replace(record, **inference(setup.context, network_of(setup, record.method, record.seed), test))
            folder.amend(record)
        if record.method in setup.questioned and all(trial.weights is None for trial in own):
            plan = make_plan(setup.context, setup.entry(record.method).method, record.seed)
            trained, head = folder.trained(record.method, record.seed)
            record = replace(record, weights=examine(setup.context, plan, trained, head, test))
            folder.amend(record)
        if self.measure is not None and not any(trial.peak_memory_bytes for trial in own):
            record = replace(record, peak_memory_bytes=self.measure(record.method, record.seed))
            folder.amend(record)
        return record


def network_of(setup: Setup, method: str, seed: int) -> Network:
    """The finished network of a trial, made again from what it trained."""
    plan = make_plan(setup.context, setup.entry(method).method, seed)
    return restore(plan, *setup.folder.trained(method, seed))
