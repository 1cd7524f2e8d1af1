"""From figures, one a seed, to a verdict: the 95 % t-interval of a mean, most often of paired differences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from bequest.core.intervals import t_interval
from bequest.core.results import atomic_open

Verdict = Literal["holds", "does not hold", "undecided"]


@dataclass(frozen=True)
class Finding:
    """A statement that was put to the test.

    Attributes:
        statement: What is claimed.
        figure: What was measured, with its interval where there is one.
        seeds: How many it rests on.
        verdict: What follows.
    """

    statement: str
    figure: str
    seeds: int
    verdict: Verdict

    def __str__(self) -> str:
        seeds = "one seed" if self.seeds == 1 else f"{self.seeds} seeds"
        return f"{self.statement}: {self.figure}, {seeds}: {self.verdict}"


@dataclass(frozen=True)
class Chart:
    """What a claim's drawing shows.

    Attributes:
        unit: Of the values, for the axis.
        values: By row, then by series, one value a seed.
    """

    unit: str
    values: Mapping[str, Mapping[str, Sequence[float]]]


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and half the width of the 95 % t-interval; None with one value, or where all are equal."""
    ends = t_interval(values)
    return mean(values), None if ends is None else (ends[1] - ends[0]) / 2


def above(statement: str, values: Sequence[float], least: float, unit: str = "points") -> Finding:
    """Whether the mean lies above `least`: its interval wholly above, wholly below, or neither.

    Without an interval nothing is decided: one seed, or equal values, do not say how much they would vary.
    """
    middle, half = interval(values)
    verdict: Verdict = "undecided"
    if half is not None and middle - half > least:
        verdict = "holds"
    elif half is not None and middle + half < least:
        verdict = "does not hold"
    spread = "" if half is None else f" ± {half:.1f}"
    bound = "" if least == 0 else f" (more than {least:g})".replace("-", "−")
    sign = "+" if unit == "points" else ""
    figure = f"{middle:{sign}.1f}{spread} {unit}".replace("-", "−")
    return Finding(f"{statement}{bound}", figure, len(values), verdict)


def gain(statement: str, scores: Sequence[float], others: Sequence[float], least: float = 0.0) -> Finding:
    """Whether scores are more than `least` points above others, paired by seed; scores are fractions."""
    return above(statement, [100 * (a - b) for a, b in zip(scores, others, strict=True)], least)


def fact(statement: str, held: bool, figure: str, seeds: int = 1) -> Finding:
    """A statement that each run shows by itself, without a spread."""
    return Finding(statement, figure, seeds, "holds" if held else "does not hold")


def percent(values: Sequence[float]) -> list[float]:
    """Fractions as points."""
    return [100 * value for value in values]


def write(path: Path, result: dict[str, Any], findings: Sequence[Finding] = ()) -> None:
    """Keep a claim's figures as JSON, with its verdicts in words where there are any, and print these."""
    if findings:
        result = {**result, "verdicts": [str(finding) for finding in findings]}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_open(path) as file:
        file.write((json.dumps(result, indent=1, ensure_ascii=False) + "\n").encode())
    for finding in findings:
        print(finding, flush=True)
