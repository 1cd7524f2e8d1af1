"""The solver against its optimality conditions, proximal gradient descent, a smoothed problem and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression

from bequest.optim import group_lasso
from bequest.optim.group_lasso import columns, exactness, fit, path, per_feature, per_weight, strongest

NORMS = [per_feature, per_weight]


def problem(samples: int, width: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features of unequal size, a few of which tell the classes apart."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, samples)
    y[:classes] = np.arange(classes)
    x = rng.normal(size=(samples, width)) + rng.normal(size=(samples, 1))
    x[:, :4] += 2 * rng.normal(size=(classes, 4))[y][:, : min(4, width)]
    return (x * rng.uniform(0.5, 2, width) + 3).astype(np.float32), y


def objective(x: np.ndarray, y: np.ndarray, w: np.ndarray, b: np.ndarray, penalty: float, norm: object) -> float:
    """x (width, samples)."""
    losses = -log_softmax(x.T.astype(np.float64) @ w + b, axis=1)[np.arange(len(y)), y]
    return float(losses.mean() + penalty * norm(w).sum())


def gradients(x: np.ndarray, y: np.ndarray, w: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = x.astype(np.float64)
    residual = (softmax(x.T @ w + b, axis=1) - np.eye(w.shape[1])[y]) / len(y)
    return x @ residual, residual.sum(0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("samples", "width", "classes"), [(60, 8, 2), (50, 300, 3), (120, 2000, 6)])
def test_optimality_conditions_hold(samples: int, width: int, classes: int, norm: object) -> None:
    raw, y = problem(samples, width, classes)
    x = columns(raw)
    strong = strongest(x, y, classes, norm)
    fractions = [0.9, 0.5, 0.2, 0.05, 0.01]
    for fraction, found in zip(fractions, path(x, y, classes, [f * strong for f in fractions], norm=norm), strict=True):
        penalty = fraction * strong
        by_weight, by_bias = gradients(x.values, y, found.weight, found.bias)
        size = norm(found.weight)
        zero = size == 0
        assert (~zero).sum() > 0 and zero.any()
        assert (norm(by_weight)[zero] <= penalty + 1e-5).all()
        along = norm(by_weight + penalty * found.weight / np.where(zero, 1.0, size))
        assert along[~zero].max() <= 1.1e-5
        assert np.abs(by_bias).max() <= 1e-5
        np.testing.assert_allclose(found.gradient, by_weight, atol=1e-6)
        assert found.violation <= 1e-5


@pytest.mark.parametrize("norm", NORMS)
def test_the_strongest_penalty_is_where_the_first_group_enters(norm: object) -> None:
    raw, y = problem(70, 30, 4)
    x = columns(raw)
    strong = strongest(x, y, 4, norm)
    shares = np.bincount(y) / len(y)
    by_hand = x.values.astype(np.float64) @ ((shares - np.eye(4)[y]) / len(y))
    assert strong == pytest.approx(float(norm(by_hand).max()), rel=1e-5)
    assert not fit(x, y, 4, 1.0001 * strong, norm=norm).weight.any()
    entered = fit(x, y, 4, 0.999 * strong, norm=norm, tolerance=1e-7)
    assert np.flatnonzero(entered.weight.any(1)).tolist() == [int(norm(by_hand).max(1).argmax())]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("fraction", [0.4, 0.05])
def test_same_optimum_as_plain_proximal_gradient_descent(norm: object, fraction: float) -> None:
    raw, y = problem(60, 12, 3)
    x = columns(raw)
    penalty = fraction * strongest(x, y, 3, norm)
    found = fit(x, y, 3, penalty, norm=norm, tolerance=1e-7)
    values = x.values.astype(np.float64)
    step = 2 * len(y) / np.linalg.norm(np.vstack([values, np.ones(len(y))]), 2) ** 2
    w, b = np.zeros((12, 3)), np.zeros(3)
    for _ in range(20000):
        by_weight, by_bias = gradients(values, y, w, b)
        w, b = w - step * by_weight, b - step * by_bias
        w = w * np.maximum(0, 1 - step * penalty / np.maximum(norm(w), 1e-300))
    assert objective(values, y, found.weight, found.bias, penalty, norm) == pytest.approx(
        objective(values, y, w, b, penalty, norm), abs=1e-9
    )
    if norm is per_feature:  # L1 of a softmax has many optima: a number may go from class to class
        np.testing.assert_allclose(found.weight, w, atol=1e-4)
        assert (found.weight.any(1) == (np.abs(w).max(1) > 1e-6)).all()


def test_no_point_of_a_smoothed_problem_is_lower() -> None:
    raw, y = problem(40, 6, 3, seed=3)
    x = columns(raw)
    penalty = 0.2 * strongest(x, y, 3)
    found = fit(x, y, 3, penalty)

    def smoothed(flat: np.ndarray) -> float:
        w, b = flat[:18].reshape(6, 3), flat[18:]
        losses = -log_softmax(x.values.T @ w + b, axis=1)[np.arange(40), y]
        return float(losses.mean() + penalty * np.sqrt((w**2).sum(1) + 1e-12).sum())

    best = minimize(smoothed, np.full(21, 0.1), method="BFGS", options={"gtol": 1e-6}).fun
    ours = objective(x.values, y, found.weight, found.bias, penalty, per_feature)
    assert best - 2e-6 < ours < best + 1e-6


@pytest.mark.parametrize("classes", [2, 4])
def test_l1_at_scikit_learns_c(classes: int) -> None:
    """λ = 1/(C n), for two classes too: |w₀| + |w₁| at a given difference of the two is least where one is 0."""
    raw, y = problem(80, 10, classes)
    x = columns(raw)
    for c in (1.0, 0.1):
        penalty = 1 / (c * len(y))
        found = fit(x, y, classes, penalty, norm=per_weight, tolerance=1e-7)
        peer = LogisticRegression(l1_ratio=1.0, solver="saga", C=c, tol=1e-8, max_iter=20000).fit(x.values.T, y)
        w, b = peer.coef_.T, peer.intercept_
        if classes == 2:
            w, b = np.hstack([np.zeros_like(w), w]), np.array([0.0, b[0]])
            np.testing.assert_allclose(found.weight[:, 1] - found.weight[:, 0], w[:, 1], atol=1e-4)
        ours = objective(x.values, y, found.weight, found.bias, penalty, per_weight)
        theirs = objective(x.values, y, w, b, penalty, per_weight)
        apart = np.abs(found.weight - w).sum() + np.abs(found.bias - b).sum()
        assert theirs - 1e-6 < ours < theirs + 1e-7 * (1 + apart)  # convexity: the gap is at most tolerance · distance


def test_a_cold_start_ends_where_the_path_does() -> None:
    raw, y = problem(60, 400, 3)
    x = columns(raw)
    strong = strongest(x, y, 3)
    *_, warm = path(x, y, 3, [f * strong for f in (0.5, 0.25, 0.1, 0.05)], tolerance=1e-7)
    cold = fit(x, y, 3, 0.05 * strong, tolerance=1e-7)
    np.testing.assert_allclose(cold.weight, warm.weight, atol=1e-4)


def test_equal_constant_and_absent() -> None:
    """A feature that is there twice, one that never varies, a class of one sample, one of none."""
    raw, y = problem(40, 20, 3)
    y = np.where((y == 2) & (np.arange(40) > 2), 0, y)
    raw = np.hstack([raw, raw[:, :3], np.ones((40, 2), np.float32)])
    x = columns(raw)
    assert (y == 2).sum() == 1
    for norm in NORMS:
        found = fit(x, y, 4, 0.05 * strongest(x, y, 4, norm), norm=norm)
        assert found.violation <= 1e-5
        assert not found.weight[-2:].any()
        assert np.isfinite(found.weight).all() and np.isfinite(found.bias).all()
        assert ((x.values.T @ found.weight + found.bias).argmax(1) != 3).all()


def test_features_that_never_vary_give_no_weight() -> None:
    x = columns(np.ones((10, 3), np.float32))
    found = fit(x, np.arange(10) % 2, 2, 0.1)
    assert not found.weight.any() and found.violation <= 1e-5


def test_columns_are_centred_and_of_unit_mean_square(monkeypatch: pytest.MonkeyPatch) -> None:
    raw, _ = problem(30, 7, 2)
    rows = np.arange(25)[::-1]
    x = columns(raw, rows)
    np.testing.assert_allclose(x.values.mean(1), 0, atol=1e-6)
    assert np.mean(x.values**2) == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(x.values.T * x.scale + x.mean, raw[rows], rtol=1e-4, atol=1e-5)


def test_what_has_not_converged_says_by_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_lasso, "_MOST_ROUNDS", 1)
    raw, y = problem(60, 2000, 3)
    x = columns(raw)
    assert fit(x, y, 3, 0.01 * strongest(x, y, 3)).violation > 1e-5


def test_a_fit_that_fell_short_says_so():
    assert exactness(1e-6) == {"violation": 1e-6}
    assert exactness(0.02)["note"] == "not solved to 1e-05: the optimality conditions fail by 0.02"
