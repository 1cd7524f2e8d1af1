"""Records of single test samples: what the best model gets wrong, and where methods disagree."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from bequest.core.errors import RunError


@dataclass(frozen=True)
class Shown:
    """A test sample as a page can show it.

    Attributes:
        place: Where it came from: a file, or a row of one.
        true: Its class, its labels with commas between, or its targets' values.
        text: Its text, cut where it is long, or the first numbers of an array; empty for an image.
        image: A small copy of an image as a `data:` address; empty otherwise.
    """

    place: str
    true: str
    text: str = ""
    image: str = ""


@dataclass(frozen=True)
class Mistake:
    """A test sample that the best model gets wrong.

    Attributes:
        sample: The sample.
        taken: What the model said, as `Shown.true`.
        probability: Of the class that it said, of several labels of the one that it is surest of and wrong about; None
            for a regression.
    """

    sample: Shown
    taken: str
    probability: float | None


@dataclass(frozen=True)
class Split:
    """A test sample on which methods are divided.

    Attributes:
        sample: The sample.
        answers: Methods by what they say, as `Shown.true`; the answer of most comes first.
    """

    sample: Shown
    answers: dict[str, list[str]]


@dataclass(frozen=True)
class Examples:
    """Single samples of a run's test part.

    Attributes:
        method: The best method.
        seed: Its median seed, whose model `mistakes` are of.
        tested: Samples of the test part.
        wrong: Those that the model gets wrong; None for a regression.
        mistakes: The surest ones of them, of a regression the largest errors; that first.
        methods: Whose answers are compared; empty where there is nothing to compare.
        seeds: Over how many seeds.
        disagreement: Share of the test part of which two methods say different things, mean over the seeds that both
            finished, 0 to 1 (methods × methods); None where they share no seed.
        splits: Samples on which the methods' median seeds are divided most; that first.
    """

    method: str
    seed: int
    tested: int
    wrong: int | None
    mistakes: list[Mistake]
    methods: list[str]
    seeds: int
    disagreement: list[list[float | None]]
    splits: list[Split]

    def to_json(self) -> dict[str, Any]:
        """Plain lists, dicts, numbers and strings."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Examples:
        """The record that `to_json` made `data` of.

        Raises:
            RunError: `data` has other fields than this version's.
        """
        try:
            values: dict[str, Any] = {
                **data,
                "mistakes": [Mistake(**_with_sample(found)) for found in data["mistakes"]],
                "splits": [Split(**_with_sample(found)) for found in data["splits"]],
            }
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise RunError(
                f"These are not examples that this version of bequest wrote ({error}). Read them with the version that "
                "wrote them, or run again."
            ) from error


def _with_sample(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "sample": Shown(**data["sample"])}
