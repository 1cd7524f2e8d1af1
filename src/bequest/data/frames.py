"""Pandas' DataFrames as tables. The package is not imported: whoever has a DataFrame has it already."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from bequest.core.errors import DataError
from bequest.data.formats import Table
from bequest.data.messages import listed


def is_frame(data: Any) -> bool:
    """Whether an object is a DataFrame."""
    return hasattr(data, "columns") and hasattr(data, "iloc") and hasattr(data, "notna")


def frame_table(frame: Any, place: str) -> Table:
    """The rows of a DataFrame; what pandas holds missing is None.

    Args:
        frame: A DataFrame, with paths of images or texts, and labels, in columns.
        place: What it is called in messages.

    Raises:
        DataError: It is empty, or two columns have one name.
    """
    names = [str(name) for name in frame.columns]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(
            f"{place} has several columns {listed([*map(repr, twice)])}; expected a name for each. Rename or drop them."
        )
    if not len(frame):
        raise DataError(f"{place} is empty; expected rows. Add some.")
    plain = frame.astype(object).where(frame.notna(), None)
    return Table(
        place=place,
        folder=Path.cwd(),
        columns=tuple(names),
        values=tuple([_cell(cell) for cell in plain.iloc[:, i].tolist()] for i in range(len(names))),
        places=[f"{place} row {index}" for index in frame.index.tolist()],
    )


def _cell(cell: Any) -> Any:
    return os.fspath(cell) if isinstance(cell, os.PathLike) else cell
