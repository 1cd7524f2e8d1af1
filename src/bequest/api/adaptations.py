"""One method on one task: `adapt`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bequest.api.comparisons import compare, default_methods
from bequest.api.inputs import DEFAULT_TEST_SIZE, Precision, read_task
from bequest.api.runs import Run
from bequest.core.checks import check_seed, check_test_size, check_train_size
from bequest.core.observe import Observer
from bequest.core.registry import get_method
from bequest.data.labels import TaskChoice
from bequest.nn.weight_selection import Selection
from bequest.sources import Source

if TYPE_CHECKING:
    from torch import nn


def adapt(
    data: Any,
    source: str | Source | nn.Module,
    method: str | None = None,
    *,
    seed: int = 0,
    out: str | Path | None = None,
    train_size: int | None = None,
    test_size: int | float = DEFAULT_TEST_SIZE,
    split_seed: int = 0,
    source_data: Any = None,
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
    cache: str | Path | None = None,
    observer: Observer | None = None,
    progress: bool = True,
    **hyperparameters: Any,
) -> Run:
    """Adapt a source by one method: a comparison with one row and one seed.

    Args:
        data: As for `compare`.
        source: As for `compare`.
        method: The method's name; None for linear_probe, or full where there are no labels to solve for.
        seed: Redraws labels, initialisation and order.
        out: As for `compare`.
        train_size: As for `compare`.
        test_size: As for `compare`.
        split_seed: As for `compare`.
        source_data: As for `compare`.
        task: As for `compare`.
        text_column: As for `compare`.
        image_column: As for `compare`.
        label_column: As for `compare`.
        split_column: As for `compare`.
        group_column: As for `compare`.
        encoding: As for `compare`.
        skip_bad: As for `compare`.
        max_tokens: As for `compare`.
        image_size: As for `compare`.
        source_head: As for `compare`.
        pooling: As for `compare`.
        cut_at: As for `compare`.
        adapter: As for `compare`.
        init_from: As for `compare`.
        init_layers: As for `compare`.
        init_width: As for `compare`.
        selection: As for `compare`.
        precision: As for `compare`.
        views: As for `compare`.
        augment: As for `compare`.
        cut: As for `compare`.
        track: As for `compare`.
        cache: As for `compare`.
        observer: As for `compare`.
        progress: As for `compare`.
        **hyperparameters: Of the method, e.g. `rank=4`.

    Returns:
        The run; `run.best` is the adapted model.

    Raises:
        bequest.core.errors.BequestError: One of its kinds, as for `compare`.
    """
    # Before the data are read for a method's sake; `compare` does what remains.
    check_seed("--seed", seed)
    check_train_size(train_size)
    check_test_size(test_size)
    if method is None:
        names = ("text_column", "image_column", "label_column", "split_column", "group_column")
        columns = dict(zip(names, (text_column, image_column, label_column, split_column, group_column), strict=True))
        data = read_task(data, task, {**columns, "encoding": encoding, "skip_bad": skip_bad})
        method = default_methods(data)[0]
    get_method(method)
    return compare(
        data,
        source,
        [method],
        settings={method: hyperparameters},
        seeds=[seed],
        train_size=train_size,
        test_size=test_size,
        split_seed=split_seed,
        source_data=source_data,
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
        cache=cache,
        observer=observer,
        progress=progress,
    )
