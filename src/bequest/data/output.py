"""Tables in files, written a block of rows at a time: of features (.parquet, .csv, .npz), of rows (.csv, .jsonl, …)."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from bequest.core.errors import DataError
from bequest.core.results import atomic_open
from bequest.data.spool import spool_columns

Array = np.ndarray[Any, Any]

_BLOCK_BYTES = 2**24
"""What a block of features takes, about."""


@dataclass(frozen=True)
class FeatureTable:
    """Samples in rows: what is known of each, then its features.

    Attributes:
        num_rows: Samples, one or more.
        names: Of the features' columns.
        known: (first row, row after the last) → columns that describe the samples, by name: str or numbers.
        features: The same → features, float32 (rows, names).
    """

    num_rows: int
    names: Sequence[str]
    known: Callable[[int, int], Mapping[str, Sequence[Any]]]
    features: Callable[[int, int], Array]

    def blocks(self) -> Iterator[tuple[Mapping[str, Sequence[Any]], Array]]:
        """What is known of some rows and their features, a block of rows at a time."""
        size = max(1, _BLOCK_BYTES // (4 * len(self.names)))
        for start in range(0, self.num_rows, size):
            stop = min(start + size, self.num_rows)
            yield self.known(start, stop), self.features(start, stop)


def check_suffix(path: Path) -> None:
    """Refuse a file that cannot be written, before anything is computed.

    Raises:
        DataError: No format goes by the file's suffix, or the package that writes it is not installed.
    """
    if path.suffix.lower() not in WRITERS:
        raise DataError(f"Cannot write {path}; expected a file that ends in {', '.join(WRITERS)}.")
    if path.suffix.lower() == ".parquet":
        _pyarrow(path)


def write_features(table: FeatureTable, path: Path) -> None:
    """Write a table in the format of the file's suffix; the file appears whole or not at all.

    Raises:
        DataError: As for `check_suffix`, or the file cannot be written.
    """
    check_suffix(path)
    try:
        with atomic_open(path) as file:
            WRITERS[path.suffix.lower()](table, file, path)
    except OSError as error:
        raise DataError(f"Cannot write {path} ({error.strerror}); expected a place with room for it.") from error


def _write_csv(table: FeatureTable, file: IO[bytes], _: Path) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.writer(text)
    writer.writerow([*table.known(0, 0), *table.names])
    for known, features in table.blocks():
        for cells, values in zip(zip(*known.values(), strict=True), features, strict=True):
            # The shortest digits from which float32 reads the same number.
            writer.writerow([*cells, *map(str, values)])
    text.detach()


def _write_parquet(table: FeatureTable, file: IO[bytes], path: Path) -> None:
    """One row group a block."""
    pyarrow = _pyarrow(path)
    from pyarrow import parquet

    writer: Any = None
    for known, features in table.blocks():
        columns = dict(zip(table.names, np.ascontiguousarray(features.T), strict=True))
        part = pyarrow.table({**known, **columns})
        dictionary: Any = list(known)
        writer = writer or parquet.ParquetWriter(file, part.schema, use_dictionary=dictionary)
        writer.write_table(part)
    assert writer is not None, "there are rows"
    writer.close()


def _write_npz(table: FeatureTable, file: IO[bytes], path: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name, column in {**table.known(0, table.num_rows), "columns": table.names}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as part:
                np.lib.format.write_array(part, np.array(column), allow_pickle=False)
        header = {"descr": "<f4", "fortran_order": False, "shape": (table.num_rows, len(table.names))}
        with archive.open("features.npy", "w", force_zip64=True) as part:
            np.lib.format.write_array_header_1_0(part, header)
            for _, features in table.blocks():
                part.write(np.ascontiguousarray(features, "<f4").tobytes())


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise DataError(
            f"Cannot write {path}: the package that writes Parquet files is not installed; expected pyarrow. Install "
            "it: pip install 'bequest[tables]', or write a .csv or .npz file."
        ) from error
    return pyarrow


WRITERS: dict[str, Callable[[FeatureTable, IO[bytes], Path], None]] = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
    ".npz": _write_npz,
}
"""By the file's suffix."""


_BLOCK_ROWS = 4096

Rows = Callable[[], Iterator[Sequence[Any]]]
"""The rows, from the first, as often as it is called."""


def check_rows_suffix(path: Path) -> None:
    """As `check_suffix`, for `write_rows`.

    Raises:
        DataError: No format goes by the file's suffix, or the package that writes it is not installed.
    """
    if path.suffix.lower() not in ROW_WRITERS:
        raise DataError(f"Cannot write {path}; expected a file that ends in {', '.join(ROW_WRITERS)}.")
    if path.suffix.lower() == ".parquet":
        _pyarrow(path)


def write_rows(columns: Sequence[str], rows: Iterable[Sequence[Any]], path: Path) -> int:
    """Write rows of mixed cells in the format of the file's suffix; the file appears whole or not at all.

    Rows are kept out of memory until all are there.

    Args:
        columns: Their names.
        rows: As many cells each: str, numbers, bool, None, or what JSON can hold.
        path: The file.

    Returns:
        How many rows there are.

    Raises:
        DataError: As for `check_rows_suffix`, or the file cannot be written.
    """
    check_rows_suffix(path)
    kept = spool_columns(rows, len(columns))
    try:
        with atomic_open(path) as file:
            ROW_WRITERS[path.suffix.lower()](columns, lambda: zip(*kept, strict=True), file, path)
    except OSError as error:
        raise DataError(f"Cannot write {path} ({error.strerror}); expected a place with room for it.") from error
    return len(kept[0])


def _write_csv_rows(columns: Sequence[str], rows: Rows, file: IO[bytes], path: Path) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.writer(text, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    writer.writerow(columns)
    writer.writerows([_as_text(cell) if isinstance(cell, list | dict) else cell for cell in row] for row in rows())
    text.detach()


def _write_json_rows(columns: Sequence[str], rows: Rows, file: IO[bytes], _: Path) -> None:
    for row in rows():
        file.write((_as_text(dict(zip(columns, row, strict=True))) + "\n").encode(errors="replace"))


def _write_parquet_rows(columns: Sequence[str], rows: Rows, file: IO[bytes], path: Path) -> None:
    """A column whose cells have no type in common holds texts."""
    pyarrow = _pyarrow(path)
    from pyarrow import parquet

    types = [pyarrow.null()] * len(columns)
    for block in _blocks(rows()):
        types = [_common(pyarrow, known, cells) for known, cells in zip(types, zip(*block, strict=True), strict=True)]
    schema = pyarrow.schema(list(zip(columns, types, strict=True)))
    with parquet.ParquetWriter(file, schema) as writer:
        for block in _blocks(rows()):
            arrays = [
                pyarrow.array([_as_cell(c) for c in cells] if kind == pyarrow.string() else cells, kind)
                for kind, cells in zip(types, zip(*block, strict=True), strict=True)
            ]
            writer.write_table(pyarrow.table(arrays, schema=schema))


def _common(pyarrow: Any, known: Any, cells: Sequence[Any]) -> Any:
    """The type of a column, of which a block's cells are more."""
    try:
        found = pyarrow.schema([("", pyarrow.infer_type(cells))])
        merged = pyarrow.unify_schemas([pyarrow.schema([("", known)]), found], promote_options="permissive")
        return merged.field(0).type
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, pyarrow.ArrowNotImplementedError):
        return pyarrow.string()


def _blocks(rows: Iterator[Sequence[Any]]) -> Iterator[list[Sequence[Any]]]:
    while block := list(islice(rows, _BLOCK_ROWS)):
        yield block


def _as_cell(cell: Any) -> str | None:
    return cell if cell is None or isinstance(cell, str) else _as_text(cell)


def _as_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


ROW_WRITERS: dict[str, Callable[[Sequence[str], Rows, IO[bytes], Path], None]] = {
    ".csv": _write_csv_rows,
    ".tsv": _write_csv_rows,
    ".jsonl": _write_json_rows,
    ".parquet": _write_parquet_rows,
}
"""By the file's suffix."""
