"""Head2Toe's solver: selection finds what tells the classes apart, inside the folds; its head is what it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bequest.core.plan import Features
from bequest.optim.group_lasso import columns, fit, strongest
from bequest.optim.head2toe import Head2ToeSolver, by_tap, normalised, ranked
from bequest.optim.linear import LinearSolver

WIDTHS = (40, 100, 60)


def part(samples: int = 120, classes: int = 3, seed: int = 0, told: float = 0.3) -> Features:
    """Ten features of the second tap tell the classes; the taps differ in scale by thousands."""
    rng = np.random.default_rng(seed)
    y = np.arange(samples) % classes
    x = rng.normal(size=(samples, sum(WIDTHS))) + 1
    x[:, 45:55] += told * 10 * np.random.default_rng(9).normal(size=(classes, 10))[y]
    x *= np.repeat([1000.0, 1.0, 0.001], WIDTHS)
    return Features(x.astype(np.float32), y, None, classes, widths=WIDTHS)


def test_finds_the_layer_and_the_features() -> None:
    head, record = Head2ToeSolver(strengths=(0.1,), fractions=(0.05,), penalties=(1e-3,))(part(), seed=0)
    kept = head[1].index.tolist()
    assert record["kept"] == len(kept) == sum(record["kept_by_tap"]) == 10
    assert record["kept_by_tap"][1] == len(set(kept) & set(range(45, 55))) >= 8
    assert record["violation"] <= 1e-5
    test = part(300, seed=1)
    assert (head(torch.from_numpy(test.values)).argmax(1).numpy() == test.labels).mean() > 0.9


def test_selection_beats_all_features_and_is_chosen() -> None:
    given, test = part(60, told=0.12), part(600, seed=1, told=0.12)

    def hits(solver: Head2ToeSolver) -> tuple[float, dict]:
        head, record = solver(given, seed=0)
        return (head(torch.from_numpy(test.values)).argmax(1).numpy() == test.labels).mean(), record

    chosen, record = hits(Head2ToeSolver())
    everything, _ = hits(Head2ToeSolver(fractions=(1.0,)))
    assert record["fraction"] < 1 and chosen > everything
    best = max(record["path"], key=lambda t: (t["accuracy"], -t["loss"]))
    assert all(record[name] == best[name] for name in ("strength", "fraction", "penalty"))
    assert len(record["path"]) == (2 * 5 + 1) * 4


def test_the_head_is_the_linear_head_of_the_kept_features() -> None:
    given = part()
    head, record = Head2ToeSolver(strengths=(0.1,), fractions=(0.1,), penalties=(1e-2,))(given, seed=0)
    x = normalised(given.values, WIDTHS)
    found = fit(columns(x), given.labels, 3, 0.1 * strongest(columns(x), given.labels, 3))
    kept = np.sort(ranked(found)[:20])
    alone, _ = LinearSolver(penalty=1e-2)(Features(x[:, kept], given.labels, None, 3), seed=0)
    torch.testing.assert_close(
        head(torch.from_numpy(given.values)), alone(torch.from_numpy(x[:, kept])), atol=1e-3, rtol=1e-3
    )
    assert record["kept_by_tap"] == by_tap(kept, WIDTHS)


def test_features_with_weight_come_first_then_those_near_to_entering() -> None:
    x = columns(normalised(part().values, WIDTHS))
    y = part().labels
    strong = strongest(x, y, 3)
    found = fit(x, y, 3, 0.4 * strong)
    order, held = ranked(found), found.weight.any(1)
    count = int(held.sum())
    assert held[order[:count]].all() and sorted(order.tolist()) == list(range(200))
    sizes = np.linalg.norm(found.weight, axis=1)[order[:count]]
    slopes = np.linalg.norm(found.gradient, axis=1)[order[count:]]
    assert (np.diff(sizes) <= 0).all() and (np.diff(slopes) <= 0).all()


def test_what_the_held_out_fold_says_was_not_seen_by_the_selection() -> None:
    """Cross-validated accuracy on noise is that of chance; with a selection outside the folds it is far above."""
    rng = np.random.default_rng(0)
    noise = Features(rng.normal(size=(100, 3000)).astype(np.float32), np.arange(100) % 2, None, 2)
    _, record = Head2ToeSolver(fractions=(0.01,), strengths=(0.1,), penalties=(1e-2, 1e-3))(noise, seed=0)
    assert all(0.3 < step["accuracy"] < 0.7 for step in record["path"])


def test_a_tap_of_zeros_and_a_class_of_three() -> None:
    given = part(60, classes=20)
    given.values[:, :40] = 0
    given.values[7, 140:] = 0
    head, _ = Head2ToeSolver(folds=3)(given, seed=0)
    logits = head(torch.from_numpy(given.values))
    assert logits.shape == (60, 20) and bool(logits.isfinite().all())
    assert np.isfinite(normalised(given.values, WIDTHS)).all()
    assert np.linalg.norm(normalised(given.values, WIDTHS)[0, 40:140]) == pytest.approx(1, rel=1e-5)


def test_no_penalty_on_the_head() -> None:
    head, record = Head2ToeSolver(strengths=(0.1,), fractions=(0.02,), penalties=(0.0,))(part(told=0.05), seed=0)
    assert record["penalty"] == 0.0 and all(bool(p.isfinite().all()) for p in head.parameters())
