"""The ridge probe against a fit for each sample left out."""

from __future__ import annotations

import numpy as np
import pytest
from scoring import problem
from sklearn.linear_model import Ridge

from bequest.scores.design import Array, Design
from bequest.scores.ridge_loo import LeaveOneOut, leave_one_out, ridge_loo


def refits(features: Array, labels: Array, penalty: float) -> float:
    alpha = penalty * float(((features - features.mean(0)) ** 2).sum())
    targets, right = 2.0 * (labels[:, None] == np.unique(labels)) - 1, 0
    for i in range(len(features)):
        others = np.arange(len(features)) != i
        fitted = Ridge(alpha=alpha, solver="svd").fit(features[others], targets[others])
        right += int(np.argmax(fitted.predict(features[i : i + 1])) == np.argmax(targets[i]))
    return right / len(features)


@pytest.mark.parametrize("penalty", [1.0, 1e-2, 1e-4, 1e-6])
def test_it_is_what_refits_give(data: tuple[Array, Array], penalty: float) -> None:
    features, labels = data
    found = leave_one_out(Design(features), labels, [penalty])
    assert found.accuracy == pytest.approx(refits(features, labels, penalty), abs=1e-12)
    assert 1 / 3 < found.accuracy < 1


def test_a_sample_alone_in_its_class_is_never_found() -> None:
    features, labels = problem(24, 5, 2)
    labels[0] = 2
    features[0] += 50
    found = leave_one_out(Design(features), labels, [0.01]).accuracy
    assert found == refits(features, labels, 0.01) < 1


def test_the_best_penalty_is_taken() -> None:
    features, labels = problem(40, 60)
    grid = (10.0, 0.1, 1e-3)
    each = [leave_one_out(Design(features), labels, [p]).accuracy for p in grid]
    best = int(np.argmax(each))
    assert leave_one_out(Design(features), labels, grid) == LeaveOneOut(each[best], grid[best])
    assert ridge_loo(Design(features), labels) >= leave_one_out(Design(features), labels, (10.0, 1e-3)).accuracy


def test_of_equals_the_strongest_penalty() -> None:
    labels = np.arange(30) % 3
    assert leave_one_out(Design(np.eye(3)[labels]), labels, (1e-2, 1e-4)) == LeaveOneOut(1.0, 1e-2)


def test_constant_features_give_what_refits_give() -> None:
    labels = np.array([0] * 12 + [1] * 8)
    features = np.full((20, 3), 0.1)
    assert ridge_loo(Design(features), labels) == refits(features, labels, 1.0 / 1e-9) == 12 / 20
