"""Accuracy group by group, and the worst of it (Sagawa et al. 2020, arXiv:1911.08731)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import torch

from bequest.core.errors import DataError
from bequest.core.results import GroupScore, SelectBy
from bequest.core.task import IntArray, Task
from bequest.nn.objectives import OBJECTIVES


def group_scores(task: Task, indices: IntArray, outputs: torch.Tensor) -> dict[str, GroupScore]:
    """Accuracy of each group that has samples among some of a task's, by name.

    Args:
        task: Without groups, or where a sample has no one class, there is nothing to tell.
        indices: Samples of the task (samples,).
        outputs: A network's for these (samples, classes).
    """
    if task.grouping is None or task.kind != "classification":
        return {}
    score, labels = OBJECTIVES[task.kind].score, torch.from_numpy(task.labels[indices])
    numbers = task.grouping.numbers[indices]
    scores: dict[str, GroupScore] = {}
    for group in np.unique(numbers):
        rows = torch.from_numpy(np.flatnonzero(numbers == group))
        scores[task.grouping.names[group]] = GroupScore(score(outputs[rows], labels[rows]), len(rows))
    return scores


def worst_group_influence(task: Task, indices: IntArray, outputs: torch.Tensor) -> torch.Tensor:
    """The worst group's accuracy sample by sample, float64 (samples,): its mean is that accuracy.

    Arguments as for `group_scores`, of a task with groups.
    """
    assert task.grouping is not None, "rows are ranked by groups only where there are some"
    scores = group_scores(task, indices, outputs)
    name = min(scores, key=lambda group: scores[group].score)
    inside = torch.from_numpy(task.grouping.numbers[indices] == task.grouping.names.index(name))
    right = OBJECTIVES[task.kind].influence(outputs, torch.from_numpy(task.labels[indices]))
    lowest, share = scores[name].score, scores[name].samples / len(indices)
    return torch.where(inside, lowest + (right - lowest) / share, lowest)


def worst(scores: Mapping[str, GroupScore]) -> float | None:
    """The lowest score of a group; None where there are no groups."""
    return min((found.score for found in scores.values()), default=None)


def check_select_by(select_by: Any, task: Task) -> SelectBy:
    """The criterion, if rows can be ranked by it.

    Raises:
        DataError: There is no such criterion, or the task has no groups of which an accuracy could be told.
    """
    if select_by not in get_args(SelectBy):
        raise DataError(f"--select-by is {select_by!r}; expected {' or '.join(get_args(SelectBy))}.")
    if select_by == "worst-group" and task.kind != "classification":
        raise DataError(
            f"--select-by worst-group ranks by the accuracy of groups, but {task.name!r} is a {task.kind} task; "
            "expected a classification. Leave it out."
        )
    if select_by == "worst-group" and task.grouping is None:
        raise DataError(
            f"--select-by worst-group ranks by the accuracy of groups, but {task.name!r} has none; expected a table "
            "with a column of groups. Name it: --group-column, from Python groups= of task_from_arrays."
        )
    return select_by
