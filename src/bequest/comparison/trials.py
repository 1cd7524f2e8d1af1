"""Carries out the parts of a comparison one by one, in this process or in one that is sent what it is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bequest.comparison.cost import PeakMemory
from bequest.comparison.entries import Entry
from bequest.comparison.folder import RunFolder
from bequest.comparison.groups import group_scores, worst
from bequest.comparison.ranks import ENDS_A_TRIAL, Part, Team
from bequest.comparison.scoring import Fold, check_finite, inference, scored, test_outputs
from bequest.comparison.setup import Setup, context_for
from bequest.comparison.tuning import Attempted, attempted
from bequest.core.errors import RunError, TrainingError
from bequest.core.observe import Silent
from bequest.core.results import TrialRecord
from bequest.core.task import Draw
from bequest.engine.memory import enough_memory
from bequest.engine.run import Outcome, prepare
from bequest.engine.store import Store
from bequest.sources import Source


@dataclass
class Trials:
    """The parts of a comparison, as a runner asks for them.

    Attributes:
        setup: Of the comparison.
        team: The processes that carry each part out together.
    """

    setup: Setup
    team: Team = field(default_factory=Team)
    _prepared: int = 0

    def trial(self, name: str, seed: int) -> TrialRecord:
        """Carry out a trial; what ended well lies in the folder then."""
        setup = self.setup
        entry, folders = setup.entry(name), setup.folder.folds(name, seed, setup.protocol.folds)
        identity = setup.trial_identity(entry, seed)
        folds: list[Fold] = []
        try:
            with PeakMemory(setup.context.runtime.device) as memory:
                for draw, folder in zip(setup.draws[seed], folders, strict=True):
                    folds.append(self._fold(entry, seed, draw, folder, identity))
            with enough_memory():
                outputs = test_outputs(folds, setup.tested)
                record = self._record(entry, seed, folds, outputs)
        except ENDS_A_TRIAL as error:
            reason = str(error) or type(error).__name__
            if isinstance(error, TrainingError):
                kept = setup.folder.keep_last_good(name, seed, folders[len(folds)])
                reason += f" The weights kept: {kept.relative_to(setup.folder.path)}."
            unfinished = [self._passes()] if len(folds) < len(folders) else []
            asked, computed = np.sum([*(fold.passes for fold in folds), *unfinished], axis=0).tolist()
            return replace(self._blank(entry, seed), error=reason, asked_samples=asked, frozen_samples=computed)
        taken = {"added_memory_bytes": memory.added_bytes, "accelerator_memory_bytes": memory.accelerator_bytes}
        record, kept = replace(record, **taken), folds[0].outcome
        setup.folder.finish(record, identity, kept.trained, kept.head, outputs, setup.tested)
        return record

    def attempt(self, name: str, seed: int, settings: Mapping[str, Any]) -> Attempted:
        """Try a setting of a method on the draw that hyperparameters are chosen by."""
        entry, draw = self.setup.entry(name), self.setup.tuning_draw
        context = self.setup.context_of(name, draw, tested=False)

        def attempt(chosen: Mapping[str, Any]) -> tuple[float, float]:
            method = entry.info.build({**entry.given, **chosen})
            return self._held_out_score(self.team.run(context, Part(name, method, draw, seed, tested=False)))

        return attempted(attempt, settings)

    def prepare(self, name: str, seed: int) -> None:
        """Make the frozen passes of all that is planned up to a trial, in this order.

        A pass's numbers depend, in the last digits, on what was stored before it. So every store is filled in the same
        order, whichever trials are carried out beside it. What this trial makes for earlier ones is counted as its own.
        """
        setup, passes = self.setup, self.setup.context.passes
        searched = [(entry, setup.protocol.tuning_seed) for entry in setup.entries if setup.searched(entry)]
        steps = [*searched, *setup.planned]
        place = next(i for i, (entry, s) in enumerate(steps) if (entry.name, s) == (name, seed))
        computed = passes.computed
        passes.begin_trial(None, None)
        for entry, step_seed in steps[self._prepared : place]:
            for draw in setup.folds(step_seed):
                prepare(setup.context, entry.method, draw, seed=step_seed)
        self._prepared = max(self._prepared, place)
        computed = passes.computed - computed
        entry, folders = setup.entry(name), setup.folder.folds(name, seed, setup.protocol.folds)
        for number, (draw, folder) in enumerate(zip(setup.folds(seed), folders, strict=True)):
            passes.begin_trial(folder, setup.trial_identity(entry, seed))
            if computed and not number:
                passes.count("passes of earlier trials", 0, computed)
            prepare(setup.context, entry.method, draw, seed=seed)

    def parcel(self) -> Parcel:
        """What another process makes the same of."""
        setup = self.setup
        names = ("entries", "protocol", "draws", "sealed", "task", "tuning_draw", "is_part", "tuning", "taught")
        about = {name: getattr(setup, name) for name in names}
        return Parcel(setup.context.source, setup.context.store.folder, setup.context.runtime.describe(), about)

    def _fold(self, entry: Entry, seed: int, draw: Draw, folder: Path, identity: str) -> Fold:
        """Train on a fold, of whose test part the labels are out of reach, and on no others."""
        context = self.setup.context_of(entry.name, draw)
        outcome = self.team.run(context, Part(entry.name, entry.method, draw, seed), folder, identity)
        labels, objective = context.labels(draw.ranking), context.objective
        scores = (
            objective.score(outcome.validation, labels),
            float(objective.loss(outcome.validation, labels)),
            worst(group_scores(context.task, draw.ranking, outcome.validation)),
        )
        return Fold(draw, outcome, scores, self._passes())

    def _passes(self) -> tuple[int, int]:
        """Samples that the last training asked frozen functions about, and those that had to be computed."""
        passes = self.setup.context.passes.trial.values()
        return sum(p[0] for p in passes), sum(p[1] for p in passes)

    def _blank(self, entry: Entry, seed: int) -> TrialRecord:
        """A trial's record before anything came of it."""
        objective = self.setup.context.objective
        about = {"metric": objective.metric, "higher_is_better": objective.higher_is_better}
        return TrialRecord(entry.name, seed, entry.settings, **about)

    def _record(self, entry: Entry, seed: int, folds: Sequence[Fold], outputs: torch.Tensor) -> TrialRecord:
        """What is told of a trial; what predictions cost is measured at the first seed."""
        setup, blank, kept = self.setup, self._blank(entry, seed), folds[0]
        found = scored(blank, setup.context, setup.sealed, folds, setup.tested, outputs, setup.taught)
        is_first = seed == next(iter(setup.draws))
        return replace(found, **inference(setup.context, kept.outcome.network, kept.draw.test)) if is_first else found

    def _held_out_score(self, outcome: Outcome) -> tuple[float, float]:
        """Of a setting that is tried: the score that rows are ranked by, the higher the better, and the loss."""
        context, indices = self.setup.context, self.setup.tuning_draw.ranking
        objective, labels = context.objective, context.labels(indices)
        score = objective.score(outcome.validation, labels)
        if self.setup.protocol.select_by == "worst-group":
            score = worst(group_scores(context.task, indices, outcome.validation)) or 0.0
        loss = float(objective.loss(outcome.validation, labels))
        check_finite({objective.metric: score, "loss": loss})
        return (score if objective.higher_is_better else -score), loss


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

    def opened(self, note: Callable[[str], None]) -> Trials:
        """The comparison, of which nothing is carried out.

        Args:
            note: Told what the user should know.

        Raises:
            RunError: Device or precision are others here.
        """
        sealed, entries, protocol = (self.about[name] for name in ("sealed", "entries", "protocol"))
        store = Store(self.cache, note=note)
        context = context_for(self.source, sealed, entries, protocol, store, _Noted(note))
        here = context.runtime.describe()
        if here != self.runtime:
            told = "; ".join(f"{k}: {self.runtime[k]} there, {v} here" for k, v in here.items() if self.runtime[k] != v)
            raise RunError(
                f"A worker does not compute as the process that the comparison began in does ({told}); expected the "
                "same. Begin where there is what workers have, state accelerators (--resources gpus=1), or name the "
                "precision: --precision float32."
            )
        return Trials(Setup(context, folder=RunFolder(Path()), **self.about))


class _Noted(Silent):
    """An observer that passes on notes alone."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    def note(self, text: str) -> None:
        """Passed on."""
        self._tell(text)
