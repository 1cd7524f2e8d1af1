"""Domain affinity: the number, its interval, and that the words claim no more than the interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from bequest.core.results import Leaderboard
from bequest.report import affinity
from bequest.report.html import render
from bequest.report.verdict import sentences

Make = Callable[..., Leaderboard]
READING = "Far above 0, the source knows the domain; near or below 0, its features are hardly better than none."


def with_scores(board: Leaderboard, probe: list[float | None], scratch: list[float | None]) -> Leaderboard:
    """The board with other test scores, by seed; None where a seed failed."""
    scores = {"linear_probe": probe, "from_scratch": scratch}
    trials = [replace(t, test=scores[t.method][t.seed]) for t in board.trials]
    return replace(board, trials=trials)


@pytest.fixture
def both(make: Make) -> Leaderboard:
    return make(["linear_probe", "from_scratch"], 3)


def test_it_is_the_mean_of_paired_differences_with_a_t_interval(both: Leaderboard) -> None:
    found = affinity.measure(with_scores(both, [0.90, 0.80, 0.85], [0.80, 0.66, 0.73]))
    assert found
    assert (found.metric, found.difference.seeds) == ("accuracy", 3)
    # Differences 0.10, 0.14, 0.12: mean 0.12, standard deviation 0.02; t(0.975, 2) = 4.302653.
    assert found.difference.mean == pytest.approx(0.12)
    reach = 4.302653 * 0.02 / 3**0.5
    assert (found.difference.low, found.difference.high) == pytest.approx((0.12 - reach, 0.12 + reach), abs=1e-7)


def test_words_of_an_interval_above_zero(both: Leaderboard) -> None:
    board = with_scores(both, [0.90, 0.80, 0.85], [0.80, 0.66, 0.73])
    assert affinity.in_words(board) == [
        "Domain affinity +12.0 points: the test accuracy of linear_probe minus that of from_scratch, mean over 3 "
        "seeds, 95 % interval from +7.0 to +17.0 points. The interval is above 0: here the features "
        "are better than none. " + READING
    ]
    assert sentences(board)[-1] == affinity.in_words(board)[0]
    assert "Domain affinity +12.0 points" in render(board)


def test_words_of_an_interval_below_zero(both: Leaderboard) -> None:
    [told] = affinity.in_words(with_scores(both, [0.80, 0.66, 0.73], [0.90, 0.80, 0.85]))
    assert "Domain affinity −12.0 points" in told and "from −17.0 to −7.0 points. The interval is below 0" in told


@pytest.mark.parametrize("mean", [0.005, 0.0497, -0.0497])
def test_an_interval_that_reaches_zero_claims_nothing(both: Leaderboard, mean: float) -> None:
    # Half the interval is 0.04968: about 0.0497 it ends 0.00002 from zero, which reads as 0.0 points.
    [told] = affinity.in_words(with_scores(both, [0.5 + mean + d for d in (-0.02, 0.02, 0.0)], [0.5] * 3))
    assert "The interval holds 0: whether the features are better than none cannot be told." in told
    assert "above 0:" not in told and "below 0:" not in told
    assert "−0.0 points" not in told


def test_one_seed_gives_no_interval(make: Make) -> None:
    board = with_scores(make(["linear_probe", "from_scratch"], 1), [0.9], [0.6])
    found = affinity.measure(board)
    assert found and found.difference.low is None
    assert affinity.in_words(board) == [
        "Domain affinity +30.0 points: the test accuracy of linear_probe minus that of from_scratch, one seed, which "
        "gives no interval: it may be chance; run more seeds to tell. " + READING
    ]


def test_equal_differences_are_not_taken_for_certainty(both: Leaderboard) -> None:
    [told] = affinity.in_words(with_scores(both, [0.9, 0.8, 0.7], [0.8, 0.7, 0.6]))
    assert "mean over 3 seeds, the same with each, which gives no interval: how far chance moves it cannot" in told


def test_only_seeds_that_both_finished_are_paired(both: Leaderboard) -> None:
    found = affinity.measure(with_scores(both, [0.9, None, 0.8], [0.5, 0.1, 0.6]))
    assert found and found.difference.seeds == 2
    assert found.difference.mean == pytest.approx(0.3)
    assert affinity.measure(with_scores(both, [0.9, None, None], [None, 0.1, 0.6])) is None


@pytest.mark.parametrize("lost", ["linear_probe", "from_scratch"])
def test_it_needs_both_methods(board: Leaderboard, both: Leaderboard, lost: str) -> None:
    alone = replace(both, trials=[t for t in both.trials if t.method != lost])
    for unmeasured in (alone, board):
        assert affinity.measure(unmeasured) is None
        assert affinity.in_words(unmeasured) == []
    assert "Domain affinity" not in render(board)


@pytest.mark.parametrize(
    ("metric", "number"), [("macro-F1", "+12.0 points: the test macro-F1"), ("R²", "+0.120: the test R²")]
)
def test_other_kinds_of_task_name_their_metric(both: Leaderboard, metric: str, number: str) -> None:
    changed = replace(
        both,
        rows=[replace(r, metric=metric) for r in both.rows],
        trials=[replace(t, metric=metric) for t in both.trials],
    )
    [told] = affinity.in_words(with_scores(changed, [0.90, 0.80, 0.85], [0.80, 0.66, 0.73]))
    assert f"Domain affinity {number} of linear_probe minus that of from_scratch" in told
    assert ("from +0.070 to +0.170." in told) == (metric == "R²")
