"""Scores by name: registered by one decorator, found in this package, and computed all at once."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar

import numpy as np

from bequest.core.errors import DataError, MethodError, nearest
from bequest.core.task import Kind
from bequest.scores.design import Array, Design

Needs = Literal["features", "probabilities"]
_F = TypeVar("_F", bound=Callable[..., float])
_SCORES: dict[str, ScoreInfo] = {}


@dataclass(frozen=True)
class ScoreInfo:
    """A registered score; the higher, the better the source or layer is said to suit the task.

    Attributes:
        name: As users write it.
        paper: Where it comes from.
        needs: Its first argument: `features` stands for a `Design`, `probabilities` for those that the source's own
            head gives to its classes (samples, source classes).
        kinds: The tasks that it is defined for.
        function: (design or probabilities, labels) → one float.
    """

    name: str
    paper: str
    needs: Needs
    kinds: tuple[Kind, ...]
    function: Callable[..., float]

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self.function) or "").split("\n", 1)[0]


def score(name: str, *, paper: str, needs: Needs, kinds: tuple[Kind, ...] = ("classification",)) -> Callable[[_F], _F]:
    """Register a function (design or probabilities, labels) → float as a score.

    Args:
        name: As users write it.
        paper: Where it comes from.
        needs: What its first argument is.
        kinds: The tasks that it is defined for. Labels are (samples,) classes for classification, else
            (samples, targets).

    Raises:
        MethodError: Another function has that name.
    """

    def register(function: _F) -> _F:
        other = _SCORES.get(name)
        if other and _path(other.function) != _path(function):
            raise MethodError(
                f"Two scores are called {name!r}: {_path(other.function)} and {_path(function)}. Rename one of them."
            )
        _SCORES[name] = ScoreInfo(name, paper, needs, kinds, function)
        return function

    return register


def scores() -> dict[str, ScoreInfo]:
    """Every score by name, in alphabetical order."""
    _discover()
    return dict(sorted(_SCORES.items()))


def get_score(name: str) -> ScoreInfo:
    """The score of that name.

    Raises:
        MethodError: There is none; the text names the nearest ones.
    """
    known = scores()
    if name not in known:
        raise MethodError(f"There is no score {name!r}. {nearest(name, known)}")
    return known[name]


def score_all(
    features: Array, labels: Array, *, num_classes: int, kind: Kind, probabilities: Array | None = None
) -> dict[str, float | None]:
    """Every score of one layer's features by name; what several of them need is computed once.

    None stands for a score that is not defined for the kind of task, or that needs probabilities where there are none.

    Args:
        features: (samples, width), of any float type; may be memory-mapped, and is read in blocks.
        labels: (samples,) whole numbers below `num_classes`, or (samples, targets).
        num_classes: Of the task; for other kinds the number of targets. Classes without a sample count nowhere.
        kind: Of the task.
        probabilities: (samples, source classes), rows that sum to 1, from the source's own head.

    Raises:
        DataError: Shapes that do not match, values that are no numbers, labels out of range, or fewer than two classes.
    """
    _check_features(features)
    _check_labels(labels, len(features), num_classes, kind)
    if probabilities is not None:
        _check_probabilities(probabilities, len(features))
    inputs = {"features": Design(features), "probabilities": probabilities}
    return {
        name: float(info.function(inputs[info.needs], labels))
        if kind in info.kinds and inputs[info.needs] is not None
        else None
        for name, info in scores().items()
    }


@cache
def _discover() -> None:
    package = importlib.import_module("bequest.scores")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"bequest.scores.{module.name}")


def _path(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _check_features(features: Array) -> None:
    if features.ndim != 2 or min(features.shape) < 1 or len(features) < 2:
        raise DataError(
            f"The features have shape {features.shape}, expected (samples, width) with two samples or more. "
            "Pool each sample's activations into one vector."
        )


def _check_labels(labels: Array, num_samples: int, num_classes: int, kind: Kind) -> None:
    expected = (num_samples,) if kind == "classification" else (num_samples, num_classes)
    if labels.shape != expected:
        raise DataError(f"The labels have shape {labels.shape}, expected {expected} for {kind}: one row a sample.")
    if not np.isfinite(labels).all():
        row = int(np.argwhere(~np.isfinite(labels))[0][0])
        raise DataError(f"The label of sample {row} is no finite number. Leave that sample out.")
    if kind != "classification":
        return
    if labels.dtype.kind not in "iu":
        raise DataError(f"The labels are {labels.dtype}, expected whole numbers from 0 to {num_classes - 1}.")
    if labels.min() < 0 or labels.max() >= num_classes:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise DataError(f"A label is {wrong}, expected 0 to {num_classes - 1}. Check the number of classes.")
    if labels.min() == labels.max():
        raise DataError(
            f"All {num_samples} samples have label {labels[0]}: scores compare classes. "
            "Give samples of two classes or more."
        )


def _check_probabilities(probabilities: Array, num_samples: int) -> None:
    if probabilities.ndim != 2 or len(probabilities) != num_samples:
        raise DataError(
            f"The probabilities have shape {probabilities.shape}, expected ({num_samples}, source classes): "
            "one row for each row of features."
        )
    # The comparison is written so that NaN is a fault too.
    good = (probabilities >= 0).all(1) & (np.abs(probabilities.sum(1, dtype=np.float64) - 1) <= 1e-2)
    if not good.all():
        raise DataError(
            f"Row {int(np.argmin(good))} of the probabilities is no distribution: its values must be 0 or more and sum "
            "to 1. Apply softmax to the source's outputs."
        )
