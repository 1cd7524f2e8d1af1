"""Pro²'s directions against the analytic ones of Gaussians, and its head on source and target data."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bequest.core.plan import Features
from bequest.optim import design
from bequest.optim.projection import ProjectionSolver, directions


def gaussians(n: int, mean: np.ndarray, deviations: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two classes N(±mean, diag(deviations²)), every noise vector used with all signs, so that means are exact."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(n, len(mean)))
    signs = np.array(np.meshgrid(*[[-1, 1]] * len(mean))).reshape(len(mean), -1).T
    noise = (noise[:, None] * signs[None]).reshape(-1, len(mean)) * deviations
    y = np.repeat([0, 1], len(noise))
    return np.concatenate([noise - mean, noise + mean]).astype(np.float32), y


def test_two_feature_gaussian_has_the_analytic_directions() -> None:
    """With classes N(±m, S), log p(1|x)/p(0|x) = 2 mᵀ S⁻¹ x: linear, so the first direction is S⁻¹ m, normalised.

    With m = (1, 1) and S = diag(1, 4) that is (1, 1/4) / √(17/16) = (4, 1) / √17. What is left is the line along
    (−1, 4) / √17, on which the classes still differ (its product with m is 3/√17): that is the second.
    """
    x, y = gaussians(20000, np.array([1.0, 1.0]), np.array([1.0, 2.0]))
    found = directions(x, y, 2, 2, 1e-6)
    first, second = np.array([4.0, 1.0]) / 17**0.5, np.array([-1.0, 4.0]) / 17**0.5
    assert abs(found[:, 0] @ first) == pytest.approx(1, abs=2e-4)
    assert abs(found[:, 1] @ second) == pytest.approx(1, abs=2e-4)


def test_third_feature_the_second_direction_is_the_best_of_what_is_left() -> None:
    """Off the first direction w the features are Bᵀx ~ N(±Bᵀm, BᵀSB): the second is B (BᵀSB)⁻¹ Bᵀm."""
    mean, deviations = np.array([0.6, 0.8, 0.5]), np.array([0.5, 1.0, 1.5])
    x, y = gaussians(10000, mean, deviations)
    found = directions(x, y, 2, 3, 1e-6)
    spread = np.diag(deviations**2)
    first = np.linalg.solve(spread, mean)
    left = np.linalg.svd(first[None])[2][1:].T
    second = left @ np.linalg.solve(left.T @ spread @ left, left.T @ mean)
    assert abs(found[:, 0] @ first) / np.linalg.norm(first) == pytest.approx(1, abs=1e-3)
    assert abs(found[:, 1] @ second) / np.linalg.norm(second) == pytest.approx(1, abs=1e-3)


def problem(samples: int, width: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(samples) % classes
    centres = np.random.default_rng(99).normal(size=(classes, width))
    return (centres[y] + 2 * rng.normal(size=(samples, width)) + 3).astype(np.float32), y


@pytest.mark.parametrize(("samples", "width", "classes"), [(200, 12, 2), (300, 40, 5), (30, 200, 3), (60, 90, 20)])
def test_directions_are_orthonormal(samples: int, width: int, classes: int) -> None:
    x, y = problem(samples, width, classes)
    found = directions(x, y, classes, 16, 1e-2)
    assert found.shape[0] == width and 5 <= found.shape[1] <= min(16, width)
    np.testing.assert_allclose(found.T @ found, np.eye(found.shape[1]), atol=1e-6)


def test_the_first_block_spans_the_weights_of_the_regression() -> None:
    from bequest.optim.logistic import fit_logistic

    x, y = problem(300, 12, 4)
    scaled = design.standardise(x)
    weight = fit_logistic(scaled, y, 4, 1e-2)[:, :-1]
    found = directions(x, y, 4, 3, 1e-2)
    np.testing.assert_allclose(found @ (found.T @ weight.T), weight.T, atol=1e-4 * np.abs(weight).max())


def test_blocks_of_rows_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = problem(200, 6, 3)
    whole = directions(x, y, 3, 5, 1e-2)
    monkeypatch.setattr(design, "_BLOCK", 6 * 7)
    blocked = directions(x, y, 3, 5, 1e-2)
    np.testing.assert_allclose(np.abs((whole * blocked).sum(0)), 1, atol=1e-3)


def test_no_more_directions_than_there_are() -> None:
    x, y = problem(10, 50, 2)
    assert directions(x, y, 2, 128, 1e-2).shape[1] <= 9


def test_source_data_lead_the_way_where_target_labels_are_few() -> None:
    x, y = problem(2000, 60, 3, seed=1)
    few, labels = problem(12, 60, 3, seed=2)
    many, answers = problem(1000, 60, 3, seed=3)
    target = Features(few, labels, None, 3)
    with_source, record = ProjectionSolver()(Features(x, y, None, 3), target, seed=0)
    alone, other = ProjectionSolver()(target, seed=0)
    assert (record["projection_from"], other["projection_from"]) == ("source", "train")
    hits = [(h(torch.from_numpy(many)).argmax(1).numpy() == answers).mean() for h in (with_source, alone)]
    assert hits[0] > hits[1] + 0.05
    weight = with_source[0].weight.detach().numpy()
    np.testing.assert_allclose(weight @ weight.T, np.eye(record["directions"]), atol=1e-5)


def test_settings_are_the_best_that_were_tried() -> None:
    x, y = problem(60, 100, 20)
    head, record = ProjectionSolver(counts=(2, 8), folds=3)(Features(x, y, None, 20), seed=0)
    best = max(record["path"], key=lambda t: (t["accuracy"], -t["loss"]))
    assert {n: record[n] for n in ("directions", "direction_penalty", "penalty")} == {
        n: best[n] for n in ("directions", "direction_penalty", "penalty")
    }
    assert head(torch.from_numpy(x)).shape == (60, 20)
