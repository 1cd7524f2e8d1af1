"""Which method wins at which number of labels: records of what a comparison at several numbers measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CurvePoint:
    """A method at one number of labels.

    Attributes:
        labels: How many it saw before the test.
        mean: Of the metric on the test part, over the seeds.
        low: Lower end of the mean's t-interval at 95 %; None with one seed, or where all are equal.
        high: Upper end of it.
        seeds: Those that ended well.
        values: The metric of each.
    """

    labels: int
    mean: float
    low: float | None
    high: float | None
    seeds: list[int]
    values: list[float]


@dataclass(frozen=True)
class Curve:
    """A method over the numbers of labels.

    Attributes:
        method: Its row's name.
        points: Fewest labels first; those at which it ended well with some seed.
    """

    method: str
    points: list[CurvePoint]


@dataclass(frozen=True)
class Crossing:
    """Where the means of two methods change places.

    Attributes:
        behind: The method that is ahead with fewer labels, and then falls behind.
        ahead: The method that overtakes it.
        labels: Where, by interpolation over the logarithm of the number of labels.
        low: With no more labels than that, `behind` is told to be ahead; None where it never is.
        high: With no fewer labels than that, `ahead` is told to be ahead; None where it never is.
    """

    behind: str
    ahead: str
    labels: float
    low: float | None
    high: float | None

    @property
    def is_told(self) -> bool:
        """Whether the two are told apart on both sides."""
        return self.low is not None and self.high is not None


@dataclass(frozen=True)
class Winner:
    """The best method at one number of labels.

    Attributes:
        labels: The number.
        method: The best by the score on held-out labels that ranks the rows.
        alike: Methods that the test part does not tell apart from it, as the leaderboard at that number says.
    """

    labels: int
    method: str
    alike: list[str]


@dataclass(frozen=True)
class LearningCurves:
    """A comparison at several numbers of labels, on the same test part.

    Attributes:
        metric: What is compared.
        higher_is_better: Its direction.
        sizes: The numbers of labels, fewest first.
        nested: Whether with every seed each set of labels lies within the next larger one.
        curves: One a method, in the order of the rows at the largest number.
        winners: One a number of labels at which some method ended well.
        crossings: Of every two methods, fewest labels first.
    """

    metric: str
    higher_is_better: bool
    sizes: list[int]
    nested: bool
    curves: list[Curve]
    winners: list[Winner]
    crossings: list[Crossing]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> LearningCurves:
        """The record that `asdict` made `data` of."""
        curves = [Curve(c["method"], [CurvePoint(**point) for point in c["points"]]) for c in data["curves"]]
        winners, crossings = [Winner(**w) for w in data["winners"]], [Crossing(**c) for c in data["crossings"]]
        values: dict[str, Any] = {**data, "curves": curves, "winners": winners, "crossings": crossings}
        return cls(**values)
