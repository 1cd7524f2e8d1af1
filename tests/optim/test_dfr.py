"""Deep feature reweighting: balance, one scaler, scikit-learn's optimum, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from bequest.core.errors import MethodError
from bequest.core.plan import Features
from bequest.optim import dfr
from bequest.optim.dfr import DFRSolver, balanced, balanced_by, halves


def spurious(per_cell: dict[tuple[int, int], int], seed: int = 0, noise: float = 1.0) -> Features:
    """Feature 0 tells the class, feature 1 the group, stronger; the rest is noise of unequal size."""
    rng = np.random.default_rng(seed)
    y, g = np.array([cell for cell, count in per_cell.items() for _ in range(count)]).T
    x = rng.normal(size=(len(y), 12)) * noise
    x[:, 0] += 2.0 * (2 * y - y.max())
    x[:, 1] += 4.0 * (2 * g - g.max())
    x = x * np.linspace(0.1, 10, 12) + 5
    return Features(x.astype(np.float32), y, g, int(y.max()) + 1)


WATERBIRDS = {(0, 0): 90, (0, 1): 12, (1, 0): 10, (1, 1): 80}


def test_the_worst_group_gains_on_plain_regression() -> None:
    part, test = spurious(WATERBIRDS), spurious({(0, 0): 300, (0, 1): 300, (1, 0): 300, (1, 1): 300}, seed=1)
    head, record = DFRSolver()(part, seed=0)
    plain = LogisticRegression(C=1.0).fit(StandardScaler().fit_transform(part.values), part.labels)

    def worst(hits: np.ndarray) -> float:
        return min(hits[(test.labels == c) & (test.groups == g)].mean() for c in (0, 1) for g in (0, 1))

    ours = worst(head(torch.from_numpy(test.values)).argmax(1).numpy() == test.labels)
    scaler = StandardScaler().fit(part.values)
    assert ours > worst(plain.predict(scaler.transform(test.values)) == test.labels) + 0.02
    assert record["group_sizes"] == [90, 12, 10, 80]
    assert record["C"] in DFRSolver().costs and len(record["path"]) == 7


def test_subsets_are_balanced_exactly() -> None:
    cells, rng = np.repeat([0, 1, 2], [50, 7, 20]), np.random.default_rng(0)
    rows = balanced(cells, np.arange(77), rng)
    assert np.bincount(cells[rows]).tolist() == [7, 7, 7] and len(set(rows.tolist())) == 21
    assert set(rows.tolist()) != set(balanced(cells, np.arange(77), rng).tolist())
    first, second = halves(cells, rng)
    assert sorted([*first, *second]) == list(range(77))
    assert np.bincount(cells[first]).tolist() == [25, 4, 10]


@pytest.mark.parametrize("classes", [2, 3])
def test_is_the_mean_of_scikit_learns_fits(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same subsets, standardised by one scaler of the whole part, at scikit-learn's C."""
    monkeypatch.setattr(dfr, "_TOLERANCE", 1e-6)
    part = spurious({(c, g): 20 + 7 * c + 3 * g for c in range(classes) for g in (0, 1)}, noise=2.0)
    drawn: list[np.ndarray] = []
    real = dfr.balanced

    def noted(*args: object) -> np.ndarray:
        drawn.append(real(*args))
        return drawn[-1]

    monkeypatch.setattr(dfr, "balanced", noted)
    head, _ = DFRSolver(costs=(0.3,), refits=3)(part, seed=0)
    z = StandardScaler().fit_transform(part.values.astype(np.float64))
    weights, biases = [], []
    for rows in drawn[1:]:
        peer = LogisticRegression(l1_ratio=1.0, solver="saga", C=0.3, tol=1e-8, max_iter=20000)
        peer.fit(z[rows], part.labels[rows])
        weights.append(peer.coef_)
        biases.append(peer.intercept_)
    logits = z @ np.mean(weights, 0).T + np.mean(biases, 0)
    ours = head(torch.from_numpy(part.values)).detach().numpy()
    if classes == 2:
        np.testing.assert_allclose(ours[:, 1] - ours[:, 0], logits[:, 0], atol=2e-3)
    else:
        differences = (ours - logits) - (ours - logits).mean(1, keepdims=True)
        np.testing.assert_allclose(differences, 0, atol=2e-3)


def test_groups_that_are_class_and_attribute_together() -> None:
    labels, groups = np.repeat([0, 0, 1, 1], 5), np.repeat([0, 1, 2, 3], 5)
    assert balanced_by(labels, groups).tolist() == groups.tolist()


def test_same_seed_same_head() -> None:
    part = spurious(WATERBIRDS)
    one, again, other = (DFRSolver(refits=2)(part, seed=s)[0][1].weight for s in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_a_feature_that_never_varies() -> None:
    part = spurious(WATERBIRDS)
    part.values[:, 3] = 7
    head, _ = DFRSolver(refits=2)(part, seed=0)
    assert not head[1].weight[:, 3].any() and all(bool(p.isfinite().all()) for p in head.parameters())


@pytest.mark.parametrize(
    ("cells", "text"),
    [
        (
            {(0, 0): 9, (1, 1): 9},
            r"undefined .* no samples of class 0 in group 1, class 1 in group 0, so groups cannot",
        ),
        ({(0, 0): 9, (0, 1): 9, (1, 1): 9}, r"undefined on these data: .* class 1 in group 0, so"),
        ({(0, 0): 9, (1, 0): 9}, r"undefined on these data: there are no samples of a second group"),
        ({(0, 0): 9, (0, 1): 9, (1, 0): 1, (1, 1): 9}, r"class 1 in group 0 has 1\. Give more labels"),
    ],
)
def test_what_cannot_be_balanced_is_refused(cells: dict[tuple[int, int], int], text: str) -> None:
    with pytest.raises(MethodError, match=text):
        DFRSolver()(spurious(cells), seed=0)


def test_what_is_too_rare_is_named_as_the_data_name_it() -> None:
    part = spurious({(0, 0): 9, (0, 1): 9, (1, 0): 1, (1, 1): 9})
    with pytest.raises(MethodError, match=r"class land in group at sea has 1\. Give more labels"):
        DFRSolver(classes=("water", "land"), groups=("at sea", "ashore"))(part, seed=0)


def test_data_without_groups_are_refused() -> None:
    with pytest.raises(MethodError, match=r"balances groups, and the data have none; expected a column of groups\."):
        balanced_by(np.array([0, 1]), None)
