"""Tables of features in files, written a block of rows at a time: .parquet, .csv, .npz."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from bequest.core.errors import DataError
from bequest.core.results import atomic_open

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
