"""Labels of the test part, out of reach until a finished network is scored."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from bequest.core.errors import MethodError
from bequest.core.task import Grouping, IntArray, LabelArray, Task

SEALED = -2
"""In the place of a class that is sealed; of a number that is, there is none (NaN)."""


class SealedLabels:
    """A task with its test labels, which are there only while it is open.

    Args:
        task: The task.
        test: Its samples to test on.
    """

    def __init__(self, task: Task, test: IntArray) -> None:
        self._task, self._is_open = task, False
        self.public = _without(task, test)
        """The task as methods and stages see it."""

    def without(self, test: IntArray) -> Task:
        """The task as those see it who are tested on these samples, and may read the labels of all others."""
        return _without(self._task, test)

    @contextmanager
    def opened(self) -> Generator[Task]:
        """The task with all labels, for scoring a network that is finished."""
        self._is_open = True
        try:
            yield self.task
        finally:
            self._is_open = False

    @property
    def task(self) -> Task:
        """The task with all labels.

        Raises:
            MethodError: It is not open.
        """
        if not self._is_open:
            raise MethodError(_refusal("The test labels"))
        return self._task


def readable(labels: LabelArray) -> LabelArray:
    """The labels, if none of them is sealed.

    Raises:
        MethodError: Some are.
    """
    sealed = np.isnan(labels) if np.issubdtype(labels.dtype, np.floating) else labels == SEALED
    if sealed.any():
        count = int(sealed.reshape(len(labels), -1).any(1).sum())
        raise MethodError(_refusal(f"The labels of {count} test samples"))
    return labels


def _refusal(what: str) -> str:
    return (
        f"{what} were asked for before a finished network is scored; expected those of the train or validation part. "
        "A method may read the labels that its stages are given, and no others."
    )


def _without(task: Task, test: IntArray) -> Task:
    """The task without what its labels tell of some samples, groups and strata included."""
    groups = None if task.groups is None else _masked(task.groups, test)
    public = replace(task, labels=_masked(task.labels, test), groups=groups)
    found = task.grouping
    grouping = None if found is None else Grouping(found.names, _masked(found.numbers, test))
    # Made from all labels, as draws and folds need them; a fingerprint names the data and tells nothing of a sample.
    made = {"grouping": grouping, "strata": _masked(task.strata, test), "fingerprint": task.fingerprint}
    vars(public).update(made, hashes=task.hashes)
    return public


def _masked(values: LabelArray, test: IntArray) -> LabelArray:
    masked = values.copy()
    masked[test] = np.nan if np.issubdtype(values.dtype, np.floating) else SEALED
    return masked
