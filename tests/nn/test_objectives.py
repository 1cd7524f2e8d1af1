"""Metrics against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, log_loss, r2_score, roc_auc_score, root_mean_squared_error

from bequest.core.task import Kind
from bequest.nn.objectives import OBJECTIVES


def outputs(samples: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(samples, width, generator=torch.Generator().manual_seed(seed))


def test_classification() -> None:
    logits, labels = outputs(40, 5), torch.arange(40) % 4  # the fifth class has no sample
    objective = OBJECTIVES["classification"]
    assert objective.score(logits, labels) == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    expected = f1_score(labels, logits.argmax(1), average="macro")
    assert objective.metrics["macro-F1"](logits, labels) == pytest.approx(expected)


def test_probabilities_of_a_classification() -> None:
    metrics = OBJECTIVES["classification"].metrics
    for classes in (2, 5):
        logits, labels = 2 * outputs(400, classes), torch.arange(400) % classes
        logits[torch.arange(400), labels] += 1
        probabilities = logits.double().softmax(1).numpy()
        scored = probabilities[:, 1] if classes == 2 else probabilities
        assert metrics["AUROC"](logits, labels) == pytest.approx(roc_auc_score(labels, scored, multi_class="ovr"))
        assert metrics["log-loss"](logits, labels) == pytest.approx(log_loss(labels, probabilities))
        confidence, right = probabilities.max(1), probabilities.argmax(1) == labels.numpy()
        error = 0.0
        for low in np.arange(15) / 15:
            inside = (confidence > low) & (confidence <= low + 1 / 15)
            error += abs(confidence[inside].sum() - right[inside].sum()) / 400
        assert 0.02 < error == pytest.approx(metrics["calibration error"](logits, labels))
    sure = torch.tensor([[50.0, 0.0], [50.0, 0.0], [0.0, 50.0], [0.0, 50.0]])
    assert metrics["calibration error"](sure, torch.tensor([0, 0, 1, 0])) == pytest.approx(0.25)


def test_no_curve_where_a_class_is_missing() -> None:
    logits = outputs(40, 3)
    assert OBJECTIVES["classification"].metrics["AUROC"](logits, torch.arange(40) % 2) is None
    assert OBJECTIVES["multi-label"].metrics["AUROC"](logits, torch.ones(40, 3)) is None


def test_multi_label() -> None:
    logits = outputs(40, 4)
    labels = (outputs(40, 4, 1) > 0.3).float()
    labels[:, 3] = 0
    logits[:, 3] = -1  # never true nor taken: counts 0
    expected = f1_score(labels.numpy(), (logits > 0).numpy(), average="macro", zero_division=0)
    objective = OBJECTIVES["multi-label"]
    assert objective.score(logits, labels) == pytest.approx(expected)
    kept, true = logits[:, :3], labels[:, :3]
    assert objective.metrics["AUROC"](kept, true) == pytest.approx(roc_auc_score(true.numpy(), kept.numpy()))


def test_regression() -> None:
    labels = outputs(40, 3) * torch.tensor([1.0, 100.0, 0.01])
    predicted = labels + 0.3 * labels.std(0) * outputs(40, 3, 1)
    objective = OBJECTIVES["regression"]
    assert objective.score(predicted, labels) == pytest.approx(r2_score(labels, predicted), abs=1e-6)
    expected = np.mean(root_mean_squared_error(labels, predicted, multioutput="raw_values"))
    assert objective.metrics["RMSE"](predicted, labels) == pytest.approx(expected, rel=1e-5)


def tokens(samples: int, seed: int) -> torch.Tensor:
    counts = 4 + outputs(samples, 1, seed).abs().mul(5).round()
    return torch.cat([counts * outputs(samples, 1, seed + 9).abs(), counts], 1)


CASES = {
    "classification": (outputs(200, 4), torch.arange(200) % 4),
    "multi-label": (outputs(200, 4), (outputs(200, 4, 1) > 0.3).float()),
    "regression": (outputs(200, 2), outputs(200, 2) + 0.5 * outputs(200, 2, 1)),
    "causal-lm": (tokens(200, 2), torch.zeros(200, 0)),
}


@pytest.mark.parametrize("kind", CASES)
def test_influence_is_the_metric_sample_by_sample(kind: Kind) -> None:
    predicted, labels = CASES[kind]
    objective = OBJECTIVES[kind]
    influence = objective.influence(predicted, labels)
    whole = objective.score(predicted, labels)
    assert float(influence.mean()) == pytest.approx(whole)
    # A sample that is there twice moves the metric by its influence's share, to first order.
    for i in (3, 17, 101):
        twice = torch.cat([torch.arange(200), torch.tensor([i])])
        moved = objective.score(predicted[twice], labels[twice]) - whole
        assert moved == pytest.approx((float(influence[i]) - whole) / 201, abs=5e-3 / 201 + 0.05 * abs(moved))


def test_a_target_that_does_not_vary() -> None:
    labels, objective = torch.ones(8, 2), OBJECTIVES["regression"]
    predicted = torch.stack([torch.ones(8), torch.zeros(8)], 1)
    assert objective.score(predicted, labels) == r2_score(labels, predicted) == 0.5
