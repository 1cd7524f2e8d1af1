"""Table files, each read row by row into the same thing: column names and columns, out of memory."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TextIO, cast

from bequest.core.errors import DataError
from bequest.core.names import shown
from bequest.core.parse import parse_item, parse_json
from bequest.core.task import IntArray
from bequest.data.messages import counted, listed
from bequest.data.parquet import as_parquet, parquet_rows
from bequest.data.spool import Lazy, Spool, spool_columns
from bequest.data.text import fitting_codec, opened

_DELIMITERS = (",", ";", "\t")
_FIELD_LIMIT = 2**31 - 1  # the most that every platform's C long holds
_SPARSEST, _FREE_CELLS = 100, 10**6
"""Cells of a table of objects for each that is filled, and how many of them are of no account."""


@dataclass(frozen=True)
class Table:
    """A table, from wherever.

    Attributes:
        place: What it is called in messages.
        folder: What paths in it are relative to.
        columns: Column names.
        values: One sequence of cells a column: str, number, bool, list, object or None.
        places: What each row is called in messages.
        notes: What reading it found.
        images: Columns, by name, that hold whole images rather than cells.
        class_names: The classes, by name of the column, of columns that declare theirs.
        parts: The given part of each row; empty where the table's files or splits give none.
    """

    place: str
    folder: Path
    columns: tuple[str, ...]
    values: tuple[Sequence[Any], ...]
    places: Sequence[str]
    notes: tuple[str, ...] = ()
    images: Mapping[str, ImageColumn] = field(default_factory=dict[str, "ImageColumn"])
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    parts: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True)
class ImageColumn:
    """A column of encoded images.

    Attributes:
        length: How many there are.
        read: Reads the bytes of one; raises OSError where it cannot.
    """

    length: int
    read: Callable[[int], bytes]


def read_table(path: Path, encoding: str) -> Table:
    """The table in a file, by its suffix: `READERS`.

    Raises:
        DataError: The file is not what its suffix says, or holds no rows.
    """
    read = READERS[path.suffix.lower()]
    return read(path, "" if read is read_parquet else fitting_codec(path, encoding))


def read_delimited(path: Path, codec: str) -> Table:
    """A file of fields with commas, semicolons or tabs between, and a line of column names."""
    before = csv.field_size_limit(_FIELD_LIMIT)
    try:
        delimiter = _sniff(path, codec)
        try:
            return _delimited(path, codec, delimiter)
        except csv.Error as error:
            if delimiter != "\t":
                raise DataError(
                    f"{path} is not well-formed CSV: {error}. Expected fields that hold the delimiter "
                    f"{delimiter!r}, quotes or newlines to be in double quotes, with quotes in them doubled. "
                    "Mend the file."
                ) from error
        # Many tab-separated files know no quoting: a field may begin with a quote that nothing closes.
        note = "Read double quotes as they stand: they are not balanced as quotes around fields are."
        return _delimited(path, codec, delimiter, quoted=False, notes=(note,))
    finally:
        csv.field_size_limit(before)


def _delimited(path: Path, codec: str, delimiter: str, *, quoted: bool = True, notes: tuple[str, ...] = ()) -> Table:
    with opened(path, codec) as stream:
        rows = _rows(stream, delimiter, quoted=quoted)
        header = [name.strip() for name in next(rows, (0, []))[1]]
        if not header:
            raise DataError(_empty_message(path, "nothing", "a line of column names, such as text,label, and rows"))
        ragged: list[str] = []
        columns, lines = _spooled(_even(rows, len(header), ragged), len(header))
    if ragged:
        raise DataError(
            f"{counted(len(ragged), 'row')} of {path} without {len(header)} fields, which the line of "
            f"column names has: {listed(ragged)}. Expected as many in each row. Put fields that hold the "
            f"delimiter {delimiter!r} in double quotes."
        )
    if not len(lines):
        raise DataError(
            _empty_message(path, "a line of column names only", "a line of column names, such as text,label, and rows")
        )
    return Table(path.name, path.parent, tuple(header), columns, _line_places(path, lines), notes)


def _rows(stream: TextIO, delimiter: str, *, quoted: bool = True) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, and the line on which each begins."""
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.reader(stream, delimiter=delimiter, quoting=quoting, strict=True)
    begin = 1
    try:
        for row in reader:
            if row:
                yield begin, row
            begin = reader.line_num + 1
    except csv.Error as error:
        raise csv.Error(f"the row that begins on line {begin} has {error}") from error


def _even(rows: Iterable[tuple[int, list[str]]], width: int, ragged: list[str]) -> Iterator[tuple[int, Sequence[Any]]]:
    for line, row in rows:
        if len(row) == width:
            yield line, row
        else:
            ragged.append(f"line {line} ({len(row)})")


def _spooled(rows: Iterable[tuple[int, Sequence[Any]]], width: int) -> tuple[tuple[Sequence[Any], ...], IntArray]:
    """The columns, and the line or number of each row."""
    numbers = Spool()

    def cells() -> Iterator[Sequence[Any]]:
        for number, row in rows:
            numbers.write(number.to_bytes(8, "little"))
            yield row

    columns = spool_columns(cells(), width)
    return columns, numbers.finish().view("<i8")


def _sniff(path: Path, codec: str) -> str:
    """The delimiter that gives the line of names most columns, more than one, and the first rows as many."""

    def score(delimiter: str) -> tuple[bool, int]:
        with opened(path, codec) as stream:
            reader = csv.reader(stream, delimiter=delimiter)
            widths = [len(row) for row, _ in zip((row for row in reader if row), range(50), strict=False)]
        return len(set(widths)) == 1 and widths[0] > 1, widths[0] if widths else 0

    if path.suffix.lower() in (".tsv", ".tab") and score("\t")[1] > 1:
        return "\t"
    return max(_DELIMITERS, key=score)


def read_json_lines(path: Path, codec: str) -> Table:
    """A file with one JSON object a line."""
    broken: list[str] = []
    keys, num_rows = Counter[str](), 0
    for _, row in _json_lines(path, codec, broken):
        num_rows += 1
        keys.update(row.keys())
    if broken:
        raise DataError(
            f"{counted(len(broken), 'line')} of {path} {'is' if len(broken) == 1 else 'are'} no JSON object: "
            f'{listed(broken)}. Expected one on each, such as {{"text": "…", "label": "…"}}. Correct them.'
        )
    _check_alike(path, keys, num_rows)
    return _objects_table(path, tuple(keys), partial(_json_lines, path, codec, []), "line")


def read_json(path: Path, codec: str) -> Table:
    """A JSON file that holds a list of objects, or one object a line."""
    with opened(path, codec) as stream:
        begins = stream.read(4096).lstrip()[:1]
    if begins == "{":
        return read_json_lines(path, codec)
    with opened(path, codec) as stream:
        text = stream.read()
    keys, num_rows = Counter[str](), 0
    wrong: list[str] = []
    for number, row in _json_items(path, text):
        if isinstance(row, dict):
            num_rows += 1
            keys.update(cast(dict[str, Any], row).keys())
        else:
            wrong.append(f"item {number} ({type(row).__name__})")
    if wrong:
        raise DataError(
            f"{counted(len(wrong), 'item')} of {path} {'is' if len(wrong) == 1 else 'are'} no JSON object: "
            f'{listed(wrong)}. Expected a list of objects, such as {{"text": "…", "label": "…"}}. Correct them.'
        )
    _check_alike(path, keys, num_rows)
    return _objects_table(path, tuple(keys), partial(_json_items, path, text), "item")


def _check_alike(path: Path, keys: Counter[str], num_rows: int) -> None:
    """Refuse objects that share next to no keys: their table would be many times the file."""
    if num_rows * len(keys) > _FREE_CELLS + _SPARSEST * keys.total():
        raise DataError(
            f"{path} has {len(keys):,} different keys in {num_rows:,} objects, of which each has "
            f"{keys.total() / num_rows:.1f}; expected objects that share their keys. Give names as values, not keys."
        )


def _objects_table(
    path: Path, keys: tuple[str, ...], rows: Callable[[], Iterable[tuple[int, dict[str, Any]]]], unit: str
) -> Table:
    if not keys:
        raise DataError(_empty_message(path, "nothing", 'objects such as {"text": "…", "label": "…"}'))
    columns, numbers = _spooled(((n, [row.get(key) for key in keys]) for n, row in rows()), len(keys))
    return Table(path.name, path.parent, keys, columns, Lazy(len(numbers), partial(_place, path.name, unit, numbers)))


def _json_lines(path: Path, codec: str, broken: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    with opened(path, codec) as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = parse_json(line)
            except ValueError as error:
                broken.append(f"line {number} ({error})")
                continue
            if isinstance(row, dict):
                yield number, cast(dict[str, Any], row)
            else:
                broken.append(f"line {number} ({type(row).__name__})")


def _json_items(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """The items of a JSON list, one at a time: all at once would take many times the room of the file."""
    at, number = _after_space(text, 0), 0
    if not text[at:]:
        return
    if text[at] != "[":
        raise DataError(f"{path} holds no JSON list; expected a list of objects, or one object a line. Convert it.")
    at = _after_space(text, at + 1)
    while text[at : at + 1] != "]":
        number += 1
        try:
            item, at = parse_item(text, at)
        except ValueError as error:
            raise DataError(f"{path} is not well-formed JSON, in item {number}: {error}. Mend the file.") from error
        yield number, item
        at = _after_space(text, at)
        if text[at : at + 1] not in (",", "]"):
            raise DataError(
                f"{path} is not well-formed JSON: after item {number} stands {text[at : at + 20]!r}; expected a comma "
                "or the list's end. Mend the file."
            )
        at = _after_space(text, at + 1) if text[at] == "," else at


def _after_space(text: str, at: int) -> int:
    while text[at : at + 1].isspace():
        at += 1
    return at


def read_parquet(path: Path, _: str) -> Table:
    """A Parquet file."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            f"Cannot read {path}: the package that reads Parquet files is not installed; expected pyarrow. Install it: "
            "pip install 'bequest[tables]'"
        ) from error
    pool = pyarrow.default_memory_pool()
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())  # the default pool keeps what it has freed
    try:
        with as_parquet(str(path)), parquet.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
            kept, dropped = _readable(pyarrow, file.schema_arrow)
            groups = range(file.num_row_groups)
        rows = enumerate(parquet_rows(path, str(path), kept, groups), 1)
        columns, numbers = _spooled(rows, max(1, len(kept)))
    finally:
        pyarrow.set_memory_pool(pool)
    if not kept or not len(numbers):
        raise DataError(_empty_message(path, "no rows" if kept else "no columns of texts or numbers", "both"))
    notes = (f"Ignored columns of {path.name} that hold no text and no numbers: {listed(dropped)}.",) if dropped else ()
    places = Lazy(len(numbers), partial(_place, path.name, "row", numbers))
    return Table(path.name, path.parent, tuple(kept), columns, places, notes)


def _readable(pyarrow: Any, schema: Any) -> tuple[list[str], list[str]]:
    types = pyarrow.types
    unread = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_struct, types.is_map)
    dropped = [f for f in schema if any(is_of(f.type) for is_of in unread)]
    return [f.name for f in schema if f not in dropped], [f"{f.name!r} ({f.type})" for f in dropped]


def _empty_message(path: Path, found: str, expected: str) -> str:
    return f"{path} holds {found}; expected {expected}. Add them."


def _line_places(path: Path, lines: IntArray) -> Sequence[str]:
    return Lazy(len(lines), partial(_place, path.name, "line", lines))


def _place(name: str, unit: str, numbers: IntArray, index: int) -> str:
    return f"{shown(name)} {unit} {numbers[index]}"


READERS: Mapping[str, Callable[[Path, str], Table]] = {
    ".csv": read_delimited,
    ".tsv": read_delimited,
    ".tab": read_delimited,
    ".txt": read_delimited,
    "": read_delimited,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json,
    ".parquet": read_parquet,
}
"""What reads a table file, given its path and its codec, by its suffix in lower case."""
