"""Whether "better than" holds its level, and whether intervals cover, on synthetic predictions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bequest.comparison.significance import against_best, by_unit, holm, pairs, versus
from bequest.comparison.statistics import interval, make_row
from bequest.core.results import Leaderboard, TrialRecord
from bequest.nn.objectives import OBJECTIVES

NUM_CLASSES = 4
SIMULATED = 500

Logits = np.ndarray


def predictions(
    rng: np.random.Generator, samples: int, seeds: int, methods: int, parts: tuple[float, float, float], lead: float = 0
) -> tuple[Logits, np.ndarray]:
    """Logits (methods, seeds, samples, classes) and labels.

    How far a sample's own class is ahead is made of its difficulty, which all methods share, and of parts of each
    method's own, equal in distribution: of the seed, of the sample, and of both. The first method has a lead.
    """
    of_seed, of_sample, of_both = parts
    labels = rng.integers(0, NUM_CLASSES, samples)
    margin = (
        1
        + rng.normal(size=samples)
        + of_seed * rng.normal(size=(methods, seeds, 1))
        + of_sample * rng.normal(size=(methods, 1, samples))
        + of_both * rng.normal(size=(methods, seeds, samples))
    )
    margin[0] += lead
    logits = rng.normal(size=(methods, seeds, samples, NUM_CLASSES), scale=0.1)
    logits[..., np.arange(samples), labels] += margin
    return logits, labels


def scores(logits: Logits, labels: np.ndarray) -> np.ndarray:
    """Sample by sample (methods, seeds, samples), as a comparison takes them from what trials keep."""
    influence, true = OBJECTIVES["classification"].influence, torch.from_numpy(labels)
    return np.stack([[influence(torch.from_numpy(seed), true).numpy() for seed in method] for method in logits])


@pytest.mark.parametrize("seeds", [3, 5])
def test_equal_methods_are_called_different_in_at_most_a_twentieth(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    called = 0
    for _ in range(SIMULATED):
        first, second = scores(*predictions(rng, 200, seeds, 2, (0.2, 0.5, 1.0)))
        called += not versus(first - second).indistinguishable
    assert called <= 0.05 * SIMULATED


@pytest.mark.parametrize("parts", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 1.0, 0.3)])
def test_the_level_holds_whatever_methods_differ_by(parts: tuple[float, float, float]) -> None:
    """At the level itself where one part is all: what chance adds in so many simulations is allowed for."""
    rng = np.random.default_rng(7)
    called = 0
    for _ in range(SIMULATED):
        first, second = scores(*predictions(rng, 100, 3, 2, parts))
        called += not versus(first - second).indistinguishable
    assert called <= 0.05 * SIMULATED + 2 * np.sqrt(0.05 * 0.95 * SIMULATED)


def test_among_many_equal_methods_none_is_called_different_in_most_comparisons() -> None:
    rng = np.random.default_rng(11)
    called, uncorrected = 0, 0
    for _ in range(100):
        found = scores(*predictions(rng, 100, 3, 8, (0.5, 0.5, 0.5)))
        trials = [[TrialRecord(f"method {m}", s, {}, validation=1 - m / 10) for s in range(3)] for m in range(8)]
        by_seed = {f"method {m}": dict(enumerate(method)) for m, method in enumerate(found)}
        rows = against_best([make_row(t) for t in trials], by_seed)
        assert rows[0].versus_best is None
        called += any(row.versus_best and not row.versus_best.indistinguishable for row in rows)
        uncorrected += any(not versus(other - found[0]).indistinguishable for other in found[1:])
    assert called <= 0.05 * 100 < uncorrected


def test_a_difference_that_is_there_is_found() -> None:
    rng = np.random.default_rng(3)
    found = 0
    for _ in range(50):
        first, second = scores(*predictions(rng, 400, 3, 2, (0.05, 0.5, 1.0), lead=0.8))
        told = versus(first - second)
        found += not told.indistinguishable and told.low > 0
    assert found >= 40


@pytest.mark.parametrize("seeds", [3, 5])
def test_t_intervals_of_rows_cover(seeds: int) -> None:
    rng = np.random.default_rng(5)
    made = [interval(rng.normal(0.8, 0.02, seeds).tolist()) for _ in range(2000)]
    assert np.mean([found.low < 0.8 < found.high for found in made]) == pytest.approx(0.95, abs=0.02)


def test_against_a_paired_t_test_where_samples_say_nothing() -> None:
    from scipy.stats import ttest_1samp

    by_seed = np.array([0.02, 0.05, 0.03])
    told = versus(np.repeat(by_seed[:, None], 50, 1))
    expected = ttest_1samp(by_seed, 0)
    assert told.p == pytest.approx(expected.pvalue, rel=1e-6)
    assert (told.low, told.high) == pytest.approx(tuple(expected.confidence_interval()))
    by_sample = np.random.default_rng(0).normal(0.1, 1, 60)
    assert versus(np.repeat(by_sample[None], 3, 0)).p == pytest.approx(ttest_1samp(by_sample, 0).pvalue, rel=1e-6)


def test_edges() -> None:
    same = versus(np.zeros((3, 20)))
    assert (same.difference, same.p, same.indistinguishable) == (0.0, 1.0, True)
    sure = versus(np.ones((3, 20)))
    assert sure.p < 1e-9 and not sure.indistinguishable


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_only_seeds_that_both_finished_are_compared() -> None:
    rows = [make_row([TrialRecord(n, s, {}, validation=v) for s in range(3)]) for n, v in (("a", 0.9), ("b", 0.8))]
    some = np.random.default_rng(0).random((3, 30))
    told = against_best(rows, {"a": dict(enumerate(some)), "b": {0: some[1], 2: some[0]}})[1].versus_best
    assert told is not None and (told.seeds, told.samples) == (2, 30)
    assert told.difference == pytest.approx((some[1] - some[0] + some[0] - some[2]).mean() / 2)
    alone = against_best(rows, {"a": dict(enumerate(some)), "b": {0: some[1]}})[1]
    assert alone == replace(rows[1], versus_best=None)


def test_pieces_of_a_text_count_once() -> None:
    pieces = np.array([1.0, 2.0, 3.0, 4.0, 10.0])
    whole = by_unit(pieces, np.array([3, 3, 3, 5, 8]))
    assert len(whole) == 3 and whole.mean() == pytest.approx(pieces.mean())


def test_every_two_methods_by_the_same_interval_in_either_order() -> None:
    rng = np.random.default_rng(0)
    scores = {name: {seed: rng.normal(size=30) for seed in seeds} for name, seeds in SEEDS.items()}
    found = pairs(scores)
    assert {(one, other) for one, others in found.items() for other in others} == {("a", "b"), ("a", "c"), ("b", "c")}
    expected = versus(np.stack([scores["a"][seed] - scores["c"][seed] for seed in (0, 2)]))
    apart = found["a"]["c"]
    assert (apart.mean, apart.low, apart.high, apart.seeds) == (expected.difference, expected.low, expected.high, 2)
    board = Leaderboard([], {}, {}, {}, {}, {}, [], differences=found)
    back = board.difference("c", "a")
    assert back and (back.mean, back.low, back.high) == (-apart.mean, -apart.high, -expected.low)
    assert board.difference("a", "d") is None, "one seed tells nothing"


SEEDS = {"a": (0, 1, 2), "b": (0, 1, 2), "c": (0, 2), "d": (0,)}
