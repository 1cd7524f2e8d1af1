"""What a model is asked about: files, folders, tables and lines, each sample read when it is asked for."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from bequest.core.errors import DataError
from bequest.core.names import is_text, shown
from bequest.core.task import Modality
from bequest.data.columns import input_column
from bequest.data.folders import find_files
from bequest.data.formats import READERS, Table, read_json_lines, read_table
from bequest.data.images import SUFFIXES, open_image
from bequest.data.messages import listed
from bequest.data.spool import Lazy, joined, spool_texts
from bequest.data.text import fitting_codec, opened

STANDARD_INPUT = "-"
TABLES = frozenset(READERS) - {".txt", ""}
"""Suffixes of files that hold a sample a row; of others each is one sample."""

_PLACE = "input"
"""The column that says where a sample lies which is no row of a table."""


@dataclass(frozen=True)
class Input:
    """A sample that is asked about.

    Attributes:
        place: What it is called.
        cells: What is kept of it, by column.
        read: Its text, or its decoded image; raises `DataError` where that cannot be had.
    """

    place: str
    cells: Mapping[str, Any]
    read: Callable[[], Any]


@dataclass(frozen=True)
class Inputs:
    """All that is asked about.

    Attributes:
        columns: Names of all that is kept of samples.
        items: The samples, in order.
        notes: What finding them found.
    """

    columns: tuple[str, ...]
    items: Sequence[Input]
    notes: tuple[str, ...] = ()


def read_inputs(
    names: Sequence[str | Path],
    modality: Modality,
    *,
    text_column: str | None = None,
    image_column: str | None = None,
    encoding: str = "utf-8",
    stdin: TextIO | None = None,
) -> Inputs:
    """Samples by the names that users give.

    Args:
        names: Of images, or text files, each one text; of folders, all images or .txt files below; of tables (.csv,
            .tsv, .jsonl, .json, .parquet) with a sample a row; or `-` for standard input, with a text, an image's path
            or a JSON object a line.
        modality: What the model takes.
        text_column: A table's column of texts; None to recognise it.
        image_column: A table's column of paths of images; None to recognise it.
        encoding: Of text files.
        stdin: Standard input.

    Raises:
        DataError: There is no such file, a table cannot be read or has no column of inputs, or a folder holds none.
    """
    if modality == "array":
        raise DataError("This model takes arrays; predict with it from Python: bequest.load(folder).predict(…).")
    wrong = {"text": ("--image-column", image_column), "image": ("--text-column", text_column)}[modality]
    if wrong[1] is not None:
        raise DataError(f"{wrong[0]} is given, but the model takes samples of kind {modality}. Leave it out.")
    column = text_column if modality == "text" else image_column
    parts = [_part(str(name), modality, column, encoding, stdin) for name in names]
    if not parts:
        raise DataError("There is nothing to predict for; expected a file, a folder or -. Name one.")
    columns = tuple(dict.fromkeys(c for p in parts for c in p.columns))
    return Inputs(columns, joined([p.items for p in parts]), tuple(note for p in parts for note in p.notes))


def _part(name: str, modality: Modality, column: str | None, encoding: str, stdin: TextIO | None) -> Inputs:
    if name == STANDARD_INPUT:
        return _stream(stdin, modality, column, encoding)
    path = Path(name).expanduser()
    if path.is_dir():
        return _below(path, modality, encoding)
    if path.suffix.lower() not in TABLES:
        return _files([path], modality, encoding)
    if not path.is_file():
        raise DataError(f"There is no {path}; expected a table. Correct its name.")
    return _rows(read_table(path, encoding), path.parent, modality, column)


def _below(folder: Path, modality: Modality, encoding: str) -> Inputs:
    found, told_links = find_files(folder, SUFFIXES if modality == "image" else {".txt"})
    if not found:
        kind = "images" if modality == "image" else ".txt files"
        told = f"{folder} holds no {kind}, nor does a folder below it. {told_links}".rstrip()
        raise DataError(f"{told} Expected some. Name another folder.")
    return replace(_files(found, modality, encoding), notes=(shown(told_links),) if told_links else ())


def _stream(stdin: TextIO | None, modality: Modality, column: str | None, encoding: str) -> Inputs:
    """Standard input: a table where its first line is a JSON object, else a sample a line."""
    if stdin is None:
        raise DataError("There is no standard input; expected files. Name some.")
    if isinstance(stdin, io.TextIOWrapper):
        stdin.reconfigure(errors="surrogateescape")  # names of files may be in any encoding, and one line of texts
    lines = spool_texts(_without_blank_end(line.rstrip("\r\n") for line in stdin))
    if not len(lines):
        raise DataError("Standard input is empty; expected a text, an image's path or a JSON object a line.")
    if _is_object(next(line for line in lines if line.strip())):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "standard input"
            with file.open("w", encoding="utf-8", errors="backslashreplace") as written:
                written.writelines(line + "\n" for line in lines)
            return _rows(read_json_lines(file, "utf-8"), Path(), modality, column)
    return Inputs((_PLACE,), Lazy(len(lines), partial(_line, lines, modality)))


def _without_blank_end(lines: Iterable[str]) -> Iterator[str]:
    """The lines up to the last that is not blank; a blank one between others is a sample that is missing."""
    blank: list[str] = []
    for line in lines:
        if line.strip():
            yield from blank
            yield line
            blank = []
        else:
            blank.append(line)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _line(lines: Sequence[str], modality: Modality, index: int) -> Input:
    line = lines[index]
    if modality == "image" and line.strip():
        return _file([Path(line)], modality, "", 0)
    return Input(shown(line), {_PLACE: shown(line)}, partial(_whole_text, line, index))


def _whole_text(text: str, index: int) -> str:
    _some(text, f"Line {index + 1} of standard input")
    if not is_text(text):
        raise DataError(
            f"Text {index + 1} of standard input is not UTF-8: {shown(text)[:60]}. Expected UTF-8. Convert it, e.g. "
            "with iconv -f latin1 -t utf8."
        )
    return text


def _files(paths: Sequence[Path], modality: Modality, encoding: str) -> Inputs:
    return Inputs((_PLACE,), Lazy(len(paths), partial(_file, paths, modality, encoding)))


def _file(paths: Sequence[Path], modality: Modality, encoding: str, index: int) -> Input:
    path = paths[index]
    read = partial(open_image, path) if modality == "image" else partial(_text_file, path, encoding)
    return Input(shown(path), {_PLACE: shown(path)}, read)


def _rows(table: Table, folder: Path, modality: Modality, column: str | None) -> Inputs:
    if twice := sorted({name for name in table.columns if table.columns.count(name) > 1}):
        raise DataError(
            f"{table.place} has two columns of one name ({listed(twice, 3)}); expected names that differ, by which "
            "predictions are written beside them. Rename one."
        )
    chosen, told = input_column(table, modality, column)
    return Inputs(table.columns, Lazy(len(table), partial(_row, table, folder, modality, chosen)), told)


def _row(table: Table, folder: Path, modality: Modality, column: int, index: int) -> Input:
    place, cell = table.places[index], table.values[column][index]
    cells = {name: values[index] for name, values in zip(table.columns, table.values, strict=True)}
    if modality == "image" and isinstance(cell, str) and cell.strip():
        return Input(place, cells, partial(open_image, folder / cell.strip()))
    return Input(place, cells, partial(_cell_text, cell, place, table.columns[column]))


def _text_file(path: Path, encoding: str) -> str:
    with opened(path, fitting_codec(path, encoding)) as stream:
        return _some(stream.read(), str(path))


def _cell_text(cell: Any, place: str, column: str) -> str:
    if not isinstance(cell, str):
        raise DataError(f"{place} has {cell!r} in the column {column!r}; expected a text. Correct it.")
    return _some(cell, place)


def _some(text: str, place: str) -> str:
    if not text.strip():
        raise DataError(f"{place} holds no text; expected some. Correct or remove it.")
    return text
