"""From a path, a Hugging Face dataset or a DataFrame, to a task."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bequest.core.errors import DataError, nearest
from bequest.core.names import is_text, shown
from bequest.core.task import Task
from bequest.data.columns import Columns
from bequest.data.feature_files import MANIFEST, features_task
from bequest.data.folders import read_documents, read_folder, read_paragraphs
from bequest.data.formats import READERS
from bequest.data.frames import frame_table, is_frame
from bequest.data.hub import PREFIX, dataset_name, dataset_table, is_dataset, is_saved, opened_dataset
from bequest.data.labels import TaskChoice, check_task
from bequest.data.tables import Wanted, read_tables, table_files, table_task

_TABLES = ((is_dataset, dataset_table, "dataset"), (is_frame, frame_table, "frame"))
"""Objects from Python that have columns: how each is told, how it is read, and what it is called."""

_EXPECTED = "a folder of class folders, or a table ({})".format(", ".join(suffix for suffix in READERS if suffix))


def is_table(data: Any) -> bool:
    """Whether an object from Python is a table that `load` takes: a Hugging Face dataset or a DataFrame."""
    return any(is_one(data) for is_one, _, _ in _TABLES)


def load(
    path: Any,
    *,
    task: TaskChoice = "auto",
    text_column: str | None = None,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    split_column: str | None = None,
    group_column: str | None = None,
    encoding: str = "utf-8",
    skip_bad: bool = False,
) -> Task:
    """The labelled data at a path.

    One of these:

    - a folder that holds one folder a class, of images or of .txt files, or `train`, `test` and optionally
      `validation` folders that hold those;
    - a table with a line of column names (.csv, .tsv), of JSON objects (.jsonl, .ndjson, .json) or .parquet,
      with a column of texts or of paths of images, and one of labels;
    - a folder of such tables, or a list of them: train.csv, test.jsonl and the like are given parts by their names;
    - for a language model, texts without labels: a .txt file, whose texts are divided at blank lines; a folder with
      .txt files below it, each a text; or a table with a column of texts, or of prompts and completions;
    - a Hugging Face dataset: `hf:NAME`, `hf:NAME:CONFIGURATION`, `hf:FOLDER`, a folder that `save_to_disk` made,
      or a `Dataset` or `DatasetDict` from Python; its splits are the given parts;
    - a DataFrame of pandas;
    - a folder of features that `bequest features` has written as shards: arrays, read memory-mapped, with the labels
      that it found.

    Exact duplicates are reduced to one and content under different labels is dropped; `Task.notes` says so.

    Args:
        path: What to read.
        task: `classification`, `multi-label`, `regression`, or `causal-lm` for texts of which a language model is to
            predict each token. `auto` takes several columns of 0 and 1, lists, and
            cells with `|` between classes that occur otherwise too, for multi-label; numbers that are not whole, and
            more different numbers than 20 and than 5 % of the samples, for regression; a note says so. With
            `multi-label`, cells are divided at `|`, or where none occurs in the column at `;`, or else at `,`.
        text_column: The column of texts; None to recognise it by its name or, of two, by its values. For a language
            model that of prompts, where `label_column` names that of completions.
        image_column: The column of paths of images, from the table's folder or absolute; None to recognise it by its
            name (image, file, path, …) and its values.
        label_column: The column of labels; None to recognise it likewise. Several, with commas between, are one
            class (0 or 1) or one target (a number) each.
        split_column: The column of given parts (train, validation, test); None to take a column `split` if
            it holds nothing else.
        group_column: The column of groups, for worst-group accuracy; None for no groups.
        encoding: Of texts, e.g. `latin-1`. Several with commas between, e.g. `utf-8,latin-1`, are tried in
            turn on each file.
        skip_bad: Leave out images and .txt files that cannot be decoded, and say which. Each image is decoded to
            find out; otherwise only its header is checked, and an image that is cut off is found when it is used.

    Returns:
        The task; its `origin` holds these arguments, so that `load(**origin)` loads it again (empty for objects from
        Python).

    Raises:
        DataError: There is no such path, or its data cannot be used. All faults of one kind are named at
            once.
    """
    check_task(task)
    columns = Columns(text_column, image_column, label_column, split_column, group_column)
    wanted = Wanted(columns, task, skip_bad)
    for is_one, read, name in _TABLES:
        if is_one(path):
            return table_task(read(path, f"the {name}"), name, wanted)
    origin: dict[str, Any] = {
        "path": _whole(path),
        "task": task,
        **{f"{role}_column": value for role, value in vars(columns).items()},
        "encoding": encoding,
        "skip_bad": skip_bad,
    }
    try:
        if isinstance(path, list | tuple):
            return _load_several([Path(p) for p in origin["path"]], wanted, encoding, origin)
        if str(origin["path"]).startswith(PREFIX):
            return _load_dataset(str(origin["path"]).removeprefix(PREFIX), wanted, origin)
        return _load_path(Path(origin["path"]), wanted, encoding, origin)
    except OSError as error:
        raise DataError(
            f"Cannot read {error.filename or path} ({error.strerror or error}); expected data that can be read. Check "
            "permissions."
        ) from error


def _load_path(path: Path, wanted: Wanted, encoding: str, origin: dict[str, Any]) -> Task:
    if not path.exists():
        raise DataError(_missing_message(path))
    for_language = wanted.task == "causal-lm"
    if not path.is_dir():
        if for_language and path.suffix.lower() == ".txt":
            _refuse_columns(path, wanted)
            return read_paragraphs(path, encoding=encoding, origin=origin)
        _check_suffixes([path])
        return read_tables([path], path.stem, wanted, encoding=encoding, origin=origin)
    if is_saved(path):
        return _load_dataset(str(path), wanted, origin)
    if (path / MANIFEST).is_file():
        _refuse_columns(path, wanted)
        return features_task(path, wanted.task, origin)
    tables = _tables_in(path)
    if tables:
        return read_tables(tables, path.name, wanted, encoding=encoding, origin=origin)
    _refuse_columns(path, wanted)
    if for_language:
        return read_documents(path, encoding=encoding, skip_bad=wanted.skip_bad, origin=origin)
    if wanted.task not in ("auto", "classification"):
        raise DataError(
            f"--task {wanted.task} given, but {path} is a folder of class folders, which is a classification. Leave it "
            "out, or give a table with a column of image paths or texts."
        )
    return read_folder(path, encoding=encoding, skip_bad=wanted.skip_bad, origin=origin)


def _refuse_columns(path: Path, wanted: Wanted) -> None:
    if wanted.columns.flags:
        what = "a folder of class folders" if wanted.task != "causal-lm" else "no table"
        raise DataError(
            f"{', '.join(wanted.columns.flags)} given, but {path} is {what}; expected a table. Leave it out."
        )


def _load_several(paths: list[Path], wanted: Wanted, encoding: str, origin: dict[str, Any]) -> Task:
    if not paths:
        raise DataError(f"No path is given; expected {_EXPECTED}. Name one.")
    if len(paths) == 1:
        return _load_path(paths[0], wanted, encoding, origin)
    for path in paths:
        if not path.exists():
            raise DataError(_missing_message(path))
    _check_suffixes(paths)
    return read_tables(paths, paths[0].parent.name, wanted, encoding=encoding, origin=origin)


def _load_dataset(name: str, wanted: Wanted, origin: dict[str, Any]) -> Task:
    short = dataset_name(name)
    return table_task(dataset_table(opened_dataset(name), short), short, wanted, origin=origin)


def _check_suffixes(paths: Sequence[Path]) -> None:
    other = [str(p) for p in paths if p.is_dir() or p.suffix.lower() not in READERS]
    if other:
        raise DataError(f"Cannot read labelled data from {', '.join(other)}; expected {_EXPECTED}. Convert the file.")


def _tables_in(folder: Path) -> list[Path]:
    try:
        return table_files(folder)
    except OSError as error:
        raise DataError(f"Cannot read the folder {folder}: {error.strerror}. Check its permissions.") from error


def _whole(path: Any) -> Any:
    """The path as it is found from any folder."""
    if isinstance(path, list | tuple):
        return [_whole(p) for p in path]
    if not isinstance(path, str | os.PathLike):
        raise DataError(f"Cannot read labelled data from a {type(path).__name__}; expected a path: {_EXPECTED}.")
    text = os.fspath(path)
    whole = os.path.abspath(text)
    if not is_text(whole):
        raise DataError(
            f"The path {shown(whole)} is not in UTF-8; expected a name that can be written down. Rename the file, or "
            "the folder that it lies in."
        )
    if not text.startswith(PREFIX):
        return os.path.abspath(Path(text).expanduser())
    folder = Path(text.removeprefix(PREFIX)).expanduser()
    return PREFIX + os.path.abspath(folder) if folder.is_dir() else text


def _missing_message(path: Path) -> str:
    there = next(parent for parent in path.parents if parent.exists())
    missing = path.relative_to(there).parts[0]
    if not there.is_dir():
        return f"There is no {path}: {there} is a file. Expected {_EXPECTED}."
    names = sorted(p.name for p in there.iterdir() if not p.name.startswith("."))
    near = difflib.get_close_matches(missing, names, cutoff=0.6)
    return f"There is no {path}: {there} holds no {missing!r}. Expected {_EXPECTED}. " + nearest(
        missing, near or names[:20]
    )
