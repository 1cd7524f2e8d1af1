"""From a table, or several, to a task."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bequest.core.errors import DataError
from bequest.core.task import IntArray, Samples, Task
from bequest.data.assemble import PARTS, Labelled, assemble, numbered_groups
from bequest.data.columns import Columns, Roles, recognise, recognise_texts
from bequest.data.formats import READERS, ImageColumn, Table, read_table
from bequest.data.images import encoded_images, image_files, sound_encoded_images, sound_image_files
from bequest.data.labels import LabelColumns, Labels, TaskChoice, is_missing, no_labels, read_labels
from bequest.data.messages import counted, listed
from bequest.data.spool import Lazy, joined, picked
from bequest.data.text import Completions, Texts

_LOOSE_SUFFIXES = frozenset((".txt", "", ".json"))  # files that lie in many a folder without being its table


@dataclass(frozen=True)
class Wanted:
    """What the user says of data in tables.

    Attributes:
        columns: Their columns.
        task: The kind of task, or `auto`.
        skip_bad: Whether to leave out images that cannot be decoded.
    """

    columns: Columns
    task: TaskChoice = "auto"
    skip_bad: bool = False


def read_tables(paths: Sequence[Path], name: str, wanted: Wanted, *, encoding: str, origin: Mapping[str, Any]) -> Task:
    """The task in table files; of several, each may be a given part by its name.

    Args:
        paths: The files, one or more.
        name: A short name for tables.
        wanted: What the user says of the columns.
        encoding: Of the files, as `bequest.data.text.read_texts` takes it.
        origin: What the task was loaded with.

    Raises:
        DataError: A file is not well-formed, a column is not there or not recognised, or values are missing.
    """
    parts = _parts(paths) if len(paths) > 1 else [""]
    table = stacked([read_table(path, encoding) for path in paths], parts)
    return table_task(table, name, wanted, origin=origin)


def table_files(folder: Path) -> list[Path]:
    """The tables that a folder holds its data in; none where it holds class folders.

    Tables beside folders, which may hold the images that they name, are taken if one is the train part by its
    name or there are not two folders that could be classes.
    """
    entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    files = [p for p in entries if p.suffix.lower() in READERS.keys() - _LOOSE_SUFFIXES and p.is_file()]
    files = files or [p for p in entries if p.suffix.lower() == ".json" and p.is_file()]
    folders = [p.name.lower() for p in entries if p.is_dir() and not p.name.startswith("__")]
    if not files or "train" in folders:
        return []
    return files if len(folders) < 2 or "train" in map(part_of, files) else []


def part_of(path: Path) -> str:
    """The given part that a file's name tells, e.g. `test` of reviews_test.csv; empty where it tells none."""
    words = re.split(r"[^a-z]+", path.stem.lower())
    found = {PARTS[word] for word in words if word in PARTS}
    return found.pop() if len(found) == 1 else ""


def stacked(tables: Sequence[Table], parts: Sequence[str]) -> Table:
    """The rows of several tables, one table after another, with the columns that all of them have.

    Args:
        tables: One or more.
        parts: The given part of each; empty strings where there are none.
    """
    first = tables[0]
    rows_parts = joined([Lazy(len(t), partial(_same, part)) for t, part in zip(tables, parts, strict=True)])
    if len(tables) == 1:
        return replace(first, parts=rows_parts if parts[0] else ())
    columns = tuple(c for c in first.columns if all(c in t.columns for t in tables))
    lost = sorted({repr(c) for t in tables for c in t.columns if c not in columns})
    notes = [note for t in tables for note in t.notes]
    if lost:
        notes.append(f"Ignored columns that not every table has: {listed(lost)}.")
    return Table(
        place=listed([t.place for t in tables], 3),
        folder=first.folder,
        columns=columns,
        values=tuple(joined([t.values[t.columns.index(c)] for t in tables]) for c in columns),
        places=joined([t.places for t in tables]),
        notes=tuple(notes),
        images={c: _joined_images([t.images[c] for t in tables]) for c in columns if c in first.images},
        class_names={c: first.class_names[c] for c in columns if c in first.class_names},
        parts=rows_parts if all(parts) else (),
    )


def table_task(table: Table, name: str, wanted: Wanted, *, origin: Mapping[str, Any] | None = None) -> Task:
    """The task in a table.

    Args:
        table: Column names and rows.
        name: A short name for tables.
        wanted: What the user says of the columns.
        origin: What the task was loaded with; None for data from Python.

    Raises:
        DataError: A column is not there or not recognised, or values are missing.
    """
    if wanted.task == "causal-lm":
        return _texts_task(table, name, wanted, origin)
    roles, notes = recognise(table, wanted.columns)
    split = _given_parts(table, roles)
    rows, hidden = _labelled_rows(table, roles, split)
    samples, kept, bad = _inputs(table, roles, rows, skip_bad=wanted.skip_bad)
    rows = rows[kept]
    places = _of(table.places, rows)
    labels = _labels(table, roles, rows, wanted.task)
    groups, group_names = None, ()
    if roles.group is not None:
        groups, group_names = numbered_groups(_of(table.values[roles.group], rows), places.__getitem__)
    given = [split[int(i)] for i in rows] if len(split) else []
    found = Labelled(samples, labels, given, groups, group_names)
    return assemble(found, name, notes=[*table.notes, *notes, *hidden, *bad], origin=origin)


def _texts_task(table: Table, name: str, wanted: Wanted, origin: Mapping[str, Any] | None) -> Task:
    """The task in a table of texts, or of prompts and completions, without labels."""
    roles, notes = recognise_texts(table, wanted.columns)
    assert roles.text is not None
    texts = _texts(table, roles.text, table.places)
    samples: Samples = Texts(texts, table.places)
    if roles.labels:
        samples = Completions(texts, _texts(table, roles.labels[0], table.places), table.places)
    found = Labelled(samples, no_labels(len(table)), _given_parts(table, roles)[:])
    return assemble(found, name, notes=[*table.notes, *notes], origin=origin)


def _given_parts(table: Table, roles: Roles) -> Sequence[str]:
    """The given part of each row; empty where there are none."""
    if roles.split is None:
        return table.parts
    return Lazy(len(table), partial(_part, table.values[roles.split]))


def _texts(table: Table, column: int, places: Sequence[str], rows: IntArray | None = None) -> Sequence[str]:
    cells = table.values[column] if rows is None else _of(table.values[column], rows)
    _check_text_cells(table.columns[column], cells, places)
    return Lazy(len(cells), partial(_text, cells))


def skipped_note(places: Sequence[str], noun: str) -> list[str]:
    """What to say of samples that were left out because they cannot be read."""
    return [f"Left out {counted(len(places), noun)}: {listed(places, 3)} (--skip-bad)."] if places else []


def _parts(paths: Sequence[Path]) -> list[str]:
    parts = [part_of(path) for path in paths]
    if not any(parts):
        return parts
    without = [path.name for path, part in zip(paths, parts, strict=True) if not part]
    if without:
        raise DataError(
            f"Some of the tables are given parts by their names, but not {listed(without)}. Expected train, validation "
            "or test in every name, or in none. Rename or move the others, or name the files to read."
        )
    if "train" not in parts:
        raise DataError(
            f"None of the tables is the train part: {listed([p.name for p in paths])}. Expected train in the name of "
            "one. Rename it."
        )
    return parts


def _labelled_rows(table: Table, roles: Roles, split: Sequence[str]) -> tuple[IntArray, list[str]]:
    """The rows without parts whose labels are kept secret, as those of many a competition's test part are."""
    rows = np.arange(len(table))
    if not len(split):
        return rows, []
    is_bare = np.fromiter(
        (
            all(is_missing(cell) for cell in cells)
            for cells in zip(*(table.values[i] for i in roles.labels), strict=True)
        ),
        bool,
        len(table),
    )
    if not is_bare.any():
        return rows, []
    of_part = np.array(split[:])
    secret = [part for part in ("validation", "test") if (of_part == part).any() and is_bare[of_part == part].all()]
    notes = [f"The given {part} part is not used: it has no labels." for part in secret]
    return np.flatnonzero(~np.isin(of_part, secret)), notes


def _inputs(table: Table, roles: Roles, rows: IntArray, *, skip_bad: bool) -> tuple[Samples, IntArray, list[str]]:
    """The samples, which of the rows they are, and what to say of the others."""
    everything = np.arange(len(rows))
    places = _of(table.places, rows)
    if roles.image is None:
        assert roles.text is not None
        return Texts(_texts(table, roles.text, places, rows), places), everything, []
    column = table.images.get(table.columns[roles.image])
    if column is not None:
        read = partial(_read_at, column.read, rows)
        if not skip_bad:
            return encoded_images(read, places), everything, []
        samples, kept = sound_encoded_images(read, places)
        return samples, kept, _left_out(places, kept)
    paths = _image_paths(table, roles.image, rows, places)
    if not skip_bad:
        _check_there(table, paths, places)
        return image_files(paths, skippable=True), everything, []
    samples, kept = sound_image_files(paths)
    return samples, kept, _left_out(Lazy(len(paths), partial(_path_text, paths)), kept)


def _left_out(places: Sequence[str], kept: IntArray) -> list[str]:
    if not len(kept):
        raise DataError(
            f"None of the {counted(len(places), 'image')} can be read, e.g. {listed(places[:3])}. Expected whole image "
            "files. Correct the column of paths, or replace the files."
        )
    bad = np.setdiff1d(np.arange(len(places)), kept)
    return skipped_note(picked(places, bad), "unreadable image")


def _check_text_cells(column: str, cells: Sequence[Any], places: Sequence[str]) -> None:
    wrong = [f"{places[i]} ({type(cell).__name__})" for i, cell in enumerate(cells) if isinstance(cell, list | dict)]
    if wrong:
        raise DataError(
            f"{counted(len(wrong), 'cell')} of the column {column!r} that "
            f"{'is' if len(wrong) == 1 else 'are'} no text: {listed(wrong)}. Expected texts. Name another column: "
            "--text-column NAME."
        )


def _image_paths(table: Table, column: int, rows: IntArray, places: Sequence[str]) -> Sequence[Path]:
    cells = _of(table.values[column], rows)
    wrong = [places[i] for i, cell in enumerate(cells) if is_missing(cell) or not isinstance(cell, str)]
    if wrong:
        raise DataError(
            f"{counted(len(wrong), 'row')} without a path in the column {table.columns[column]!r}: {listed(wrong)}. "
            "Expected the path of an image in each. Fill or remove them."
        )
    return Lazy(len(cells), partial(_path, table.folder, cells))


def _check_there(table: Table, paths: Sequence[Path], places: Sequence[str]) -> None:
    gone = [i for i, path in enumerate(paths) if not os.path.exists(path)]
    if gone:
        named = [f"{paths[i]} ({places[i]})" for i in gone[:10]] + [""] * max(0, len(gone) - 10)
        raise DataError(
            f"{counted(len(gone), 'image file')} of {len(paths):,} that {table.place} names "
            f"{'is' if len(gone) == 1 else 'are'} not there: {listed(named)}. Expected paths from {table.folder}, or "
            "absolute ones. Correct the paths, move the table, or leave the rows out: --skip-bad."
        )


def _labels(table: Table, roles: Roles, rows: IntArray, task: TaskChoice) -> Labels:
    names = [table.columns[i] for i in roles.labels]
    cells = [_of(table.values[i], rows) for i in roles.labels]
    places = _of(table.places, rows)
    classes = table.class_names.get(names[0]) if len(names) == 1 else None
    if classes is not None and task == "auto":
        is_list = len(cells[0]) > 0 and isinstance(cells[0][0], list)
        task = "multi-label" if is_list else "classification"
    notes: tuple[str, ...] = ()
    if classes is not None and task == "classification":
        used = {cell for cell in cells[0] if isinstance(cell, str)}
        unused = [repr(name) for name in classes if name not in used]
        classes = [name for name in classes if name in used]
        if unused:
            notes = (f"Left out {counted(len(unused), 'class', 'classes')} without samples: {listed(unused)}.",)
    labels = read_labels(LabelColumns(cells, names, places.__getitem__, classes), task)
    return replace(labels, notes=(*notes, *labels.notes))


def _of(values: Sequence[Any], rows: IntArray) -> Sequence[Any]:
    return values if len(rows) == len(values) else picked(values, rows)


def _joined_images(columns: Sequence[ImageColumn]) -> ImageColumn:
    where = joined([Lazy(c.length, partial(_pair, c)) for c in columns])
    return ImageColumn(len(where), partial(_read_pair, where))


def _pair(column: ImageColumn, index: int) -> tuple[ImageColumn, int]:
    return column, index


def _read_pair(where: Sequence[tuple[ImageColumn, int]], index: int) -> bytes:
    column, i = where[index]
    return column.read(i)


def _read_at(read: Any, rows: IntArray, index: int) -> bytes:
    return read(int(rows[index]))


def _same(value: str, _: int) -> str:
    return value


def _part(cells: Sequence[str], index: int) -> str:
    return PARTS[cells[index].strip().lower()]


def _text(cells: Sequence[Any], index: int) -> str:
    cell = cells[index]
    return cell if isinstance(cell, str) else "" if cell is None else str(cell)


def _path(folder: Path, cells: Sequence[str], index: int) -> Path:
    return folder / cells[index].strip()


def _path_text(paths: Sequence[Path], index: int) -> str:
    return str(paths[index])
