"""The solver against scikit-learn, the optimality conditions, and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from bequest.core.plan import Features
from bequest.optim.design import Design, standardise, stratified_folds
from bequest.optim.linear import LinearSolver
from bequest.optim.logistic import fit_logistic


def problem(samples: int, width: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, samples)
    labels[:classes] = np.arange(classes)
    centres = rng.normal(size=(classes, width))
    return (centres[labels] + 2 * rng.normal(size=(samples, width)) + 5).astype(np.float32), labels


def objective(x: np.ndarray, y: np.ndarray, weight: np.ndarray, bias: np.ndarray, penalty: float) -> float:
    logits = x @ weight.T + bias
    logits -= logits.max(1, keepdims=True)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y]
    return float(losses.mean() + 0.5 * penalty * (weight**2).sum())


@pytest.mark.parametrize("penalty", [1.0, 0.01, 1e-4])
@pytest.mark.parametrize(("samples", "width", "classes"), [(60, 5, 2), (80, 12, 4), (30, 50, 3)])
def test_same_optimum_as_scikit_learn(samples: int, width: int, classes: int, penalty: float) -> None:
    x, y = problem(samples, width, classes)
    scaled = standardise(x)
    theta = fit_logistic(scaled, y, classes, penalty)
    peer = LogisticRegression(C=1 / (penalty * samples), tol=1e-10, max_iter=20000).fit(scaled.whole, y)
    weight, bias = peer.coef_, peer.intercept_
    if classes == 2:  # one row there; the symmetric pair of rows halves the penalty
        theirs = LogisticRegression(C=2 / (penalty * samples), tol=1e-10, max_iter=20000).fit(scaled.whole, y)
        weight = np.vstack([-theirs.coef_, theirs.coef_]) / 2
        bias = np.concatenate([-theirs.intercept_, theirs.intercept_]) / 2
    ours = objective(scaled.whole, y, theta[:, :-1], theta[:, -1], penalty)
    assert ours <= objective(scaled.whole, y, weight, bias, penalty) + 1e-8
    np.testing.assert_allclose(theta[:, :-1], weight, atol=2e-3)


def test_gradient_vanishes_at_the_optimum() -> None:
    x, y = problem(50, 8, 3)
    scaled, penalty = standardise(x), 1e-3
    theta = fit_logistic(scaled, y, 3, penalty)
    logits = scaled.whole @ theta[:, :-1].T + theta[:, -1]
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    residual = (probabilities - np.eye(3)[y]) / len(y)
    assert np.abs(residual.T @ scaled.whole + penalty * theta[:, :-1]).max() < 1e-6
    assert np.abs(residual.sum(0)).max() < 1e-6


def test_rotation_into_the_samples_span_leaves_the_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = problem(20, 60, 3)
    rotated = standardise(x)
    assert rotated.rank == 19  # centred, 20 samples span 19 directions
    centred = (x.astype(np.float64) - rotated.mean) / rotated.scale
    with_rotation = fit_logistic(rotated, y, 3, 0.01)
    without = fit_logistic(Design(centred, np.arange(20), np.zeros(60), 1.0), y, 3, 0.01)
    weight, bias = rotated.original(with_rotation[:, :-1], with_rotation[:, -1])
    expected = without[:, :-1] / rotated.scale
    np.testing.assert_allclose(weight, expected, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(bias, without[:, -1] - expected @ rotated.mean, atol=1e-3)


def test_the_head_computes_what_was_solved() -> None:
    import torch

    x, y = problem(60, 10, 3)
    head, record = LinearSolver(penalty=0.01)(Features(x, y, None, 3), seed=0)
    scaled = standardise(x)
    theta = fit_logistic(scaled, y, 3, 0.01)
    expected = scaled.whole @ theta[:, :-1].T + theta[:, -1]
    got = head(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(got - got.mean(1, keepdims=True), expected - expected.mean(1, keepdims=True), atol=1e-3)
    assert record["penalty"] == 0.01


def test_penalty_is_the_best_of_the_path() -> None:
    x, y = problem(90, 40, 3)
    _, record = LinearSolver()(Features(x, y, None, 3), seed=0)
    best = max(record["path"], key=lambda step: (step["accuracy"], -step["loss"]))
    assert record["penalty"] == best["penalty"]
    assert len({step["accuracy"] for step in record["path"]}) > 1


def test_path_accuracy_equals_brute_force() -> None:
    x, y = problem(40, 6, 2)
    solver = LinearSolver(folds=4, penalties=(0.1,))
    _, record = solver(Features(x, y, None, 2), seed=5)
    folds = stratified_folds(y, 4, np.random.default_rng([5, 3]))
    hits = 0
    for fold in range(4):
        held = folds == fold
        scaled = standardise(x[~held])
        peer = LogisticRegression(C=2 / (0.1 * (~held).sum()), tol=1e-10, max_iter=20000)
        peer.fit(scaled.whole, y[~held])
        hits += int((peer.predict((x[held] - scaled.mean) / scaled.scale) == y[held]).sum())
    assert record["path"][0]["accuracy"] == hits / 40


def test_a_class_without_samples_is_never_predicted() -> None:
    x, y = problem(40, 6, 2)
    head, _ = LinearSolver()(Features(x, y, None, 4), seed=0)
    import torch

    assert set(head(torch.from_numpy(x)).argmax(1).tolist()) <= {0, 1}


@pytest.mark.parametrize("counts", [(10, 10, 10), (23, 4, 1), (2, 2, 40)])
def test_folds_are_stratified(counts: tuple[int, ...]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    folds = stratified_folds(labels, 5, np.random.default_rng(0))
    sizes = np.bincount(folds, minlength=5)
    assert sizes.max() - sizes.min() <= 1
    for label, count in enumerate(counts):
        spread = np.bincount(folds[labels == label], minlength=5)
        assert spread.sum() == count
        assert spread.max() - spread.min() <= 1


def test_constant_features_do_not_break_it() -> None:
    head, _ = LinearSolver()(Features(np.ones((20, 4), np.float32), np.arange(20) % 2, None, 2), seed=0)
    assert all(bool(p.isfinite().all()) for p in head.parameters())
