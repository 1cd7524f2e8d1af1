"""What each kind of task is trained on, scored by and predicts: one record a kind.

Training loop, comparison and finished model read these records; nothing else asks which kind a task is of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from bequest.core.task import Kind

Score = Callable[[Tensor, Tensor], float]

_LARGEST_EXPONENT = 700.0  # records hold finite numbers

THRESHOLD = 0.5
"""Probability above which a sample carries a label."""


@dataclass(frozen=True)
class Objective:
    """One kind of task.

    Attributes:
        loss: (outputs (batch, outputs), labels) → scalar.
        metric: Name of the metric that rows are ranked by.
        score: The metric, of outputs and labels (samples, …).
        activate: Outputs (samples, outputs) → what they stand for: probabilities, or values in the targets' units.
        metrics: Further metrics by name.
        standardised: Networks are fitted on labels of zero mean and unit variance, and the inverse goes into the head.
        confusion: Whether a sample has one true class, so that classes can be taken for one another.
        higher_is_better: The metric's direction; whatever compares scores goes by it.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    metric: str
    score: Score
    activate: Callable[[Tensor], Tensor]
    metrics: Mapping[str, Score] = field(default_factory=dict[str, Score])
    standardised: bool = False
    confusion: bool = False
    higher_is_better: bool = True


def accuracy(outputs: Tensor, labels: Tensor) -> float:
    """Share of samples (samples, classes) whose largest output is that of their class (samples,)."""
    return float((outputs.argmax(1) == labels).double().mean())


def class_f1(outputs: Tensor, labels: Tensor) -> float:
    """Mean F1 over the classes that a sample is of or is taken for."""
    classes = outputs.shape[1]
    true, taken = F.one_hot(labels, classes).bool(), F.one_hot(outputs.argmax(1), classes).bool()
    present = true.any(0) | taken.any(0)
    return float(_f1(true, taken)[present].mean())


def label_f1(outputs: Tensor, labels: Tensor) -> float:
    """Mean F1 over all labels, each taken where its probability is above one half; 0 for one never true nor taken."""
    return float(_f1(labels > 0, outputs.sigmoid() > THRESHOLD).mean())


def r_squared(outputs: Tensor, labels: Tensor) -> float:
    """Mean over the targets of 1 − squared error / squared deviation from the mean.

    A target that does not vary counts 1 where it is met exactly, else 0.
    """
    outputs, labels = outputs.double(), labels.double()
    error = ((outputs - labels) ** 2).sum(0)
    spread = ((labels - labels.mean(0)) ** 2).sum(0)
    varying = 1 - error / torch.where(spread > 0, spread, 1.0)
    return float(torch.where(spread > 0, varying, (error == 0).double()).mean())


def rmse(outputs: Tensor, labels: Tensor) -> float:
    """Mean over the targets of the root of the mean squared error."""
    return float(((outputs.double() - labels.double()) ** 2).mean(0).sqrt().mean())


def token_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood of a token, over all tokens of all samples.

    Args:
        outputs: Of a language model (samples, 2): of each sample its tokens' negative log-likelihood, and their number.
        labels: Not read: the tokens stand in the samples.
    """
    return outputs[:, 0].sum() / outputs[:, 1].sum().clamp(min=1)


def perplexity(outputs: Tensor, labels: Tensor) -> float:
    """Exp of the mean negative log-likelihood of a token; arguments as for `token_loss`."""
    mean = float(token_loss(outputs.double(), labels))
    return math.exp(min(mean, _LARGEST_EXPONENT))


def _f1(true: Tensor, taken: Tensor) -> Tensor:
    """F1 of each column, 0 where nothing is true nor taken."""
    hits = (true & taken).double().sum(0)
    named = true.double().sum(0) + taken.double().sum(0)
    return 2 * hits / named.clamp(min=1)


def _softmax(outputs: Tensor) -> Tensor:
    return torch.softmax(outputs.double(), 1)


def _sigmoid(outputs: Tensor) -> Tensor:
    return outputs.double().sigmoid()


OBJECTIVES: dict[Kind, Objective] = {
    "classification": Objective(
        F.cross_entropy, "accuracy", accuracy, _softmax, {"macro-F1": class_f1}, confusion=True
    ),
    "multi-label": Objective(F.binary_cross_entropy_with_logits, "macro-F1", label_f1, _sigmoid),
    "regression": Objective(F.mse_loss, "R²", r_squared, Tensor.double, {"RMSE": rmse}, standardised=True),
    "causal-lm": Objective(token_loss, "perplexity", perplexity, Tensor.double, higher_is_better=False),
}
"""The objective of each kind of task."""
