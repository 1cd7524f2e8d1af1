"""Metrics against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, r2_score, root_mean_squared_error

from bequest.nn.objectives import OBJECTIVES


def outputs(samples: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(samples, width, generator=torch.Generator().manual_seed(seed))


def test_classification() -> None:
    logits, labels = outputs(40, 5), torch.arange(40) % 4  # the fifth class has no sample
    objective = OBJECTIVES["classification"]
    assert objective.score(logits, labels) == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    expected = f1_score(labels, logits.argmax(1), average="macro")
    assert objective.metrics["macro-F1"](logits, labels) == pytest.approx(expected)


def test_multi_label() -> None:
    logits = outputs(40, 4)
    labels = (outputs(40, 4, 1) > 0.3).float()
    labels[:, 3] = 0
    logits[:, 3] = -1  # never true nor taken: counts 0
    expected = f1_score(labels.numpy(), (logits > 0).numpy(), average="macro", zero_division=0)
    assert OBJECTIVES["multi-label"].score(logits, labels) == pytest.approx(expected)


def test_regression() -> None:
    labels = outputs(40, 3) * torch.tensor([1.0, 100.0, 0.01])
    predicted = labels + 0.3 * labels.std(0) * outputs(40, 3, 1)
    objective = OBJECTIVES["regression"]
    assert objective.score(predicted, labels) == pytest.approx(r2_score(labels, predicted), abs=1e-6)
    expected = np.mean(root_mean_squared_error(labels, predicted, multioutput="raw_values"))
    assert objective.metrics["RMSE"](predicted, labels) == pytest.approx(expected, rel=1e-5)


def test_a_target_that_does_not_vary() -> None:
    labels, objective = torch.ones(8, 2), OBJECTIVES["regression"]
    predicted = torch.stack([torch.ones(8), torch.zeros(8)], 1)
    assert objective.score(predicted, labels) == r2_score(labels, predicted) == 0.5
