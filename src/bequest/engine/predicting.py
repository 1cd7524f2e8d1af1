"""Predictions for more samples than memory holds, and as cells of a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bequest.core.errors import DataError
from bequest.core.observe import Observer
from bequest.data.inputs import Input, Inputs
from bequest.engine.adapted import (
    AdaptedModel,
    AnyPrediction,
    LabelsPrediction,
    TextPrediction,
    ValuesPrediction,
)

_BATCHES = 8
"""That are encoded together, so that texts of like length go through the network together."""


@dataclass(frozen=True)
class Predictor:
    """A model, and how it is asked.

    Attributes:
        model: The model.
        observer: Hears of progress, and of what was left out.
        batch_size: Samples in a forward pass.
        skip_unreadable: Leave out samples that cannot be read, and say which; else the first ends it.
    """

    model: AdaptedModel
    observer: Observer
    batch_size: int = 32
    skip_unreadable: bool = False

    def predictions(self, inputs: Inputs) -> Iterator[tuple[Input, AnyPrediction]]:
        """What the model says of each, in order.

        Raises:
            DataError: A sample cannot be read, and is not to be left out.
        """
        for note in inputs.notes:
            self.observer.note(note)
        size, total = self.batch_size * _BATCHES, len(inputs.items)
        for start in range(0, total, size):
            self.observer.progress("predicting", start, total)
            kept: list[Input] = []
            found = self.model.predict(self._read(inputs.items[start : start + size], kept), batch_size=self.batch_size)
            yield from zip(kept, found, strict=True)
        self.observer.progress("predicting", total, total)

    def _read(self, items: Any, kept: list[Input]) -> Iterator[Any]:
        """The samples that can be read; each is noted as it is asked for, so that one is in memory at a time."""
        for item in items:
            try:
                sample = item.read()
            except DataError as error:
                if not self.skip_unreadable:
                    raise DataError(f"{error} To leave out what cannot be read: --skip-unreadable.") from error
                self.observer.note(f"Left out: {error}")
                continue
            kept.append(item)
            yield sample


def result_columns(model: AdaptedModel, *, probabilities: bool) -> tuple[str, ...]:
    """Names of the columns that predictions fill: `predicted`, `probability`, and of each class where it is asked."""
    each = tuple(f"probability:{name}" for name in model.classes)
    if model.kind == "multi-label":
        return ("predicted", *each)
    if model.kind == "regression" and len(model.classes) > 1:
        return tuple(f"predicted:{name}" for name in model.classes)
    if model.kind == "classification":
        return ("predicted", "probability", *(each if probabilities else ()))
    return ("predicted",)


def result_cells(prediction: AnyPrediction, *, probabilities: bool) -> tuple[Any, ...]:
    """The cells of `result_columns` for one sample; labels of several are joined by `|`."""
    if isinstance(prediction, TextPrediction):
        return (prediction.text,)
    if isinstance(prediction, ValuesPrediction):
        return tuple(prediction.values.values())
    each = tuple(prediction.probabilities.values())
    if isinstance(prediction, LabelsPrediction):
        return ("|".join(prediction.labels), *each)
    return (prediction.label, prediction.probability, *(each if probabilities else ()))
