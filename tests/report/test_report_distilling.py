"""Teacher against student, in words and as softened outputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from bequest.core.distillation import AGREEMENT
from bequest.core.results import WORST_GROUP, Interval, Leaderboard, Row
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


def test_a_ranking_by_the_worst_group_changes_no_score_in_it(distilled: Leaderboard) -> None:
    """A teacher's score is the metric's, and nothing else can be held against it."""
    worse = Interval(0.5, None, 1, [0.5])
    rows = [replace(row, metrics={**row.metrics, WORST_GROUP: worse}) for row in distilled.rows]
    rows = [replace(row, validation_worst_group=worse) for row in rows]
    ranked = replace(distilled, rows=rows, protocol={**distilled.protocol, "select_by": "worst-group"})
    assert distilling.in_words(ranked) == distilling.in_words(distilled)


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        (6_000_000, "6.0 M parameters, as many as the teacher;"),
        (5_900_000, "5.9 M parameters, about as many as the teacher;"),
        (9_000_000, "9.0 M parameters, 1.5 times the teacher's;"),
    ],
)
def test_a_student_as_large_as_its_teacher(distilled: Leaderboard, parameters: int, told: str) -> None:
    board = replace(distilled, source={**distilled.source, "parameters": parameters})
    assert told in distilling.in_words(board)[1]


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


@pytest.fixture
def swept(distilled: Leaderboard) -> Leaderboard:
    """The same at three temperatures: 84, 86 and 82 % on test, of which validation finds the second best."""
    plain, taught = distilled.rows if distilled.rows[0].method == "full" else distilled.rows[::-1]

    def at(rho: float, test: float, validation: float) -> Row:
        score = {"test": Interval(test, 0.01, 3, [test] * 3), "validation": Interval(validation, 0.01, 3, [])}
        return replace(taught, method=f"full, distilled at {rho:g}", settings={"temperature": rho}, **score)

    rows = [at(4.0, 0.86, 0.95), at(8.0, 0.82, 0.94), at(1.0, 0.84, 0.93), plain]
    return replace(distilled, rows=rows, trials=[])


def test_of_a_sweep_the_best_is_told_and_all_are_drawn(swept: Leaderboard) -> None:
    told = distilling.in_words(swept)[1]
    assert told.startswith("Student small by full: 86.0 % with the teacher, 80.0 % without (+6.0 points;")
    assert told.endswith("That is at ρ = 4, best by validation of 1, 4, 8; on test they go from 82.0 % to 86.0 %.")
    found = distilling.sweep(swept)
    assert found is not None and found["teacher"] == 0.9
    assert found["methods"] == {
        "full": {"plain": 0.8, "rows": [(1.0, 0.84, 0.01), (4.0, 0.86, 0.01), (8.0, 0.82, 0.01)]}
    }
    page = render(swept)
    assert "What the temperature is worth" in page and page.count("over the temperature of full, distilled") >= 2


def test_one_temperature_is_no_sweep(distilled: Leaderboard) -> None:
    assert distilling.sweep(distilled) is None
    assert "What the temperature is worth" not in render(distilled)
