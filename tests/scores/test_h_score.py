"""The regularised H-score against its formula with scikit-learn's covariance."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf

from bequest.scores.design import Array, Design
from bequest.scores.h_score import h_score, shrinkage


def direct(features: Array, labels: Array) -> float:
    fitted = LedoitWolf().fit(features)
    means = np.stack([features[labels == label].mean(0) for label in labels])
    between = np.cov(means, rowvar=False, ddof=0)
    return float(np.trace(np.linalg.inv(fitted.covariance_) @ between) * (1 - fitted.shrinkage_))


def test_it_is_the_formula(data: tuple[Array, Array]) -> None:
    features, labels = data
    assert h_score(Design(features), labels) == pytest.approx(direct(features, labels), rel=1e-9)
    assert shrinkage(Design(features).centred) == pytest.approx(LedoitWolf().fit(features).shrinkage_, rel=1e-9)


def test_a_spherical_covariance_is_not_shrunk() -> None:
    features = np.concatenate([np.eye(4), -np.eye(4)])
    assert shrinkage(Design(features).centred) == 0


def test_its_range() -> None:
    labels = np.arange(300) % 3
    separate = np.eye(3)[labels] + 1e-3 * np.random.default_rng(0).normal(size=(300, 3))
    assert 1.9 < h_score(Design(separate), labels) < 2
    assert h_score(Design(np.full((300, 3), 0.1)), labels) == 0
