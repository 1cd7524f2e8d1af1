"""From a path to a task."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

from bequest.core.errors import DataError, nearest
from bequest.core.task import Task
from bequest.data.folders import read_folder
from bequest.data.tables import SUFFIXES, read_table


def load(
    path: str | os.PathLike[str],
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    encoding: str = "utf-8",
) -> Task:
    """The labelled data at a path.

    A folder holds one folder a class, of images or of .txt files, or `train`, `test` and optionally
    `validation` folders that hold those. A CSV file (commas, semicolons or tabs) has a line of column names.

    Exact duplicates are reduced to one and content under different labels is dropped; `Task.notes` says so.

    Args:
        path: A folder or a CSV file.
        text_column: The column of texts; None to recognise it by its name or, of two, by its values.
        label_column: The column of labels; None to recognise it likewise.
        split_column: The column of given parts (train, validation, test); None to take a column `split` if
            it holds nothing else.
        encoding: Of texts, e.g. `latin-1`. Several with commas between, e.g. `utf-8,latin-1`, are tried in
            turn on each file.

    Returns:
        The task; its `origin` holds these arguments, so that `load(**origin)` loads it again.

    Raises:
        DataError: There is no such path, or its data cannot be used. All faults of one kind are named at
            once.
    """
    where = Path(os.path.abspath(Path(path).expanduser()))
    columns = {"text_column": text_column, "label_column": label_column, "split_column": split_column}
    origin: dict[str, Any] = {"path": str(where), **columns, "encoding": encoding}
    if where.is_dir():
        named = [f"--{name.replace('_', '-')}" for name, value in columns.items() if value is not None]
        if named:
            raise DataError(f"{', '.join(named)} given, but {where} is a folder; expected a CSV file. Leave it out.")
        return read_folder(where, encoding=encoding, origin=origin)
    if not where.exists():
        raise DataError(_missing_message(where))
    if where.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"Cannot read labelled data from {where}; expected a folder of class folders, or a CSV file "
            f"({', '.join(sorted(SUFFIXES - {''}))}). Convert the file."
        )
    return read_table(where, **columns, encoding=encoding, origin=origin)


def _missing_message(path: Path) -> str:
    there = next(parent for parent in path.parents if parent.exists())
    missing = path.relative_to(there).parts[0]
    if not there.is_dir():
        return f"There is no {path}: {there} is a file. Expected a folder of class folders, or a CSV file."
    names = sorted(p.name for p in there.iterdir() if not p.name.startswith("."))
    near = difflib.get_close_matches(missing, names, cutoff=0.6)
    return (
        f"There is no {path}: {there} holds no {missing!r}. Expected a folder of class folders, or a CSV "
        "file. " + nearest(missing, near or names[:20])
    )
