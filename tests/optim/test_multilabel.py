"""A logistic regression a label against scikit-learn, and labels that do not vary."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from bequest.core.plan import Features
from bequest.optim.design import standardise
from bequest.optim.linear import LinearSolver
from bequest.optim.multilabel import fit_labels


def problem(samples: int, width: int, labels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(samples, width)) + 3).astype(np.float32)
    scores = (x - 3) @ rng.normal(size=(width, labels)) + rng.normal(size=(samples, labels))
    return x, (scores > 0.5).astype(np.float32)


@pytest.mark.parametrize("penalty", [1.0, 0.01, 1e-4])
@pytest.mark.parametrize(("samples", "width"), [(80, 5), (30, 50)])
def test_same_optimum_as_scikit_learn(samples: int, width: int, penalty: float) -> None:
    x, y = problem(samples, width)
    scaled = standardise(x)
    theta = fit_labels(scaled, y, penalty)
    for label in range(y.shape[1]):
        peer = LogisticRegression(C=1 / (penalty * samples), tol=1e-10, max_iter=20000)
        peer.fit(scaled.whole, y[:, label])
        np.testing.assert_allclose(theta[label, :-1], peer.coef_[0], rtol=1e-3, atol=2e-3)
        np.testing.assert_allclose(theta[label, -1], peer.intercept_[0], rtol=1e-3, atol=2e-3)


def test_labels_that_all_or_none_carry() -> None:
    x, y = problem(40, 6)
    y = np.column_stack([y, np.zeros(40), np.ones(40)]).astype(np.float32)
    y[0, 3] = 0
    head, record = LinearSolver()(Features(x, y, None, 5, "multi-label", np.arange(40) % 4), seed=0)
    outputs = head(torch.from_numpy(x)).detach()
    assert bool((outputs[:, 3] < -3).all()) and bool((outputs[:, 4] > 3).all())
    alone, _ = LinearSolver(penalty=record["penalty"])(Features(x, y[:, :3], None, 3, "multi-label"), seed=0)
    torch.testing.assert_close(outputs[:, :3], alone(torch.from_numpy(x)).detach(), rtol=1e-3, atol=1e-3)


def test_penalty_is_the_best_of_the_path() -> None:
    x, y = problem(90, 40)
    _, record = LinearSolver()(Features(x, y, None, 3, "multi-label", np.zeros(90, np.int64)), seed=0)
    best = max(record["path"], key=lambda step: (step["f1"], -step["loss"]))
    assert record["penalty"] == best["penalty"] and len({step["f1"] for step in record["path"]}) > 1
