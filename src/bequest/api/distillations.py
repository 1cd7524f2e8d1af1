"""A student with its teacher and without: `distill`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bequest.api.comparisons import compare
from bequest.api.inputs import DEFAULT_TEST_SIZE, Precision
from bequest.api.runs import Run
from bequest.api.teachers import Teacher
from bequest.core.distillation import DISTILLATION
from bequest.core.observe import Observer
from bequest.core.registry import get_method
from bequest.data.labels import TaskChoice
from bequest.nn.weight_selection import Selection
from bequest.sources import Source

if TYPE_CHECKING:
    from torch import nn


def distill(
    data: Any,
    teacher: Teacher | Sequence[Teacher],
    student: str | Source | nn.Module,
    method: str = "full",
    *,
    temperatures: str | Sequence[float] | None = None,
    unlabelled: Any = None,
    seeds: int | Sequence[int] = 3,
    train_size: int | None = None,
    test_size: int | float = DEFAULT_TEST_SIZE,
    split_seed: int = 0,
    out: str | Path | None = None,
    task: TaskChoice = "auto",
    text_column: str | None = None,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    split_column: str | None = None,
    group_column: str | None = None,
    encoding: str = "utf-8",
    skip_bad: bool = False,
    max_tokens: int | None = None,
    image_size: int | None = None,
    source_head: str | None = None,
    pooling: str | None = None,
    cut_at: str | None = None,
    adapter: str | Path | None = None,
    init_from: str | None = None,
    init_layers: int | None = None,
    init_width: int | None = None,
    selection: Selection | None = None,
    precision: Precision = "auto",
    views: int | str | None = None,
    augment: str | None = None,
    cut: bool = True,
    track: str | Sequence[str] | None = None,
    on: str | None = None,
    resources: str | None = None,
    cache: str | Path | None = None,
    observer: Observer | None = None,
    progress: bool = True,
    **settings: Any,
) -> Run:
    """Train a student with a teacher, and the same student without: a comparison with these two rows.

    Args:
        data: As for `compare`.
        teacher: As for `compare`; may also be a `Run`, an `AdaptedModel` or a `Source`.
        student: As the source of `compare`.
        method: How the student is trained: any method that trains by gradient descent.
        temperatures: As for `compare`: a sweep over ρ.
        unlabelled: As for `compare`.
        seeds: As for `compare`.
        train_size: As for `compare`.
        test_size: As for `compare`.
        split_seed: As for `compare`.
        out: As for `compare`.
        task: As for `compare`; a classification, or a causal language model.
        text_column: As for `compare`.
        image_column: As for `compare`.
        label_column: As for `compare`.
        split_column: As for `compare`.
        group_column: As for `compare`.
        encoding: As for `compare`.
        skip_bad: As for `compare`.
        max_tokens: As for `compare`, of the student.
        image_size: As for `compare`, of the student.
        source_head: As for `compare`, of the student.
        pooling: As for `compare`, of the student.
        cut_at: As for `compare`, of the student.
        adapter: As for `compare`, of the student.
        init_from: As for `compare`: the student may begin with some of a larger network's weights, e.g. its teacher's.
        init_layers: As for `compare`, of the student.
        init_width: As for `compare`, of the student.
        selection: As for `compare`, of the student.
        precision: As for `compare`.
        views: As for `compare`; the teacher sees the same ones.
        augment: As for `compare`.
        cut: As for `compare`.
        track: As for `compare`.
        on: As for `compare`.
        resources: As for `compare`.
        cache: As for `compare`.
        observer: As for `compare`.
        progress: As for `compare`.
        **settings: Of the distillation (`temperature=2.0`, `hard_weight`, `soft_weight`, `soft_loss`, …: all fields of
            `bequest.core.distillation.Distillation`), and hyperparameters of the method.

    Returns:
        The run; `run.best` is the better of the two, as `run.board` tells.

    Raises:
        bequest.core.errors.BequestError: One of its kinds, as for `compare`; the teacher does not fit the task.
    """
    get_method(method)
    own = {h.name for h in DISTILLATION.hyperparameters}
    return compare(
        data,
        student,
        [method],
        settings={method: {name: value for name, value in settings.items() if name not in own}},
        teacher=teacher,
        distillation={name: value for name, value in settings.items() if name in own},
        temperatures=temperatures,
        unlabelled=unlabelled,
        seeds=seeds,
        train_size=train_size,
        test_size=test_size,
        split_seed=split_seed,
        out=out,
        task=task,
        text_column=text_column,
        image_column=image_column,
        label_column=label_column,
        split_column=split_column,
        group_column=group_column,
        encoding=encoding,
        skip_bad=skip_bad,
        max_tokens=max_tokens,
        image_size=image_size,
        source_head=source_head,
        pooling=pooling,
        cut_at=cut_at,
        adapter=adapter,
        init_from=init_from,
        init_layers=init_layers,
        init_width=init_width,
        selection=selection,
        precision=precision,
        views=views,
        augment=augment,
        cut=cut,
        track=track,
        on=on,
        resources=resources,
        cache=cache,
        observer=observer,
        progress=progress,
    )
