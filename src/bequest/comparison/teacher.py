"""The teacher beside its student: what it scores and costs, and how often the two agree."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from bequest.comparison.cost import measure_inference
from bequest.core.distillation import AGREEMENT
from bequest.engine.context import Context, Indices
from bequest.engine.features import forward
from bequest.engine.teaching import teacher_logits
from bequest.engine.views import view

_EXAMPLES = 4


@dataclass(frozen=True)
class Taught:
    """What was measured of the teachers on the test part.

    Attributes:
        outputs: Of a classification the logits that a student learns from (samples, classes); of a language model as
            its network gives them (windows, 2).
        record: Plain data, for the leaderboard.
        agrees: Whether teacher and student can agree on a sample: a language model's outputs do not say what it
            predicts.
    """

    outputs: Tensor
    record: dict[str, Any]
    agrees: bool = True

    def agreement(self, outputs: Tensor) -> dict[str, float]:
        """Share of the samples that a student (samples, classes) and the teachers give the same class, by its name."""
        if not self.agrees:
            return {}
        return {AGREEMENT: float((outputs.argmax(1) == self.outputs.argmax(1)).double().mean())}


def measure_teacher(context: Context, test: Indices, labels: Tensor) -> Taught:
    """Score the teachers on the test part; several as the mean of their soft targets, with the costs of all of them.

    Args:
        context: The run.
        test: Samples of the task.
        labels: Theirs.
    """
    teaching = context.teaching
    assert teaching is not None, "the run has teachers"
    test = np.asarray(test, dtype=np.int64)
    agrees = context.task.kind == "classification"
    outputs = teacher_logits(context, test) if agrees else _language_outputs(context, test)
    seconds = [
        1 / measure_inference(replace(context, source=teacher), network, test).per_s
        for teacher, network in zip(teaching.teachers, teaching.networks, strict=True)
    ]
    tensors = [tensor for network in teaching.networks for tensor in network.state_dict().values()]
    record = {
        "names": [teacher.name for teacher in teaching.teachers],
        "test": context.objective.score(outputs, labels),
        "test_loss": float(context.objective.loss(outputs, labels)),
        "parameters": sum(p.numel() for network in teaching.networks for p in network.body.parameters()),
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        "inference_per_s": 1 / sum(seconds),
        "examples": _examples(context, test, outputs, labels) if agrees else [],
    }
    return Taught(outputs, record, agrees)


def _language_outputs(context: Context, test: Indices) -> Tensor:
    teaching = context.teaching
    assert teaching is not None, "the run has a teacher"
    [teacher], [network] = teaching.teachers, teaching.networks
    own = replace(context, source=teacher)
    windows = view(own, np.asarray(test), context.no_labels(test), 0).items
    return forward(own, context.runtime.place(network).eval(), windows)


def _examples(context: Context, test: Indices, logits: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    """The samples between whose classes the teacher is most in doubt: they say most of what it finds similar."""
    doubtful = logits.softmax(1).amax(1).argsort(stable=True)[:_EXAMPLES].tolist()
    return [
        {
            "sample": context.task.samples.describe(int(test[i])),
            "label": context.task.classes[int(labels[i])],
            "logits": [round(value, 4) for value in logits[i].tolist()],
        }
        for i in doubtful
    ]
