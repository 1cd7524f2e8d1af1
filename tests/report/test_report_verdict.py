from __future__ import annotations

from dataclasses import replace

import pytest

from bequest.core.results import Interval, Leaderboard, Row
from bequest.report import units
from bequest.report.verdict import sentences


def with_rows(board: Leaderboard, *rows: tuple[str, list[float], float]) -> Leaderboard:
    """A board of rows (method, validation of each seed, seconds), validation and test alike."""
    return replace(board, rows=[_row(board.rows[0], *r) for r in rows])


def _row(row: Row, method: str, values: list[float], seconds: float) -> Row:
    mean = sum(values) / len(values)
    n = len(values)
    sem = (sum((v - mean) ** 2 for v in values) / (n - 1) / n) ** 0.5 if n > 1 else None
    interval = Interval(mean, sem, n, values)
    return replace(row, method=method, validation=interval, test=interval, train_s=seconds)


def test_a_cheap_method_within_one_standard_error(board: Leaderboard) -> None:
    told = sentences(with_rows(board, ("big", [0.96, 0.98, 0.97], 80.0), ("small", [0.966, 0.968, 0.97], 2.0)))
    assert told == [
        "big has the highest validation accuracy: 97.0 ± 0.6 % (mean ± standard error over 3 seeds). "
        "On the test part it reaches 97.0 ± 0.6 %, after 80 s of training a seed.",
        "small is within one standard error of it on validation: with 3 seeds, no difference between them can be told.",
        "small costs 1/40 of the training time (2.0 s against 80 s) and is within one standard error of the "
        "best on validation (96.8 % against 97.0 ± 0.6 %); on the test part it reaches 96.8 ± 0.1 %.",
    ]


def test_a_cheap_method_further_off_is_not_called_equal(board: Leaderboard) -> None:
    told = sentences(with_rows(board, ("big", [0.96, 0.98, 0.97], 80.0), ("small", [0.90, 0.91, 0.92], 2.0)))
    assert "hint, not proof" in told[1]
    assert told[2].startswith("The cheapest, small costs 1/40 of the training time (2.0 s against 80 s)")
    assert "6.0 points lower" in told[2]
    assert "within" not in told[2]


def test_where_lower_is_better_the_words_say_so(board: Leaderboard) -> None:
    made = with_rows(board, ("big", [21.0, 21.4, 21.2], 80.0), ("small", [25.0, 25.1, 25.2], 2.0))
    rows = [replace(row, metric="perplexity", higher_is_better=False) for row in made.rows]
    told = sentences(replace(made, rows=rows))
    assert told[0].startswith("big has the lowest validation perplexity: 21.2 ± 0.1 (mean")
    assert "hint, not proof" in told[1]
    assert "is 3.90 higher on validation (25.1 against 21.2 ± 0.1)" in told[2]
    near = [rows[0], replace(rows[1], validation=Interval(21.3, 0.1, 3, [21.2, 21.3, 21.4]))]
    assert "small is within one standard error of it" in sentences(replace(made, rows=near))[1]


def test_exactly_one_standard_error_is_within(board: Leaderboard) -> None:
    best = with_rows(board, ("big", [0.5, 0.7], 80.0)).rows[0]
    edge = replace(best, method="edge", validation=Interval(0.5, 0.0, 2, [0.5, 0.5]), train_s=1.0)
    beyond = replace(edge, validation=Interval(0.4999, 0.0, 2, [0.4999, 0.4999]))
    assert "within one standard error" in sentences(replace(board, rows=[best, edge]))[2]
    assert "within one standard error" not in sentences(replace(board, rows=[best, beyond]))[2]


def test_the_cheapest_of_those_within_is_named(board: Leaderboard) -> None:
    told = sentences(
        with_rows(
            board,
            ("big", [0.96, 0.98, 0.97], 80.0),
            ("middle", [0.966, 0.968, 0.97], 20.0),
            ("tiny", [0.5, 0.5, 0.5], 1.0),
        )
    )
    assert told[-1].startswith("middle costs 1/4 of the training time")
    assert told[1].startswith("middle is within")


def test_one_seed(board: Leaderboard) -> None:
    told = sentences(with_rows(board, ("big", [0.97], 80.0), ("small", [0.96], 2.0)))
    assert "no difference between methods can be told" in told[1]
    assert not any("within" in s for s in told)
    assert "a seed" not in told[0]


def test_the_best_is_the_cheapest(board: Leaderboard) -> None:
    told = sentences(with_rows(board, ("small", [0.97, 0.98], 2.0), ("big", [0.9, 0.9], 80.0)))
    assert told[-1] == "It was also the cheapest to train of the 2."


def test_no_time_measured(board: Leaderboard) -> None:
    told = sentences(with_rows(board, ("a", [0.97, 0.98], 2.0), ("b", [0.97, 0.98], 0.0)))
    assert told[-1].startswith("b costs 0 % of the training time")


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
        (units.plain({"a": [1]}), '{"a": [1]}'),
        (units.plain(1e-05), "1e-05"),
        (units.shorten("a" * 30, 10), "aaaaaa…aaa"),
    ],
)
def test_units(written: str, wanted: str) -> None:
    assert written == wanted
