"""Solve stages: a head fitted on frozen features."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from bequest.core.plan import Features, Solve
from bequest.core.task import Draw
from bequest.engine.context import Context, Indices
from bequest.engine.features import embeddings, encoded
from bequest.engine.targets import Targets
from bequest.nn.taps import tapped


def features(
    context: Context, indices: Indices, body: nn.Module, targets: Targets, *, of_source: bool = True
) -> Features:
    """What a body gives for some samples, and their labels; arguments as for `embeddings`."""
    grouping = context.task.grouping
    values = embeddings(context, indices, body, of_source=of_source).stack()
    taps = tapped(body)[1]
    return Features(
        values=values,
        labels=targets.labels(indices).numpy(),
        groups=None if grouping is None else grouping.numbers[indices],
        num_classes=len(context.task.classes),
        widths=tuple(tap.width for tap in taps) if taps else (values.shape[1],),
        kind=context.task.kind,
        strata=context.task.strata[indices],
    )


def solve(
    context: Context,
    stage: Solve,
    draw: Draw,
    body: nn.Module,
    targets: Targets,
    *,
    seed: int,
    earlier: dict[str, Any] | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Fit a head.

    Args:
        context: The run.
        stage: The solver and what it sees.
        draw: The parts.
        body: Frozen.
        targets: The labels.
        seed: Of the trial.
        earlier: What the solver recorded of its fit on the train part: what it chose there stands, and it is fitted on
            every label, as `Solve.fit_on` tells; None for that first fit.

    Returns:
        The head, and what the solver recorded.
    """
    parts = {
        "train": draw.labelled if earlier is not None else draw.train,
        "validation": draw.held_out if earlier is not None else draw.validation,
    }
    inputs: list[Features] = []
    for part in stage.fit_on:
        if part in parts:
            inputs.append(features(context, parts[part], body, targets, of_source=stage.source_features))
        elif context.source_task is not None:
            inputs.append(_source_features(context, body, of_source=stage.source_features))
    head, record = context.ranks.from_main(lambda: stage.solver(*inputs, seed=seed, earlier=earlier))
    return head.eval(), record


def _source_features(context: Context, body: nn.Module, *, of_source: bool) -> Features:
    """All of the source's own data."""
    assert context.source_task is not None
    own = replace(context, task=context.source_task)
    return features(own, range(len(own.task.labels)), body, Targets(own), of_source=of_source)


def pass_seconds(context: Context, indices: Indices, body: nn.Module) -> float:
    """What encoding some samples and passing them through a body like the source's took, whenever that was."""
    return embeddings(context, indices, body).seconds + encoded(context, indices).seconds
