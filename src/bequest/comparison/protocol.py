"""The protocol: which labels are seen, held out and tested on, at which seeds, and what may be chosen by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from bequest.comparison.tuning import Budget
from bequest.core.results import SelectBy
from bequest.core.sealed import SealedLabels
from bequest.core.task import Draw, IntArray, Task
from bequest.data.views import Views
from bequest.engine.runtime import Precision
from bequest.engine.teaching import Teaching


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
        folds: Of a cross-validation, which each seed redraws: a trial is then a network a fold, and every sample is
            tested on; None for one test part.
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
    folds: int | None = None

    def draws(self, task: Task, seed: int) -> list[Draw]:
        """The parts of a seed, one a fold.

        Raises:
            DataError: The sizes do not fit the data.
        """
        if self.folds is not None:
            return task.folds(seed, self.folds, train_size=self.train_size)
        return [task.draw(seed, train_size=self.train_size, test_size=self.test_size, split_seed=self.split_seed)]

    def sealed(self, task: Task) -> SealedLabels:
        """The task with the labels of everything that is tested on out of reach.

        Raises:
            DataError: The sizes do not fit the data.
        """
        return SealedLabels(task, self.tested(task))

    def tested(self, task: Task) -> IntArray:
        """The samples that each seed tests on.

        Raises:
            DataError: The sizes do not fit the data.
        """
        return all_tested(self.draws(task, self.seeds[0]))

    @property
    def tuning_seed(self) -> int:
        """Of the trials that hyperparameters are chosen by: the first that no row is of."""
        return next(seed for seed in count() if seed not in self.seeds)


def all_tested(draws: Sequence[Draw]) -> IntArray:
    """The samples that a seed tests on, fold by fold."""
    return np.concatenate([draw.test for draw in draws])
