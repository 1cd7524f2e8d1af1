"""What is compared, and on what: all that the parts of a comparison go by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bequest.comparison.describing import environment
from bequest.comparison.entries import Entry
from bequest.comparison.folder import RunFolder, digest
from bequest.comparison.protocol import Protocol, all_tested
from bequest.comparison.questions import concerned
from bequest.comparison.teacher import Taught
from bequest.comparison.tuning import Tuned, ranges
from bequest.core.observe import Observer
from bequest.core.registry import Hyperparameter
from bequest.core.sealed import SealedLabels
from bequest.core.task import Draw, IntArray, Task
from bequest.engine.context import Context
from bequest.engine.runtime import choose_runtime
from bequest.engine.store import Store
from bequest.sources import Source


@dataclass
class Setup:
    """A comparison before anything of it is carried out; hyperparameters that are chosen on the way change its entries.

    Attributes:
        context: Of this process.
        entries: The methods, with their settings.
        protocol: What is the same for every row.
        draws: Of each seed its draws: one, or one a fold.
        tuning_draw: What hyperparameters are chosen by.
        folder: Of the run.
        sealed: Has the labels of what is tested on.
        task: What records tell of the data.
        is_part: Whether a comparison at more labels begins with this one.
        tuning: What choosing a method's hyperparameters came to, by method.
        taught: The teacher's own outputs; None without one.
        environment: Versions and machine that trials are carried out on, for records.
    """

    context: Context
    entries: list[Entry]
    protocol: Protocol
    draws: dict[int, list[Draw]]
    tuning_draw: Draw
    folder: RunFolder
    sealed: SealedLabels
    task: dict[str, Any]
    is_part: bool = False
    tuning: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    taught: Taught | None = None
    environment: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.environment = environment(self.context)

    @property
    def any_draw(self) -> Draw:
        """One of them: all are of the same sizes, but for a fold's remainder."""
        return next(iter(self.draws.values()))[0]

    @property
    def num_labels(self) -> int:
        """How many a method may see before the test."""
        return len(self.any_draw.labelled)

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

    def entry(self, name: str) -> Entry:
        """The method of a row."""
        return next(entry for entry in self.entries if entry.name == name)

    def folds(self, seed: int) -> list[Draw]:
        """The draws of a trial, or of the settings that are tried."""
        return self.draws.get(seed, [self.tuning_draw])

    def context_of(self, name: str, draw: Draw, *, tested: bool = True) -> Context:
        """What a method sees on a draw: where it is tested, no label of the draw's test part."""
        task = self.sealed.without(draw.test) if tested else self.context.task
        return replace(self.context, teaching=self.entry(name).teaching, task=task)

    def searched(self, entry: Entry) -> dict[str, tuple[Hyperparameter, float, float]]:
        """The hyperparameters of a method that held-out labels choose; empty without a budget."""
        if self.protocol.budget is None:
            return {}
        return ranges(entry.info.hyperparameters, entry.settings, entry.given)

    def choose(self, number: int, tuned: Tuned) -> None:
        """Give the entry of a number the hyperparameters that were chosen for it."""
        entry = self.entries[number]
        self.tuning[entry.name] = asdict(tuned)
        method = entry.info.build({**entry.given, **tuned.settings})
        settings = {**entry.settings, **entry.info.resolve(method, self.context.source.modality)}
        self.entries[number] = replace(entry, method=method, settings=settings)

    def trial_identity(self, entry: Entry, seed: int) -> str:
        """What must agree for a trial that the folder holds to be this one."""
        identity = {**self.identity(), "method": entry.name, "settings": entry.settings, "seed": seed}
        # Rows without a teacher too: their records tell how often they agree with it.
        teaching = self.protocol.teaching
        return digest(identity if teaching is None else {**identity, "teaching": teaching.describe()})

    def identity(self) -> dict[str, Any]:
        """What must agree for trials to be comparable."""
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


def draws_for(task: Task, entries: Sequence[Entry], protocol: Protocol, seed: int) -> list[Draw]:
    """A seed's draws; where a method is fitted on held-out labels, half of these are kept apart for ranking all."""
    draws = protocol.draws(task, seed)
    return [draw.divided(task.strata, seed) for draw in draws] if _divided(entries) else draws


def _divided(entries: Sequence[Entry]) -> bool:
    return any("validation" in entry.fit_on for entry in entries)


def context_for(
    source: Source,
    sealed: SealedLabels,
    entries: Sequence[Entry],
    protocol: Protocol,
    store: Store,
    observer: Observer,
) -> Context:
    """What all trials of a comparison see in this process."""
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
