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
Members = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Influence = Callable[[Tensor, Tensor], Tensor]
Further = Callable[[Tensor, Tensor], "float | None"]
"""A score that some samples do not allow: then None."""

_LARGEST_EXPONENT = 700.0  # records hold finite numbers

THRESHOLD = 0.5
"""Probability above which a sample carries a label."""

_CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Objective:
    """One kind of task.

    Attributes:
        loss: (outputs (batch, outputs), labels) → scalar.
        metric: Name of the metric that rows are ranked by.
        score: The metric, of outputs and labels (samples, …).
        influence: The same sample by sample, float64 (samples,): numbers whose mean is the metric, and whose
            differences tell how much it hangs on each sample. Where the metric is no mean of samples it is linearised.
        activate: Outputs (samples, outputs) → what they stand for: probabilities, or values in the targets' units.
        metrics: Further metrics by name; None where the samples do not allow one.
        standardised: Networks are fitted on labels of zero mean and unit variance, and the inverse goes into the head.
        confusion: Whether a sample has one true class, so that classes can be taken for one another.
        members: Outputs and labels → whether each sample is of each class, and whether it is taken for it, bool
            (samples, classes); None where there are no classes.
        higher_is_better: The metric's direction; whatever compares scores goes by it.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    metric: str
    score: Score
    influence: Influence
    activate: Callable[[Tensor], Tensor]
    metrics: Mapping[str, Further] = field(default_factory=dict[str, Further])
    standardised: bool = False
    confusion: bool = False
    members: Members | None = None
    higher_is_better: bool = True


def accuracy(outputs: Tensor, labels: Tensor) -> float:
    """Share of samples (samples, classes) whose largest output is that of their class (samples,)."""
    return float(is_right(outputs, labels).mean())


def is_right(outputs: Tensor, labels: Tensor) -> Tensor:
    """1 where a sample's largest output is that of its class, else 0."""
    return (outputs.argmax(1) == labels).double()


def class_members(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Whether a sample is of each class, and whether it is taken for it: bool (samples, classes)."""
    classes = outputs.shape[1]
    return F.one_hot(labels, classes).bool(), F.one_hot(outputs.argmax(1), classes).bool()


def class_f1(outputs: Tensor, labels: Tensor) -> float:
    """Mean F1 over the classes that a sample is of or is taken for."""
    true, taken = class_members(outputs, labels)
    present = true.any(0) | taken.any(0)
    return float(_f1(true, taken)[present].mean())


def label_members(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Whether a sample carries each label, and whether it is said to: bool (samples, labels)."""
    return labels > 0, outputs.sigmoid() > THRESHOLD


def label_f1(outputs: Tensor, labels: Tensor) -> float:
    """Mean F1 over all labels, each taken where its probability is above one half; 0 for one never true nor taken."""
    return float(_f1(*label_members(outputs, labels)).mean())


def label_f1_influence(outputs: Tensor, labels: Tensor) -> Tensor:
    """Of `label_f1`: 2·H / N of each label, H and N sums over the samples, linearised in both."""
    true, taken = label_members(outputs, labels)
    hits, named = (true & taken).double(), true.double() + taken.double()
    f1 = _f1(true, taken)
    return (f1 + len(labels) * (2 * hits - f1 * named) / named.sum(0).clamp(min=1)).mean(1)


def class_auroc(outputs: Tensor, labels: Tensor) -> float | None:
    """Area under the ROC curve of each class against the rest, mean over the classes; None where one has no sample."""
    return _auroc(F.one_hot(labels, outputs.shape[1]).bool(), _softmax(outputs))


def label_auroc(outputs: Tensor, labels: Tensor) -> float | None:
    """Area under the ROC curve of each label, mean over the labels; None where all or none of the samples carry one."""
    return _auroc(labels > 0, _sigmoid(outputs))


def log_loss(outputs: Tensor, labels: Tensor) -> float:
    """Mean negative logarithm, in nats, of the probability of each sample's class."""
    return float(F.cross_entropy(outputs.double(), labels))


def calibration_error(outputs: Tensor, labels: Tensor) -> float:
    """Expected calibration error: how far confidence is from accuracy (Guo et al. 2017, arXiv:1706.04599).

    Samples lie in 15 bins of equal width by the probability of the class that they are taken for; the mean over the
    samples of the difference, in each bin, between the mean of that probability and the share that is right.
    """
    confidence, taken = _softmax(outputs).max(1)
    excess = confidence - (taken == labels).double()
    bins = (confidence * _CALIBRATION_BINS).ceil().long().clamp(1, _CALIBRATION_BINS) - 1
    sums = torch.zeros(_CALIBRATION_BINS, dtype=torch.float64).index_add(0, bins, excess)
    return float(sums.abs().sum() / len(labels))


def r_squared(outputs: Tensor, labels: Tensor) -> float:
    """Mean over the targets of 1 − squared error / squared deviation from the mean.

    A target that does not vary counts 1 where it is met exactly, else 0.
    """
    outputs, labels = outputs.double(), labels.double()
    error = ((outputs - labels) ** 2).sum(0)
    spread = ((labels - labels.mean(0)) ** 2).sum(0)
    varying = 1 - error / torch.where(spread > 0, spread, 1.0)
    return float(torch.where(spread > 0, varying, (error == 0).double()).mean())


def r_squared_influence(outputs: Tensor, labels: Tensor) -> Tensor:
    """Of `r_squared`: 1 − E / S of each target, E and S means over the samples, linearised in both."""
    outputs, labels = outputs.double(), labels.double()
    error, spread = (outputs - labels) ** 2, (labels - labels.mean(0)) ** 2
    means = torch.where(spread.mean(0) > 0, spread.mean(0), 1.0)
    ratio = error.mean(0) / means
    varying = 1 - error / means + ratio * (spread / means - 1)
    return torch.where(spread.sum(0) > 0, varying, (error.sum(0) == 0).double()).mean(1)


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


def _auroc(true: Tensor, probabilities: Tensor) -> float | None:
    from sklearn.metrics import roc_auc_score

    if bool((true.all(0) | ~true.any(0)).any()):
        return None
    return float(roc_auc_score(true.numpy(), probabilities.numpy(), average="macro"))


def perplexity_influence(outputs: Tensor, labels: Tensor) -> Tensor:
    """Of `perplexity`, linearised in the sum of the losses and the number of tokens."""
    losses, tokens = outputs.double().unbind(1)
    excess = losses - token_loss(outputs.double(), labels) * tokens
    return perplexity(outputs, labels) * (1 + len(outputs) * excess / tokens.sum().clamp(min=1))


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
        F.cross_entropy,
        "accuracy",
        accuracy,
        is_right,
        _softmax,
        {
            "macro-F1": class_f1,
            "AUROC": class_auroc,
            "log-loss": log_loss,
            "calibration error": calibration_error,
        },
        confusion=True,
        members=class_members,
    ),
    "multi-label": Objective(
        F.binary_cross_entropy_with_logits,
        "macro-F1",
        label_f1,
        label_f1_influence,
        _sigmoid,
        {"AUROC": label_auroc},
        members=label_members,
    ),
    "regression": Objective(
        F.mse_loss, "R²", r_squared, r_squared_influence, Tensor.double, {"RMSE": rmse}, standardised=True
    ),
    "causal-lm": Objective(
        token_loss, "perplexity", perplexity, perplexity_influence, Tensor.double, higher_is_better=False
    ),
}
"""The objective of each kind of task."""
