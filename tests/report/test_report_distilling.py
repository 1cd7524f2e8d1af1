"""Teacher against student, in words and as softened outputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from bequest.core.distillation import AGREEMENT
from bequest.core.results import Interval, Leaderboard
from bequest.report import distilling
from bequest.report.html import render
from bequest.report.verdict import sentences

Make = Callable[..., Leaderboard]


@pytest.fixture
def distilled(make: Make) -> Leaderboard:
    """`full` at 80 % alone and 86 % with a teacher of 90 %, which runs half as fast."""
    board = make(["full", "full, distilled"], 1)

    def one(value: float) -> Interval:
        return Interval(value, None, 1, [value])

    scores = {"full": (0.80, 0.75), "full, distilled": (0.86, 0.95)}
    rows = [
        replace(
            row,
            test=one(scores[row.method][0]),
            metrics={AGREEMENT: one(scores[row.method][1])},
            inference_per_s=200.0,
        )
        for row in board.rows
    ]
    teacher = {
        "names": ["runs/teacher"],
        "test": 0.9,
        "test_loss": 0.3,
        "parameters": 6_000_000,
        "bytes": 24_000_000,
        "inference_per_s": 100.0,
        "examples": [{"sample": "a.jpg", "label": board.task["classes"][1], "logits": [4.0, 2.0, 0.0, -2.0, -9.0]}],
    }
    source = {**board.source, "name": "small", "parameters": 2_000_000}
    return replace(board, rows=rows, source=source, protocol={**board.protocol, "teacher": teacher})


def test_the_gap_the_agreement_and_the_costs_are_told(distilled: Leaderboard) -> None:
    teacher, student = distilling.in_words(distilled)
    assert teacher == "Teacher runs/teacher: test accuracy 90.0 %, 6.0 M parameters, 24.0 MB, 100 /s."
    assert student == (
        "Student small by full: 86.0 % with the teacher, 80.0 % without (+6.0 points; 60 % of the gap to the "
        "teacher). It agrees with the teacher on 95.0 % of the test samples, without it on 75.0 %. It has 2.0 M "
        "parameters, 3.0 times fewer; and runs 200 /s, 2.0 times the teacher's speed."
    )
    assert sentences(distilled)[-2:] == [teacher, student]


def test_without_a_gap_no_share_of_it_is_told(distilled: Leaderboard) -> None:
    level = {**distilled.protocol["teacher"], "test": 0.80}
    board = replace(distilled, protocol={**distilled.protocol, "teacher": level})
    assert "80.0 % without (+6.0 points). It agrees" in distilling.in_words(board)[1]


def test_nothing_is_said_where_nothing_was_distilled(make: Make) -> None:
    board = make(["full"], 1)
    assert distilling.in_words(board) == []
    assert distilling.similarities(board) is None


def test_softened_outputs_of_the_largest_classes(distilled: Leaderboard) -> None:
    found = distilling.similarities(distilled)
    assert found
    [sample] = found["samples"]
    classes = distilled.task["classes"]
    assert sample["classes"] == [str(name) for name in classes[:4]]
    assert [row["temperature"] for row in sample["rows"]] == ["1", "2", "4", "8"]
    powers = [math.exp(z / 4) for z in (4.0, 2.0, 0.0, -2.0, -9.0)]
    assert sample["rows"][2]["shares"] == [f"{100 * power / sum(powers):.1f} %" for power in powers[:4]]
    assert "Which classes the teacher finds similar" in render(distilled)
