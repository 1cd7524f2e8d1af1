"""Solve stages: a head fitted on frozen features."""

from __future__ import annotations

from typing import Any

from torch import nn

from bequest.core.plan import Features, Solve
from bequest.core.task import Draw
from bequest.engine.context import Context, Indices
from bequest.engine.features import embeddings, encoded
from bequest.engine.targets import Targets


def features(context: Context, indices: Indices, body: nn.Module | None, targets: Targets) -> Features:
    """Embeddings and labels of some samples; `body` None stands for the source's own."""
    groups = context.task.groups
    return Features(
        values=embeddings(context, indices, body).stack(),
        labels=targets.labels(indices).numpy(),
        groups=None if groups is None else groups[indices],
        num_classes=len(context.task.classes),
        kind=context.task.kind,
        strata=context.task.strata[indices],
    )


def solve(
    context: Context,
    stage: Solve,
    draw: Draw,
    body: nn.Module | None,
    targets: Targets,
    *,
    seed: int,
    refit: bool = False,
) -> tuple[nn.Module, dict[str, Any]]:
    """Fit a head.

    Args:
        context: The run.
        stage: The solver and what it sees.
        draw: The parts.
        body: The frozen body; None for the source's own.
        targets: The labels.
        seed: Of the trial.
        refit: Fit on every label instead of the train part.

    Returns:
        The head, and what the solver recorded.
    """
    parts = {"train": draw.labelled if refit else draw.train, "validation": draw.validation}
    inputs = [features(context, parts[part], body, targets) for part in stage.fit_on]
    head, record = stage.solver(*inputs, seed=seed)
    return head.eval(), record


def pass_seconds(context: Context, indices: Indices) -> float:
    """What encoding some samples and passing them through the source's body took, whenever that was."""
    return embeddings(context, indices).seconds + encoded(context, indices).seconds
