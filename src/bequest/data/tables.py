"""A CSV file with a column of texts and a column of labels."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bequest.core.errors import DataError, nearest
from bequest.core.task import Task
from bequest.data.assemble import PARTS, Labelled, assemble
from bequest.data.messages import counted, listed
from bequest.data.text import Texts, read_texts

SUFFIXES = frozenset((".csv", ".tsv", ".tab", ".txt", ""))

_DELIMITERS = (",", ";", "\t")
_TEXT_NAMES = (
    "text",
    "sentence",
    "content",
    "review",
    "body",
    "message",
    "texts",
    "sentences",
    "comment",
    "document",
)
_LABEL_NAMES = ("label", "class", "category", "target", "sentiment", "labels", "classes", "intent", "topic")
_SPLIT_NAMES = ("split",)
_FIELD_LIMIT = 2**31 - 1  # the most that every platform's C long holds


@dataclass(frozen=True)
class _Table:
    path: Path
    columns: list[str]
    rows: list[list[str]]
    lines: list[int]  # on which each row begins, from 1

    def values(self, column: int) -> list[str]:
        return [row[column] for row in self.rows]


def read_table(
    path: Path,
    *,
    text_column: str | None,
    label_column: str | None,
    split_column: str | None,
    encoding: str,
    origin: Mapping[str, Any],
) -> Task:
    """The task in a CSV file.

    Args:
        path: The file; its stem names the task.
        text_column: The column of texts; None to recognise it.
        label_column: The column of labels; None to recognise it.
        split_column: The column of given parts; None to take one called `split` if it holds nothing else.
        encoding: Of the file, as `bequest.data.text.read_texts` takes it.
        origin: What the task was loaded with.

    Raises:
        DataError: The file is no CSV file with a line of names, a column is not there or not recognised, or
            values are missing.
    """
    table, notes = _parse(path, read_texts([path], encoding)[0])
    given = {"text": text_column, "label": label_column, "split": split_column}
    chosen = {role: _find(table, name, f"--{role}-column") for role, name in given.items() if name is not None}
    if len(set(chosen.values())) < len(chosen):
        raise DataError(
            f"One column of {path.name} is named for two purposes: "
            f"{listed([f'--{role}-column {given[role]}' for role in chosen])}. Expected different columns."
        )
    if "split" in chosen:
        _check_parts(table, chosen["split"])
    else:
        notes += _recognise_split(table, chosen)
    notes += _recognise_text_and_label(table, chosen)
    places = [f"{path.name} line {line}" for line in table.lines]
    split = [PARTS[v.strip().lower()] for v in table.values(chosen["split"])] if "split" in chosen else ()
    found = Labelled(Texts(table.values(chosen["text"]), places), table.values(chosen["label"]), split)
    return assemble(found, path.stem, notes=notes, origin=origin)


def _parse(path: Path, content: str) -> tuple[_Table, list[str]]:
    before = csv.field_size_limit(_FIELD_LIMIT)
    try:
        delimiter = _sniff(content)
        try:
            return _checked(path, delimiter, *_rows(content, delimiter)), []
        except csv.Error as error:
            if delimiter != "\t":
                raise DataError(
                    f"{path} is not well-formed CSV: {error}. Expected fields that hold the delimiter "
                    f"{delimiter!r}, quotes or newlines to be in double quotes, with quotes in them doubled. "
                    "Mend the file."
                ) from error
        # Many tab-separated files know no quoting: a field may begin with a quote that nothing closes.
        table = _checked(path, delimiter, *_rows(content, delimiter, quoted=False))
        return table, ["Read double quotes as they stand: they are not balanced as quotes around fields are."]
    finally:
        csv.field_size_limit(before)


def _rows(content: str, delimiter: str, *, quoted: bool = True) -> tuple[list[list[str]], list[int]]:
    """The rows that are not blank, and the line on which each begins."""
    rows: list[list[str]] = []
    lines: list[int] = []
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    begin = 1
    try:
        for row in reader:
            if row:
                rows.append(row)
                lines.append(begin)
            begin = reader.line_num + 1
    except csv.Error as error:
        raise csv.Error(f"the row that begins on line {begin} has {error}") from error
    return rows, lines


def _sniff(content: str) -> str:
    """The delimiter that gives the line of names most columns, more than one, and the first rows as many."""

    def score(delimiter: str) -> tuple[bool, int]:
        reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter)
        widths = [len(row) for row, _ in zip((row for row in reader if row), range(50), strict=False)]
        return len(set(widths)) == 1 and widths[0] > 1, widths[0] if widths else 0

    return max(_DELIMITERS, key=score)


def _checked(path: Path, delimiter: str, rows: list[list[str]], lines: list[int]) -> _Table:
    if len(rows) < 2:
        raise DataError(
            f"{path} holds {'a line of column names only' if rows else 'nothing'}; expected a line of column "
            "names, such as text,label, and rows. Add them."
        )
    columns = [name.strip() for name in rows[0]]
    if len(columns) < 2:
        raise DataError(
            f"{path} has one column, {columns[0][:60]!r}; expected a column of texts and one of labels, "
            "divided by commas, semicolons or tabs. Add the labels, or correct the delimiter."
        )
    ragged = [f"line {n} ({len(r)})" for n, r in zip(lines, rows, strict=True) if len(r) != len(columns)]
    if ragged:
        raise DataError(
            f"{counted(len(ragged), 'row')} of {path} without {len(columns)} fields, which the line of "
            f"column names has: {listed(ragged)}. Expected as many in each row. Put fields that hold the "
            f"delimiter {delimiter!r} in double quotes."
        )
    return _Table(path, columns, rows[1:], lines[1:])


def _find(table: _Table, name: str, option: str) -> int:
    positions = [i for i, column in enumerate(table.columns) if column == name.strip()]
    if not positions:
        raise DataError(
            f"{option}: {table.path.name} has no column {name!r}; expected one of its columns. "
            + nearest(name, table.columns)
        )
    if len(positions) > 1:
        raise DataError(
            f"{option}: {table.path.name} has {len(positions)} columns {name!r}; expected one. Rename the others."
        )
    return positions[0]


def _is_part(value: str) -> bool:
    return value.strip().lower() in PARTS


def _check_parts(table: _Table, column: int) -> None:
    faults = [
        f"{value!r} on line {line}"
        for value, line in zip(table.values(column), table.lines, strict=True)
        if not _is_part(value)
    ]
    if faults:
        raise DataError(
            f"--split-column: the column {table.columns[column]!r} of {table.path.name} holds "
            f"{listed(faults)}; expected {', '.join(PARTS)}. Correct them, or name another column."
        )


def _recognise_split(table: _Table, chosen: dict[str, int]) -> list[str]:
    column = _named(table, _SPLIT_NAMES, chosen.values())
    if column is None:
        return []
    if all(_is_part(value) for value in table.values(column)):
        chosen["split"] = column
        return [f"Took given parts from the column {table.columns[column]!r}."]
    return [f"The column {table.columns[column]!r} is not used: not all of its values are {', '.join(PARTS)}."]


def _recognise_text_and_label(table: _Table, chosen: dict[str, int]) -> list[str]:
    """Adds the columns of texts and labels to `chosen`; returns a note where they were not both named."""
    if "text" in chosen and "label" in chosen:
        return []
    for role, names in (("text", _TEXT_NAMES), ("label", _LABEL_NAMES)):
        column = None if role in chosen else _named(table, names, chosen.values())
        if column is not None:
            chosen[role] = column
    rest = [i for i in range(len(table.columns)) if i not in chosen.values()]
    missing = [role for role in ("text", "label") if role not in chosen]
    if len(missing) == len(rest) == 1 and len(table.columns) - ("split" in chosen) == 2:
        chosen[missing[0]] = rest[0]
    elif len(missing) == len(rest) == 2:
        _recognise_by_values(table, chosen, rest)
    missing = [role for role in ("text", "label") if role not in chosen]
    if missing:
        raise DataError(
            f"Cannot tell which column of {table.path.name} holds the "
            f"{' and which the '.join(f'{m}s' for m in missing)}; there are: "
            f"{', '.join(map(repr, table.columns))}. Expected names such as text and label. Name them: "
            + " ".join(f"--{role}-column NAME" for role in missing)
            + "."
        )
    text, label = (table.columns[chosen[role]] for role in ("text", "label"))
    return [f"Took texts from the column {text!r} and labels from {label!r}."]


def _named(table: _Table, names: Sequence[str], taken: Iterable[int]) -> int | None:
    """The free column with the first of the names that any column has, in any case."""
    free = {name.lower(): i for i, name in reversed([*enumerate(table.columns)]) if i not in set(taken)}
    return next((free[name] for name in names if name in free), None)


def _recognise_by_values(table: _Table, chosen: dict[str, int], pair: Sequence[int]) -> None:
    """Of two columns, the one of few different values is the label; adds nothing where neither is."""
    label, text = sorted(pair, key=lambda i: len(set(table.values(i))))
    few, many = len(set(table.values(label))), len(set(table.values(text)))
    if few == many or few > len(table.rows) / 2:
        return
    if table.columns[label] in set(table.values(label)):
        raise DataError(
            f"The first line of {table.path.name} looks like a sample, not like column names: "
            f"{listed([repr(name[:60]) for name in table.columns])}. Expected a line of names, such as "
            "text,label. Add it."
        )
    chosen["text"], chosen["label"] = text, label
