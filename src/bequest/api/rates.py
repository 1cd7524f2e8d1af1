"""A learning rate by a range test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bequest.api.inputs import DEFAULT_TEST_SIZE, Precision, read_source, read_task, watching
from bequest.comparison.entries import check_modality, enter
from bequest.core.errors import MethodError
from bequest.core.observe import Observer
from bequest.data.labels import TaskChoice
from bequest.engine.context import Context
from bequest.engine.range_test import RangeTest, range_test
from bequest.engine.runtime import choose_runtime
from bequest.engine.store import Store
from bequest.engine.windows import divided
from bequest.nn.weight_selection import Selection
from bequest.sources import Source

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class RateSuggestion:
    """What a learning-rate range test suggests.

    Attributes:
        method: The method's name.
        settings: `learning_rate` and `head_learning_rate`, for `adapt` and `compare`.
        test: What each step saw.
    """

    method: str
    settings: dict[str, float]
    test: RangeTest

    def write_plot(self, path: str | Path) -> None:
        """Draw loss by rate into an SVG file."""
        from bequest.core.results import atomic_open
        from bequest.report.plots import learning_rates
        from bequest.report.svg import standalone

        test = self.test
        drawing = learning_rates(test.rates, test.losses, test.smoothed, test.suggestion, self.method)
        with atomic_open(Path(path)) as file:
            file.write(standalone(drawing).encode())


def suggest_learning_rate(
    data: Any,
    source: str | Source | nn.Module,
    method: str = "full",
    *,
    start: float = 1e-7,
    end: float = 1.0,
    num_steps: int = 100,
    seed: int = 0,
    train_size: int | None = None,
    test_size: int | float = DEFAULT_TEST_SIZE,
    split_seed: int = 0,
    task: TaskChoice = "auto",
    text_column: str | None = None,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    split_column: str | None = None,
    group_column: str | None = None,
    encoding: str = "utf-8",
    skip_bad: bool = False,
    max_tokens: int | None = None,
    image_size: int | None = None,
    source_head: str | None = None,
    pooling: str | None = None,
    cut_at: str | None = None,
    adapter: str | Path | None = None,
    init_from: str | None = None,
    init_layers: int | None = None,
    init_width: int | None = None,
    selection: Selection | None = None,
    precision: Precision = "auto",
    cache: str | Path | None = None,
    observer: Observer | None = None,
    progress: bool = True,
    **hyperparameters: Any,
) -> RateSuggestion:
    """Train a method for some steps at rates that rise geometrically, and suggest the rate where the loss falls best.

    A range test (Smith 2017, arXiv:1506.01186) of the method's last training stage. It ends when the smoothed loss has
    come to four times its lowest. The suggestion is the middle of the longest stretch over which the smoothed loss
    falls, rounded to two digits. The head's rate keeps its proportion to the body's. The network is not kept.

    Args:
        data: As for `compare`.
        source: As for `compare`.
        method: The method's name.
        start: First rate of the body.
        end: Rate of the last step.
        num_steps: Optimizer steps, 20 or more.
        seed: As for `adapt`.
        train_size: As for `compare`.
        test_size: As for `compare`; what is drawn for the test is left out.
        split_seed: As for `compare`.
        task: As for `compare`.
        text_column: As for `compare`.
        image_column: As for `compare`.
        label_column: As for `compare`.
        split_column: As for `compare`.
        group_column: As for `compare`.
        encoding: As for `compare`.
        skip_bad: As for `compare`.
        max_tokens: As for `compare`.
        image_size: As for `compare`.
        source_head: As for `compare`.
        pooling: As for `compare`.
        cut_at: As for `compare`.
        adapter: As for `compare`.
        init_from: As for `compare`.
        init_layers: As for `compare`.
        init_width: As for `compare`.
        selection: As for `compare`.
        precision: As for `compare`.
        cache: As for `compare`.
        observer: As for `compare`.
        progress: As for `compare`.
        **hyperparameters: Of the method, e.g. `batch_size=8`.

    Raises:
        bequest.core.errors.BequestError: One of its kinds, as for `compare`; the loss falls at no rate.
    """
    columns = {
        "text_column": text_column,
        "image_column": image_column,
        "label_column": label_column,
        "split_column": split_column,
        "group_column": group_column,
    }
    loaded = read_task(data, task, {**columns, "encoding": encoding, "skip_bad": skip_bad})
    source = read_source(
        source,
        loaded,
        max_tokens,
        image_size,
        source_head,
        pooling,
        cut_at,
        adapter=adapter,
        init_from=init_from,
        init_layers=init_layers,
        init_width=init_width,
        selection=selection,
    )
    check_modality(loaded, source)
    loaded = divided(loaded, source)
    [entry] = enter([method], {method: hyperparameters}, source, loaded)
    missing = {"learning_rate", "head_learning_rate"} - entry.settings.keys()
    if missing:
        raise MethodError(f"{method} has no learning rate to suggest; expected a method that trains, e.g. full.")
    with watching(observer, progress) as watcher:
        context = Context(
            source, loaded, Store(Path(cache)) if cache is not None else Store(), choose_runtime(precision), watcher
        )
        test = range_test(
            context,
            entry.method,
            loaded.draw(seed, train_size=train_size, test_size=test_size, split_seed=split_seed),
            seed=seed,
            learning_rate=entry.settings["learning_rate"],
            start=start,
            end=end,
            num_steps=num_steps,
        )
    factor = test.suggestion / entry.settings["learning_rate"]
    rates = ("learning_rate", "head_learning_rate")
    return RateSuggestion(method, {name: float(f"{entry.settings[name] * factor:.2g}") for name in rates}, test)
