"""Crossings of learning curves, worked out by hand; whole comparisons at several numbers of labels."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import bequest
from bequest.comparison.learning_curves import crossings_of
from bequest.core.errors import DataError
from bequest.core.learning_curves import Curve, CurvePoint, LearningCurves

SETTINGS = {"full": {"epochs": 1, "learning_rate": 1e-3}}


def curve(method: str, *points: Sequence[float], sizes: Sequence[int] = (25, 100, 400)) -> Curve:
    """A curve with one value a seed at each size."""
    return Curve(
        method,
        [
            CurvePoint(size, sum(values) / len(values), None, None, list(range(len(values))), list(values))
            for size, values in zip(sizes, points, strict=False)
        ],
    )


FLAT = curve("flat", [0.80, 0.81, 0.82], [0.80, 0.81, 0.82], [0.80, 0.81, 0.82])
RISING = curve("rising", [0.70, 0.712, 0.719], [0.781, 0.79, 0.801], [0.86, 0.87, 0.881])


def test_a_crossing_is_interpolated_over_the_logarithm() -> None:
    [found] = crossings_of(FLAT, RISING)
    assert (found.behind, found.ahead) == ("flat", "rising")
    before, after = 0.81 - 2.372 / 3, 2.611 / 3 - 0.81
    assert found.labels == pytest.approx(100 * 4 ** (before / (before + after)))
    assert crossings_of(RISING, FLAT) == [found], "in whichever order they are given"


def test_within_the_interval_of_a_crossing_nothing_is_told() -> None:
    [found] = crossings_of(FLAT, RISING)
    assert found.is_told and found.low is not None and found.high is not None
    assert 100 < found.low < found.labels < found.high < 400
    # With differences of ± 0.001 over three seeds the interval is narrow, with those of ± 0.02 there is none.
    noisy = curve("noisy", [0.66, 0.80, 0.67], [0.80, 0.75, 0.82], [0.80, 0.95, 0.86])
    [found] = crossings_of(FLAT, noisy)
    assert not found.is_told


def test_curves_that_cross_twice_have_an_interval_for_each_crossing() -> None:
    bulging = curve("bulging", [0.70, 0.71, 0.72], [0.86, 0.871, 0.882], [0.7, 0.712, 0.72])
    first, second = crossings_of(FLAT, bulging)
    assert (first.behind, first.ahead, second.behind, second.ahead) == ("flat", "bulging", "bulging", "flat")
    assert first.is_told and second.is_told
    assert first.low and first.high and second.low and second.high
    assert 25 < first.low < first.labels < first.high < 100 < second.low < second.labels < second.high < 400


def test_where_nothing_crosses_or_nothing_can_be_paired_there_is_none() -> None:
    lower = curve("lower", [0.7, 0.7, 0.7], [0.7, 0.7, 0.7], [0.7, 0.7, 0.7])
    assert crossings_of(FLAT, lower) == []
    other = Curve("other", [CurvePoint(400, 0.9, None, None, [7], [0.9])])
    assert crossings_of(FLAT, other) == []
    [single] = crossings_of(curve("a", [0.8], [0.8], [0.8]), curve("b", [0.7], [0.9], [0.9]))
    assert single.labels == pytest.approx(math.sqrt(25 * 100)) and not single.is_told, "one seed tells nothing"


def test_where_lower_is_better_the_lower_one_overtakes() -> None:
    [found] = crossings_of(RISING, FLAT, sign=-1)
    assert (found.behind, found.ahead) == ("rising", "flat")


def compare(tiny_sources: Any, tiny_tasks: Any, out: Path, **changes: Any) -> bequest.Run:
    given = {"settings": SETTINGS, "seeds": 2, "test_size": 30, "progress": False, "cache": out.parent / "cache"}
    methods = changes.pop("methods", ["linear_probe", "full"])
    return bequest.compare(tiny_tasks["text"], tiny_sources["text"], methods, out=out, **{**given, **changes})


def test_one_folder_holds_the_comparison_at_every_number_of_labels(
    tiny_sources: Any, tiny_tasks: Any, tmp_path: Path
) -> None:
    run = compare(tiny_sources, tiny_tasks, tmp_path / "run", train_sizes=[24, 12, 48])
    found = run.board.learning_curves
    assert found is not None
    assert found.sizes == [12, 24, 48] and found.nested
    assert {curve.method for curve in found.curves} == {"linear_probe", "full"}
    assert [winner.labels for winner in found.winners] == [12, 24, 48]
    assert run.board.protocol["train_size"] == 48
    assert {t.labels for t in run.board.trials} == {48}
    for curve in found.curves:
        assert [point.labels for point in curve.points] == [12, 24, 48]
        tested = [t.test for t in run.board.trials if t.method == curve.method]
        assert curve.points[-1].values == tested
    kept = json.loads((run.folder / "leaderboard.json").read_text())
    assert LearningCurves.from_json(kept["learning_curves"]) == found
    assert kept["advice"] == run.board.advice
    alone = compare(tiny_sources, tiny_tasks, tmp_path / "alone", train_size=12, methods=["linear_probe"], settings={})
    probe = next(curve for curve in found.curves if curve.method == "linear_probe")
    assert probe.points[0].values == [t.test for t in alone.board.trials], "as with that number alone"
    again = compare(tiny_sources, tiny_tasks, tmp_path / "run", train_sizes="12,24,48")
    assert asdict(again.board) == asdict(run.board), "nothing is run again"


def test_sizes_that_make_no_sense_are_refused_before_any_work(
    tiny_sources: Any, tiny_tasks: Any, tmp_path: Path
) -> None:
    for sizes in ("12", "12,x", [12, 12], [0, 12], [12, 2.5]):
        with pytest.raises(DataError, match=r"--train-sizes is .*expected two or more different whole numbers"):
            compare(tiny_sources, tiny_tasks, tmp_path / "run", train_sizes=sizes)
    with pytest.raises(DataError, match="--train-size 12 and --train-sizes are both given"):
        compare(tiny_sources, tiny_tasks, tmp_path / "run", train_sizes="12,24", train_size=12)
    with pytest.raises(DataError, match="--train-sizes asks for 2 labels"):
        compare(tiny_sources, tiny_tasks, tmp_path / "run", train_sizes="2,24")
    assert not (tmp_path / "run").exists()
