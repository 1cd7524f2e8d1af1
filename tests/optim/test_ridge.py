"""Ridge regression against scikit-learn and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from bequest.core.plan import Features
from bequest.optim import ridge
from bequest.optim.design import splits, standardise
from bequest.optim.linear import LinearSolver


def problem(samples: int, width: int, targets: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = (3 * rng.normal(size=(samples, width)) + 5).astype(np.float32)
    y = x @ rng.normal(size=(width, targets)) + 2 * rng.normal(size=(samples, targets))
    return x, y.astype(np.float32)


@pytest.mark.parametrize(("samples", "width"), [(60, 5), (30, 50)])
def test_same_optimum_as_scikit_learn(samples: int, width: int) -> None:
    x, y = problem(samples, width)
    penalties = (1.0, 1e-2, 1e-4)
    scale = standardise(x).scale
    for penalty, (weight, bias) in zip(penalties, ridge.path(standardise(x), y, 2, penalties), strict=True):
        peer = Ridge(alpha=penalty * samples * scale**2).fit(x.astype(np.float64), y.astype(np.float64))
        np.testing.assert_allclose(weight, peer.coef_, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(bias, peer.intercept_, rtol=1e-6, atol=1e-9)


def test_path_equals_brute_force_and_its_best_is_taken() -> None:
    x, y = problem(50, 40)
    part = Features(x, y, None, 2, "regression", np.arange(50) % 5)
    head, record = LinearSolver()(part, seed=3)
    folds = list(splits(part, 5, np.random.default_rng([3, 3])))
    scores = []
    for step in record["path"]:
        predicted = np.empty(y.shape)
        for train, held in folds:
            alpha = step["penalty"] * len(train) * standardise(x, train).scale ** 2
            predicted[held] = Ridge(alpha=alpha, solver="svd").fit(x[train].astype(float), y[train]).predict(x[held])
        assert step["loss"] == pytest.approx(np.mean((predicted - y) ** 2), rel=1e-4)
        scores.append(np.mean(1 - ((predicted - y) ** 2).sum(0) / ((y - y.mean(0)) ** 2).sum(0)))
    np.testing.assert_allclose([step["r2"] for step in record["path"]], scores, rtol=1e-4)
    assert record["penalty"] == record["path"][int(np.argmax(scores))]["penalty"]
    weight, bias = ridge.path(standardise(x), y, 2, (record["penalty"],))[0]
    np.testing.assert_allclose(head(torch.from_numpy(x)).detach().numpy(), x @ weight.T + bias, rtol=1e-3, atol=1e-3)


def test_constant_targets_and_features() -> None:
    x, y = problem(20, 4)
    y[:, 1] = 7
    x[:, 0] = 1
    for values in (x, np.ones_like(x)):
        head, _ = LinearSolver()(Features(values, y, None, 2, "regression"), seed=0)
        np.testing.assert_allclose(head(torch.from_numpy(values))[:, 1].detach().numpy(), 7, rtol=1e-5)
