from __future__ import annotations

from dataclasses import replace

import pytest

from bequest.comparison.statistics import interval
from bequest.core.results import Interval, Leaderboard, Row, Versus
from bequest.report import units
from bequest.report.verdict import sentences


def with_rows(board: Leaderboard, *rows: tuple[str, list[float], float]) -> Leaderboard:
    """A board of rows (method, validation of each seed, seconds), validation and test alike."""
    return replace(board, rows=[_row(board.rows[0], *r) for r in rows])


def _row(row: Row, method: str, values: list[float], seconds: float) -> Row:
    found = interval(values)
    return replace(row, method=method, validation=found, test=found, train_s=seconds)


def against(board: Leaderboard, *found: Versus | None) -> Leaderboard:
    """The board with what its rows after the first came to against it."""
    rows = [replace(row, versus_best=v) for row, v in zip(board.rows[1:], found, strict=True)]
    return replace(board, rows=[board.rows[0], *rows])


NEAR = Versus(-0.002, -0.031, 0.027, 0.8, True, 3, 555)
BEHIND = Versus(-0.06, -0.09, -0.03, 0.0035, False, 3, 555)
AHEAD = Versus(0.02, 0.01, 0.03, 0.000001, False, 3, 555)
THREE = (("big", [0.96, 0.98, 0.97], 80.0), ("middle", [0.966, 0.968, 0.97], 20.0), ("tiny", [0.5, 0.5, 0.5], 1.0))


def test_a_cheap_method_that_is_indistinguishable(board: Leaderboard) -> None:
    made = with_rows(board, ("big", [0.96, 0.98, 0.97], 80.0), ("small", [0.966, 0.968, 0.97], 2.0))
    assert sentences(against(made, NEAR)) == [
        "big has the highest validation accuracy: 97.0 ± 0.6 % (mean ± standard error over 3 seeds). "
        "On the test part it reaches 97.0 ± 0.6 % (95 % interval 94.5 to 99.5 %), after 80 s of training a seed.",
        "small is indistinguishable from it on the test part, with 3 seeds and 555 samples: the difference is "
        "−0.2 points (95 % interval −3.1 to +2.7).",
        "small costs 1/40 of the training time (2.0 s against 80 s) and is indistinguishable from the best on the test "
        "part (96.8 ± 0.1 % against 97.0 ± 0.6 %).",
    ]


def test_a_cheap_method_that_is_behind(board: Leaderboard) -> None:
    made = with_rows(board, ("big", [0.96, 0.98, 0.97], 80.0), ("small", [0.90, 0.91, 0.92], 2.0))
    assert sentences(against(made, BEHIND))[1:] == [
        "small is worse on the test part, by 6.0 points (95 % interval −9.0 to −3.0, p = 0.0035 after correction).",
        "The cheapest, small costs 1/40 of the training time (2.0 s against 80 s): 91.0 ± 0.6 % against 97.0 ± 0.6 % "
        "on the test part.",
    ]


def test_where_lower_is_better_the_words_say_so(board: Leaderboard) -> None:
    made = with_rows(board, ("big", [21.0, 21.4, 21.2], 80.0), ("small", [25.0, 25.1, 25.2], 2.0))
    rows = [replace(row, metric="perplexity", higher_is_better=False) for row in made.rows]
    told = sentences(against(replace(made, rows=rows), Versus(3.9, 3.0, 4.8, 0.01, False, 3, 40)))
    assert told[0].startswith("big has the lowest validation perplexity: 21.2 ± 0.1 (mean")
    assert told[1].startswith("small is worse on the test part, by 3.90 (95 % interval +3.00 to +4.80, p = 0.01")


def test_a_row_that_does_better_on_the_test_part_is_told(board: Leaderboard) -> None:
    told = sentences(against(with_rows(board, *THREE), AHEAD, BEHIND))
    assert told[1].startswith(
        "middle is better than it on the test part, by 2.0 points (95 % interval +1.0 to +3.0, p <"
    )
    assert told[2].startswith("tiny is worse")


def test_several_others(board: Leaderboard) -> None:
    made = with_rows(board, *THREE)
    assert "All 2 others are indistinguishable" in sentences(against(made, NEAR, NEAR))[1]
    closer = replace(BEHIND, difference=-0.03)
    assert (
        "All 2 others are worse on the test part; the closest of them, tiny, by"
        in (sentences(against(made, BEHIND, closer))[1])
    )
    told = sentences(against(made, NEAR, None))
    assert "middle is indistinguishable" in told[1]
    assert told[2] == "tiny finished fewer than two seeds together with it, which tells nothing."


def test_the_cheapest_of_those_that_are_indistinguishable_is_named(board: Leaderboard) -> None:
    told = sentences(against(with_rows(board, *THREE), NEAR, BEHIND))
    assert told[-1].startswith("middle costs 1/4 of the training time")
    assert told[1].startswith("middle is indistinguishable")


def test_one_seed(board: Leaderboard) -> None:
    told = sentences(with_rows(board, ("big", [0.97], 80.0), ("small", [0.96], 2.0)))
    assert told[1].startswith("One seed tells no difference between methods from chance")
    assert not any("indistinguishable" in s or "interval" in s for s in told)
    assert "a seed" not in told[0]


def test_what_failed_at_a_seed_is_not_called_lower(board: Leaderboard) -> None:
    made = with_rows(board, ("whole", [0.90, 0.92, 0.91], 80.0), ("lost", [0.97], 2.0))
    told = sentences(replace(made, rows=[made.rows[0], replace(made.rows[1], errors=["seed 1: nan", "seed 2: nan"])]))
    assert told[0].startswith("whole has the highest validation accuracy, of the methods that finished every seed: ")
    assert told[1] == "lost finished fewer than two seeds together with it, which tells nothing."
    assert not any("One seed tells" in sentence for sentence in told)


def test_the_best_is_the_cheapest(board: Leaderboard) -> None:
    told = sentences(with_rows(board, ("small", [0.97, 0.98], 2.0), ("big", [0.9, 0.9], 80.0)))
    assert told[-1] == "It was also the cheapest to train of the 2."


def test_no_time_measured(board: Leaderboard) -> None:
    told = sentences(with_rows(board, ("a", [0.97, 0.98], 2.0), ("b", [0.97, 0.98], 0.0)))
    assert told[-1].startswith("The cheapest, b costs 0 % of the training time")


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        (units.quantity(999), "999"),
        (units.quantity(1925), "1.9 k"),
        (units.quantity(999_600), "1.0 M"),
        (units.size(90_860_564), "90.9 MB"),
        (units.size(0), "–"),
        (units.duration(0.004), "0.004 s"),
        (units.duration(2.44), "2.4 s"),
        (units.duration(7300), "2.0 h"),
        (units.rate(3.21), "3.2 /s"),
        (units.fraction(1, 1.5), "67 %"),
        (units.fraction(2, 80), "1/40"),
        (units.score(0.5, "log_loss"), "0.500"),
        (units.score(float("nan"), "accuracy"), "–"),
        (units.score(0.000123, "RMSE"), "0.000123"),
        (units.score(0.0, "RMSE"), "0.000"),
        (units.mean_sem(Interval(1234.6, 9.87, 3, []), "RMSE"), "1,235 ± 10"),
        (units.mean_sem(Interval(0.0456, 0.00123, 3, []), "RMSE"), "0.0456 ± 0.0012"),
        (units.mean_sem(Interval(0.912, 0.013, 3, []), "R²"), "0.912 ± 0.013"),
        (units.gap(0.123, "accuracy", signed=True), "+12.3 points"),
        (units.mean_sem(Interval(0.9, 0.0002, 3, []), "accuracy"), "90.00 ± 0.02 %"),
        (units.mean_sem(Interval(0.9, 0.0, 3, []), "accuracy"), "90.0 ± 0.0 %"),
        (units.plain([1, "a", None]), "1, a, none"),
        (units.plain(""), "none"),
        (units.plain({"number": 1, "recipe": None}), "number 1, recipe none"),
        (units.score(-0.0123, "R²"), "−0.012"),
        (units.score(-0.0001, "R²"), "0.000"),
        (units.mean_sem(Interval(-0.5, 0.013, 3, []), "R²"), "−0.500 ± 0.013"),
        (units.bounds(Interval(0.7, 0.1, 2, [], -0.57, 1.97), "macro-F1"), "0.0 to 100.0 %"),
        (units.bounds(Interval(0.7, 0.1, 2, [], -0.57, 1.97), "R²"), "−0.570 to 1.000"),
        (units.bounds(Interval(0.7, 0.1, 2, [], -0.57, 1.97), "log-loss"), "0.000 to 1.970"),
        (units.plain(1e-05), "1e-05"),
        (units.shorten("a" * 30, 10), "aaaaaa…aaa"),
    ],
)
def test_units(written: str, wanted: str) -> None:
    assert written == wanted
