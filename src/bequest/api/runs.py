"""What a comparison leaves behind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bequest.comparison.folder import BEST, REPORT_FILE
from bequest.core.results import Leaderboard
from bequest.core.task import Task
from bequest.engine.adapted import AdaptedModel, AnyPrediction, load
from bequest.sources import Source


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: Where everything lies.
        board: The leaderboard.
    """

    folder: Path
    board: Leaderboard
    _source: Source | None = None
    _task: Task | None = None

    @cached_property
    def best(self) -> AdaptedModel:
        """The best method's median seed by validation, loaded from the folder."""
        source = self._source
        return load(self.folder / BEST, source=source if source is not None and not source.description else None)

    @property
    def report(self) -> Path:
        """The report, one HTML file."""
        return self.folder / REPORT_FILE

    def predict(self, inputs: Iterable[Any]) -> list[AnyPrediction]:
        """Predictions of the best model, one a sample. See `AdaptedModel.predict`."""
        return self.best.predict(inputs)
