"""Which source and layer suit the data, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bequest.api.inputs import DEFAULT_TEST_SIZE, Precision, default_folder, read_task, refuse_language, watching, words
from bequest.comparison.probe import PAGE_FILE, choose
from bequest.comparison.probe import probe as run_probe
from bequest.comparison.protocol import Protocol
from bequest.core.checks import check_seed, check_test_size, check_train_size
from bequest.core.observe import Observer
from bequest.core.probing import LayerRow, ProbeRecord
from bequest.data.labels import TaskChoice
from bequest.engine.store import Store
from bequest.sources import Source

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Probe:
    """A finished probe.

    Attributes:
        folder: Where everything lies.
        record: What was measured.
    """

    folder: Path
    record: ProbeRecord

    @property
    def rows(self) -> list[LayerRow]:
        """One a layer of a source, best first."""
        return self.record.rows

    @property
    def best(self) -> LayerRow:
        """The first row."""
        return self.record.best

    @property
    def report(self) -> Path:
        """The page, one HTML file."""
        return self.folder / PAGE_FILE


def probe(
    data: Any,
    sources: str | Source | nn.Module | Sequence[str | Source | nn.Module],
    *,
    taps: str | Sequence[str] = "layers",
    linear: bool = True,
    seed: int = 0,
    train_size: int | None = None,
    test_size: int | float = DEFAULT_TEST_SIZE,
    split_seed: int = 0,
    out: str | Path | None = None,
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
    precision: Precision = "auto",
    cache: str | Path | None = None,
    observer: Observer | None = None,
    progress: bool = True,
) -> Probe:
    """Say before any training which source, and which of its layers, suits your data, from one pass a source.

    Every layer gets each score that is defined for the task (docs/scores.md) and a linear probe, on the labels that a
    method may see; labels of the test part are not read. docs/probe.md tells how to read the outcome.

    Args:
        data: As for `compare`.
        sources: Names, with commas between where they are one text; or `Source`s and modules.
        taps: `layers` for one tap a step of depth, `all` for every place that can be read, or names of modules, each
            whole or its end; in one text with commas between. The embedding is always among them.
        linear: Whether to fit a linear probe on each layer; False leaves the scores.
        seed: Chooses labels and what is held out, as in `compare`.
        train_size: As for `compare`.
        test_size: As for `compare`; what is drawn for the test is left out.
        split_seed: As for `compare`.
        out: The folder; None for one under `runs/` that is named after the probe.
        task: As for `compare`.
        text_column: As for `compare`.
        image_column: As for `compare`.
        label_column: As for `compare`.
        split_column: As for `compare`.
        group_column: As for `compare`.
        encoding: As for `compare`.
        skip_bad: As for `compare`.
        max_tokens: As for `compare`, of every source.
        image_size: As for `compare`, of every source.
        source_head: As for `compare`, of every source.
        pooling: As for `compare`, of every source.
        cut_at: As for `compare`, of every source.
        precision: As for `compare`.
        cache: As for `compare`.
        observer: As for `compare`.
        progress: As for `compare`.

    Raises:
        bequest.core.errors.BequestError: One of its kinds, as for `compare`.
    """
    chosen, train_size = check_seed("--seed", seed), check_train_size(train_size)
    test_size, split_seed = check_test_size(test_size), check_seed("--split-seed", split_seed)
    columns = {
        "text_column": text_column,
        "image_column": image_column,
        "label_column": label_column,
        "split_column": split_column,
        "group_column": group_column,
    }
    loaded = read_task(data, task, {**columns, "encoding": encoding, "skip_bad": skip_bad})
    refuse_language(loaded, "probe")
    options = {"max_tokens": max_tokens, "image_size": image_size, "head": source_head}
    candidates = choose(
        words(sources) if isinstance(sources, str) else sources if isinstance(sources, Sequence) else [sources],
        loaded,
        taps if taps in ("layers", "all") else words(taps) if isinstance(taps, str) else taps,
        {**options, "pooling": pooling, "cut_at": cut_at},
    )
    protocol = Protocol((chosen,), train_size, test_size, split_seed, precision)
    recorded = {
        "data": loaded.origin,
        "sources": [c.source.request or {"name": c.source.name} for c in candidates],
        "taps": taps if isinstance(taps, str) else list(taps),
        "linear": linear,
        "seed": chosen,
        "train_size": train_size,
        "test_size": test_size,
        "split_seed": split_seed,
        "precision": precision,
    }
    names = "-".join(c.source.name for c in candidates[:3])
    folder = Path(out) if out is not None else default_folder(loaded, f"probe-{names}", recorded)
    with watching(observer, progress) as watcher:
        record = run_probe(
            loaded,
            candidates,
            protocol,
            folder,
            watcher,
            linear=linear,
            store=Store(Path(cache) if cache is not None else None, note=watcher.note),
            settings=recorded,
            report=_write_page,
        )
    return Probe(folder, record)


def _write_page(record: ProbeRecord, folder: Path) -> None:
    from bequest.report.probing import write

    write(record, folder / PAGE_FILE)
