"""LogME against the multivariate normal density, maximised without its decomposition."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from bequest.core.errors import DataError
from bequest.scores.design import Array, Design
from bequest.scores.logme import logme


def brute_force(features: Array, target: Array) -> float:
    """The maximum over log α and log β of log N(y; 0, FFᵀ/α + I/β) / N."""

    def negative(logs: Array) -> float:
        logs = np.clip(logs, -30, 30)
        covariance = features @ features.T / np.exp(logs[0]) + np.eye(len(target)) / np.exp(logs[1])
        return -float(multivariate_normal.logpdf(target, np.zeros(len(target)), covariance)) / len(target)

    starts = [(a, b) for a in (0.0, 3.0, 6.0) for b in (0.0, 3.0)]
    options = {"xatol": 1e-9, "fatol": 1e-13, "maxiter": 2000}
    return -min(float(minimize(negative, s, method="Nelder-Mead", options=options).fun) for s in starts)


def test_it_is_the_maximum_of_the_evidence(data: tuple[Array, Array]) -> None:
    features, labels = data
    expected = np.mean([brute_force(features, (labels == c).astype(float)) for c in range(3)])
    assert logme(Design(features), labels) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("samples", "width"), [(40, 6), (25, 40)])
def test_regression_is_the_mean_over_targets(samples: int, width: int) -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(samples, width))
    targets = features @ rng.normal(size=(width, 2)) + 0.7 * rng.normal(size=(samples, 2))
    expected = np.mean([brute_force(features, targets[:, i]) for i in range(2)])
    assert logme(Design(features), targets) == pytest.approx(expected, rel=1e-6)


def test_wide_noise_scores_below_narrow_signal() -> None:
    """Without the term (D − k) log α it is the other way round."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 200)
    noise = rng.normal(size=(200, 2048))
    signal = rng.normal(size=(200, 512)) + 2 * rng.normal(size=(4, 512))[labels]
    assert logme(Design(noise), labels) < logme(Design(signal), labels) - 1


def test_features_that_say_nothing_leave_the_noise_alone() -> None:
    labels = np.arange(40) % 2
    alone = -0.5 * (np.log(2 * np.pi * 0.5) + 1)
    assert logme(Design(np.zeros((40, 3))), labels) == pytest.approx(alone, abs=1e-12)


def test_the_kind_of_labels_does_not_matter_to_a_column() -> None:
    rng = np.random.default_rng(2)
    features, labels = rng.normal(size=(50, 4)), np.arange(50) % 3
    columns = np.eye(4)[labels]
    assert logme(Design(features), labels) == logme(Design(features), columns)


def test_an_exact_fit_stays_finite() -> None:
    labels = np.arange(60) % 3
    assert 5 < logme(Design(np.eye(3)[labels]), labels) < 50


def test_only_zeros() -> None:
    with pytest.raises(DataError, match="nothing to predict"):
        logme(Design(np.ones((5, 2))), np.zeros((5, 2)))
