"""What a trial came to: from the outputs of its finished networks to scores, counts and costs, as a record has them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bequest.comparison.cost import measure_inference
from bequest.comparison.counts import by_class, confusion, mean, scatter
from bequest.comparison.groups import group_scores, worst, worst_group_influence
from bequest.comparison.protocol import all_tested
from bequest.comparison.significance import Scores, by_unit
from bequest.comparison.teacher import Taught
from bequest.core.errors import MethodError
from bequest.core.results import WORST_GROUP, SelectBy, TrialRecord
from bequest.core.sealed import SealedLabels
from bequest.core.task import Draw, IntArray
from bequest.data.messages import listed
from bequest.engine.context import Context
from bequest.engine.run import Outcome
from bequest.nn.network import Network


@dataclass(frozen=True)
class Fold:
    """What came of training on a fold.

    Attributes:
        draw: Its parts.
        outcome: Of the training.
        scores: On the labels that rank: the metric, the loss, the worst group's metric (None without groups).
        passes: Samples that frozen functions were asked about, and those that the store lacked.
    """

    draw: Draw
    outcome: Outcome
    scores: tuple[float, float, float | None]
    passes: tuple[int, int]


def test_outputs(folds: Sequence[Fold], tested: IntArray) -> Tensor:
    """What the folds' networks gave for the samples that are tested on, each from the network that has not seen it."""
    indices = all_tested([fold.draw for fold in folds])
    order = np.argsort(indices)
    places = order[np.searchsorted(indices, tested, sorter=order)]
    return torch.cat([fold.outcome.test for fold in folds])[torch.from_numpy(places)]


def scored(
    blank: TrialRecord,
    context: Context,
    sealed: SealedLabels,
    folds: Sequence[Fold],
    tested: IntArray,
    outputs: Tensor,
    taught: Taught | None,
) -> TrialRecord:
    """What is told of a trial: scores over all that was tested, costs of one network, the rest of the first.

    Args:
        blank: The record before anything came of it.
        context: Of the comparison.
        sealed: Has the labels of what is tested on.
        folds: What came of training, fold by fold.
        tested: The samples that are tested on (samples,).
        outputs: For these, from `test_outputs`.
        taught: The teacher's own outputs; None without one.

    Raises:
        MethodError: A score is no finite number.
    """
    objective, draw, outcome = context.objective, folds[0].draw, folds[0].outcome
    test = test_labels(sealed, tested)
    validation, validation_loss, validation_worst = map(mean, zip(*(fold.scores for fold in folds), strict=True))
    asked, computed = (sum(numbers) for numbers in zip(*(fold.passes for fold in folds), strict=True))
    score, metric = objective.score(outputs, test), objective.metric
    losses = {"validation loss": validation_loss, "test loss": float(objective.loss(outputs, test))}
    check_finite({f"validation {metric}": validation, f"test {metric}": score, **losses})
    further = {name: further_score(outputs, test) for name, further_score in objective.metrics.items()}
    check_finite({name: value for name, value in further.items() if value is not None})
    with sealed.opened() as task:
        groups = group_scores(task, tested, outputs)
    worst_group = worst(groups)
    return replace(
        blank,
        validation=validation,
        validation_loss=validation_loss,
        test=score,
        test_loss=losses["test loss"],
        metrics={
            **{name: value for name, value in further.items() if value is not None},
            **({} if worst_group is None else {WORST_GROUP: worst_group}),
            **({} if taught is None else taught.agreement(outputs)),
        },
        confusion=confusion(outputs, test) if objective.confusion else [],
        by_class=[] if objective.members is None else by_class(*objective.members(outputs, test)),
        scatter=scatter(outputs, test) if objective.standardised else [],
        epochs=outcome.history,
        epochs_planned=outcome.epochs_planned,
        solved=outcome.solved,
        trainable_parameters=outcome.trainable_parameters,
        stored_bytes=sum(t.numel() * t.element_size() for t in outcome.trained.values()),
        optimizer_bytes=outcome.history[-1].optimizer_bytes if outcome.history else 0,
        train_s=mean([fold.outcome.own_s + fold.outcome.shared_s for fold in folds]),
        shared_s=mean([fold.outcome.shared_s for fold in folds]),
        labels=len(draw.labelled),
        merged=outcome.merged,
        frozen_shares=outcome.frozen_shares,
        validation_worst_group=validation_worst,
        groups=groups,
        asked_samples=asked,
        frozen_samples=computed,
    )


def test_labels(sealed: SealedLabels, test: IntArray) -> Tensor:
    """Of a finished network to be scored; dtype and shape as `Context.labels`."""
    with sealed.opened() as task:
        return torch.from_numpy(task.labels[test])


def by_sample(
    context: Context, sealed: SealedLabels, select_by: SelectBy, outputs: Tensor, indices: IntArray
) -> dict[SelectBy, Scores]:
    """The metric, and the score that rows are ranked by, sample by sample of the test part; a unit's together."""
    scores: dict[SelectBy, Tensor] = {"metric": context.objective.influence(outputs, test_labels(sealed, indices))}
    if select_by == "worst-group":
        with sealed.opened() as task:
            scores["worst-group"] = worst_group_influence(task, indices, outputs)
    units = context.task.units
    return {
        criterion: found.numpy() if units is None else by_unit(found.numpy(), units[indices])
        for criterion, found in scores.items()
    }


def check_finite(scores: Mapping[str, float]) -> None:
    """Raise what ends a trial where predictions are so far off, or labels so large, that scores are no numbers."""
    wrong = [f"{name} {value}" for name, value in scores.items() if not math.isfinite(value)]
    if wrong:
        raise MethodError(
            f"The scores are no finite numbers ({listed(wrong, 3)}). Lower the learning rate; values that are to be "
            "predicted must be such that their squares are numbers: give them in another unit."
        )


def inference(context: Context, network: Network, test: IntArray) -> dict[str, Any]:
    """What a finished network's predictions cost, as a record has it."""
    found = measure_inference(context, network, test)
    return {
        "inference_per_s": found.per_s,
        "latency_p50_ms": found.latency_p50_ms,
        "latency_p95_ms": found.latency_p95_ms,
        "forward_flops": found.forward_flops,
    }
