"""Predictions of files, one by one or as a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bequest.api.inputs import watching
from bequest.api.runs import Run
from bequest.core.checks import check_count
from bequest.core.errors import DataError
from bequest.core.observe import Observer
from bequest.data.inputs import Inputs, read_inputs
from bequest.data.output import check_rows_suffix, write_rows
from bequest.engine.adapted import AdaptedModel, AnyPrediction, load
from bequest.engine.predicting import Predictor, result_cells, result_columns


@dataclass(frozen=True)
class PredictionFile:
    """A file of predictions.

    Attributes:
        path: Where it lies.
        num_samples: Its rows.
        num_skipped: Samples that could not be read and were left out.
    """

    path: Path
    num_samples: int
    num_skipped: int


Asked = str | Path | Sequence[str | Path]
"""Files, folders, tables; `-` is standard input."""


def predict_each(
    run: str | Path | Run | AdaptedModel,
    inputs: Asked,
    *,
    text_column: str | None = None,
    image_column: str | None = None,
    encoding: str = "utf-8",
    batch_size: int = 32,
    skip_unreadable: bool = False,
    observer: Observer | None = None,
    progress: bool = True,
) -> Iterator[tuple[str, AnyPrediction]]:
    """What a model says of every sample in files, one after another; a few batches are in memory at a time.

    Args:
        run: A run, its folder or a saved model's, or a model.
        inputs: Images, or text files, each one text; folders, of which all images or .txt files below are taken; tables
            (.csv, .tsv, .jsonl, .json, .parquet) with a sample a row; or `-` for standard input, with a text, an
            image's path or a JSON object a line.
        text_column: A table's column of texts; None to recognise it.
        image_column: A table's column of paths of images; None to recognise it.
        encoding: Of text files.
        batch_size: Samples in a forward pass.
        skip_unreadable: Leave out samples that cannot be read, and say which; otherwise the first one is an error.
        observer: As for `compare`.
        progress: As for `compare`.

    Yields:
        What the sample is called, and the prediction.

    Raises:
        bequest.core.errors.BequestError: One of its kinds: there is no model or no such file, or a sample cannot be
            read.
    """
    model = _model(run)
    found = _inputs(model, inputs, text_column, image_column, encoding)
    with watching(observer, progress) as watcher:
        predictor = Predictor(model, watcher, check_count("--batch-size", batch_size, 1), skip_unreadable)
        for item, prediction in predictor.predictions(found):
            yield item.place, prediction


def predict_file(
    run: str | Path | Run | AdaptedModel,
    inputs: Asked,
    out: str | Path,
    *,
    probabilities: bool = False,
    text_column: str | None = None,
    image_column: str | None = None,
    encoding: str = "utf-8",
    batch_size: int = 32,
    skip_unreadable: bool = False,
    observer: Observer | None = None,
    progress: bool = True,
) -> PredictionFile:
    """Write what a model says of every sample into a file, one row a sample.

    Rows of tables keep their columns; of other samples the column `input` says where they lie. Added are `predicted`
    and, of a classification, `probability`; of several labels those that are above one half with `|` between, and every
    one's as `probability:<label>`; of several targets `predicted:<target>`.

    Args:
        run: As for `predict_each`.
        inputs: As for `predict_each`.
        out: A file that ends in .csv, .tsv, .jsonl or .parquet.
        probabilities: Whether to add every class's probability as `probability:<class>`.
        text_column: As for `predict_each`.
        image_column: As for `predict_each`.
        encoding: As for `predict_each`.
        batch_size: As for `predict_each`.
        skip_unreadable: As for `predict_each`.
        observer: As for `compare`.
        progress: As for `compare`.

    Raises:
        bequest.core.errors.BequestError: As for `predict_each`; or a table has a column of an added one's name, or the
            file cannot be written.
    """
    path = Path(out)
    check_rows_suffix(path)
    model = _model(run)
    found = _inputs(model, inputs, text_column, image_column, encoding)
    added = result_columns(model, probabilities=probabilities)
    taken = [name for name in added if name in found.columns]
    if taken:
        raise DataError(
            f"The data have a column {taken[0]!r} already; expected none of {', '.join(added[:3])}. Rename it."
        )
    with watching(observer, progress) as watcher:
        predictor = Predictor(model, watcher, check_count("--batch-size", batch_size, 1), skip_unreadable)
        rows = (
            [*map(item.cells.get, found.columns), *result_cells(prediction, probabilities=probabilities)]
            for item, prediction in predictor.predictions(found)
        )
        count = write_rows([*found.columns, *added], rows, path)
    return PredictionFile(path, count, len(found.items) - count)


def _model(run: str | Path | Run | AdaptedModel) -> AdaptedModel:
    if isinstance(run, AdaptedModel):
        return run
    return run.best if isinstance(run, Run) else load(run)


def _inputs(
    model: AdaptedModel, inputs: Asked, text_column: str | None, image_column: str | None, encoding: str
) -> Inputs:
    names = [inputs] if isinstance(inputs, str | Path) else inputs
    columns = {"text_column": text_column, "image_column": image_column}
    return read_inputs(names, model.source.modality, **columns, encoding=encoding, stdin=sys.stdin)
