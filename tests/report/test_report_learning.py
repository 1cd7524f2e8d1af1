"""Learning curves in words, in the table and in the drawing."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from pages import assert_sound, text_of

from bequest.core.learning_curves import Crossing, Curve, CurvePoint, LearningCurves, Winner
from bequest.core.results import Leaderboard
from bequest.report.html import render
from bequest.report.learning import in_words
from bequest.report.learning_plots import apart, heights


def point(labels: int, mean: float) -> CurvePoint:
    return CurvePoint(labels, mean, mean - 0.02, mean + 0.02, [0, 1, 2], [mean - 0.01, mean, mean + 0.01])


CURVES = LearningCurves(
    "accuracy",
    True,
    [25, 100, 400],
    True,
    [
        Curve("full", [point(25, 0.5), point(100, 0.8), point(400, 0.97)]),
        Curve("linear_probe", [point(25, 0.8), point(100, 0.85), point(400, 0.9)]),
        Curve("lora", [point(100, 0.84), point(400, 0.96)]),
    ],
    [Winner(25, "linear_probe", []), Winner(100, "linear_probe", ["lora"]), Winner(400, "full", ["lora"])],
    [Crossing("linear_probe", "full", 163.2, 121.0, 248.0), Crossing("linear_probe", "lora", 118.0, None, 201.0)],
)


@pytest.fixture
def curved(board: Leaderboard) -> Leaderboard:
    return replace(board, learning_curves=CURVES, advice=["From 100 to 400 labels full gained 1 < 2 points."])


def test_winners_and_crossings_are_told(curved: Leaderboard) -> None:
    assert in_words(curved) == [
        "Best by the held-out labels: linear_probe with 25 to 100 labels (test accuracy 80.0 % to 85.0 %); full with "
        "400 labels (test accuracy 97.0 %). With 100 or 400 labels the test part does not tell "
        "the best from every other method.",
        "full overtakes linear_probe at about 160 labels (95 % interval from 120 to 250).",
        "Where means cross, but the two are not told apart on both sides: lora over linear_probe at about 120.",
    ]
    assert in_words(replace(curved, learning_curves=None)) == []


def test_the_report_has_plot_table_and_advice(curved: Leaderboard, board: Leaderboard) -> None:
    page = render(curved)
    assert_sound(page)
    text = text_of(page)
    for words in ("How many labels", "full overtakes linear_probe", "97.0 %", "± 2.0 points", "What to take from it"):
        assert words in text, words
    assert "1 &lt; 2 points" in page
    assert 'aria-label="test accuracy (%) over the number of labels of full, linear_probe, lora"' in page
    assert "lies within the next larger one" in text
    without = text_of(render(board))
    assert "How many labels" not in without and "What to take from it" not in without


def test_wide_intervals_do_not_flatten_the_curves() -> None:
    points = [CurvePoint(labels, mean, mean - 1.3, mean + 1.3, [0, 1], [mean - 0.1, mean + 0.1])
              for labels, mean in ((20, 0.6), (80, 0.8))]  # fmt: skip
    low, high = heights(replace(CURVES, curves=[Curve("lora", points)]), 100)
    assert low == pytest.approx(10 - 3.6) and high == pytest.approx(100 + 3.6)
    narrow = heights(CURVES, 100)
    assert narrow[0] < 48 and narrow[1] > 99, "where intervals are narrow all of them are seen"


def test_names_at_the_ends_of_lines_keep_apart() -> None:
    assert apart([10, 50, 90], 12, 0, 100) == [10, 50, 90]
    assert apart([50, 51], 12, 0, 100) == pytest.approx([44.5, 56.5])
    found = apart([99, 98, 97, 20], 12, 0, 100)
    assert found == pytest.approx([100, 88, 76, 20])
    crowded = sorted(apart([50 + 0.1 * i for i in range(9)], 12, 0, 100))
    assert all(b - a == pytest.approx(12) for a, b in pairwise(crowded))
