"""The teacher beside its student: what it scores and costs, and how often the two agree."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from bequest.comparison.cost import inference_per_s
from bequest.engine.context import Context, Indices
from bequest.engine.teaching import teacher_logits

_EXAMPLES = 4


@dataclass(frozen=True)
class Taught:
    """What was measured of the teachers on the test part.

    Attributes:
        logits: That a student learns from (samples, classes).
        record: Plain data, for the leaderboard.
    """

    logits: Tensor
    record: dict[str, Any]

    def agreement(self, outputs: Tensor) -> float:
        """Share of the samples that a student (samples, classes) and the teachers give the same class."""
        return float((outputs.argmax(1) == self.logits.argmax(1)).double().mean())


def measure_teacher(context: Context, test: Indices) -> Taught:
    """Score the teachers on the test part; several as the mean of their soft targets, with the costs of all of them."""
    teaching = context.teaching
    assert teaching is not None, "the run has teachers"
    test = np.asarray(test, dtype=np.int64)
    logits, labels = teacher_logits(context, test), context.labels(test)
    seconds = [
        1 / inference_per_s(replace(context, source=teacher), network, test)
        for teacher, network in zip(teaching.teachers, teaching.networks, strict=True)
    ]
    tensors = [tensor for network in teaching.networks for tensor in network.state_dict().values()]
    # Those between which the teacher is most in doubt say most of what it finds similar.
    doubtful = logits.softmax(1).amax(1).argsort(stable=True)[:_EXAMPLES].tolist()
    record = {
        "names": [teacher.name for teacher in teaching.teachers],
        "test": context.objective.score(logits, labels),
        "test_loss": float(context.objective.loss(logits, labels)),
        "parameters": sum(p.numel() for network in teaching.networks for p in network.body.parameters()),
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        "inference_per_s": 1 / sum(seconds),
        "examples": [
            {
                "sample": context.task.samples.describe(int(test[i])),
                "label": context.task.classes[int(labels[i])],
                "logits": [round(value, 4) for value in logits[i].tolist()],
            }
            for i in doubtful
        ],
    }
    return Taught(logits, record)
