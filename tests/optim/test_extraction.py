"""The whole head against scikit-learn's pipeline; what it chooses, and what it tells of that."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.random_projection import GaussianRandomProjection

from bequest.core.plan import Features
from bequest.nn.head import build_head, describe_head
from bequest.optim.design import stratified_folds
from bequest.optim.extraction import ExtractionSolver


def part(samples: int = 120, seed: int = 0) -> Features:
    """Three taps of 6, 20 and 4 features in units of their own, of which the second knows the class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, samples)
    told = rng.normal(size=(3, 20))[labels] + rng.normal(size=(samples, 20))
    noise = rng.normal(size=(samples, 10))
    values = np.concatenate([noise[:, :6] * 100, told + 5, noise[:, 6:]], 1).astype(np.float32)
    return Features(values, labels, None, 3, widths=(6, 20, 4))


def outputs(head: Any, values: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return head(torch.from_numpy(values)).numpy()


TAPS = ("first", "second", "third")


@pytest.mark.parametrize("reduce", ["none", "pca", "random"])
def test_same_as_the_pipeline(reduce: Any) -> None:
    given = part()
    solver = ExtractionSolver("lda", TAPS, reduce=reduce, dimensions=(8,))
    head, record = solver(given, seed=4)
    steps: dict[str, list[Any]] = {
        "none": [],
        "pca": [PCA(8, random_state=4)],
        "random": [GaussianRandomProjection(8, random_state=4)],
    }
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    peer = make_pipeline(StandardScaler(), *steps[reduce], LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"))
    peer.fit(given.values.astype(np.float64), given.labels)
    np.testing.assert_allclose(
        outputs(head, given.values), peer.decision_function(given.values.astype(np.float64)), rtol=1e-3, atol=1e-3
    )
    assert record["candidates"] == [] and record["layers"] == list(TAPS)


def test_the_tap_that_knows_the_class_is_chosen_and_the_others_are_not_read() -> None:
    given = part()
    head, record = ExtractionSolver("nearest_mean", TAPS, choose=True, dimensions=(4, None))(given, seed=0)
    assert record["layers"] == ["second"]
    tried = [(c["layers"], c["dimensions"]) for c in record["candidates"]]
    assert tried[:4] == [(["first"], 4), (["second"], 4), (["third"], "all"), (list(TAPS), 4)]
    others = given.values.copy()
    others[:, :6] = others[:, 26:] = 7
    np.testing.assert_array_equal(outputs(head, others), outputs(head, given.values))
    assert np.mean(outputs(head, given.values).argmax(1) == given.labels) > 0.9


def test_what_is_chosen_has_the_highest_score_of_its_step() -> None:
    _, record = ExtractionSolver("logistic", TAPS, choose=True, dimensions=(2, 8, None))(part(), seed=0)
    tried = record["candidates"]
    best = max(tried[:4], key=lambda c: (c["accuracy"], -c["loss"]))
    assert best["layers"] == record["layers"]
    chosen = [c for c in tried if all(c[k] == record[k] for k in ("layers", "dimensions", "C"))]
    assert len(chosen) == 1
    assert all(chosen[0]["accuracy"] >= c["accuracy"] for c in tried if c["layers"] == record["layers"])


def test_a_candidates_score_is_that_of_cross_validation() -> None:
    """Scaling, reduction and classifier are fitted within each fold, never on what is held out."""
    given = part()
    _, record = ExtractionSolver("logistic", TAPS, dimensions=(5, 9))(given, seed=2)
    folds = stratified_folds(given.labels, 5, np.random.default_rng([2, 3]))
    for candidate in record["candidates"][:2]:
        reduction = PCA(candidate["dimensions"], random_state=2)
        peer = make_pipeline(StandardScaler(), reduction, LogisticRegression(C=candidate["C"], max_iter=1000))
        scores = cross_val_score(peer, given.values.astype(np.float64), given.labels, cv=PredefinedSplit(folds))
        weights = np.bincount(folds)
        assert candidate["accuracy"] == pytest.approx(np.average(scores, weights=weights))


def test_dimensions_out_of_reach_are_no_reduction_and_tried_once() -> None:
    _, record = ExtractionSolver("nearest_mean", TAPS, dimensions=(500, 29, None, 40))(part(), seed=0)
    assert [c["dimensions"] for c in record["candidates"]] == ["all", 29]
    _, few = ExtractionSolver("nearest_mean", TAPS, dimensions=(12, 5))(part(12), seed=0)
    assert [c["dimensions"] for c in few["candidates"]] == ["all", 5]


def test_the_head_is_made_again_from_its_description() -> None:
    given = part()
    head, _ = ExtractionSolver("random_forest", TAPS, choose=True, dimensions=(6,), folds=2)(given, seed=0)
    again = build_head(describe_head(head))
    again.load_state_dict(head.state_dict())
    np.testing.assert_array_equal(outputs(again, given.values), outputs(head, given.values))


def test_a_feature_that_never_varies_does_no_harm() -> None:
    given = part()
    given.values[:, 3] = 11
    head, _ = ExtractionSolver("logistic", TAPS)(given, seed=0)
    assert np.isfinite(outputs(head, given.values)).all()


def test_the_seed_decides_the_projection_alone() -> None:
    given = part()
    solver = ExtractionSolver("nearest_mean", TAPS, reduce="random", dimensions=(8,))
    first, again, other = (solver(given, seed=seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(outputs(first, given.values), outputs(again, given.values))
    assert not np.allclose(outputs(first, given.values), outputs(other, given.values))
