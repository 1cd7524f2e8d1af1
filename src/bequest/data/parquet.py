"""Rows of Parquet files as Python values, some at a time: a file of a kilobyte may stand for gigabytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bequest.core.errors import DataError
from bequest.data.messages import listed

READ_BYTES = 2**20
"""Of a file at a time, rather than a column of a row group whole."""
_BATCH_ROWS = 4096
_LARGE_ROWS = 64
"""Of images' bytes, and of lists and objects, whose texts pyarrow cannot leave as they are kept, once each."""
_PART_BYTES = 2**24
_FREE_BYTES, _DENSEST = 2**26, 1000
"""Bytes that any file may stand for, and for each of its own."""
_CELL_BYTES = 8
_HINT = "Write it anew with fewer rows, or with fewer values that repeat"


def parquet_faults() -> tuple[type[Exception], ...]:
    """What pyarrow raises of damaged files, and Python of values that it cannot hold."""
    from pyarrow import ArrowException

    return ArrowException, ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError


@contextmanager
def as_parquet(name: str) -> Iterator[None]:
    """What is wrong with a Parquet file comes as an error of ours.

    Raises:
        DataError: It cannot be read: it is damaged, a text is no UTF-8, or a time is beyond what Python has.
    """
    try:
        yield
    except parquet_faults() as error:
        told = (str(error).strip().rstrip(".") or type(error).__name__)[:300]
        raise DataError(f"{name} cannot be read as a Parquet file: {told}. Replace it.") from error


def parquet_rows(source: Any, name: str, columns: Sequence[str], groups: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    """The cells of each row, decoded a few megabytes at a time.

    Args:
        source: The file's path, or the file open for reading; it stays open.
        name: What it is called in messages.
        columns: Which; each name once.
        groups: Row groups.

    Raises:
        DataError: It cannot be read; or stands for more than 64 MB, and 1,000 bytes for each of its own.
    """
    from pyarrow import parquet, types

    with as_parquet(name):
        plain = parquet.ParquetFile(source, memory_map=True, pre_buffer=False)
        limit = max(_FREE_BYTES, _DENSEST * _size(source))
        _check_names(name, plain.schema_arrow.names, columns)
        _check_told(plain, name, groups, limit)
        # Values that repeat are kept once each until they are counted; large ones would be kept several times so.
        kinds = {column: plain.schema_arrow.field(column).type for column in columns}
        is_large = any(types.is_nested(kind) or _is_binary(kind) for kind in kinds.values())
        leaves = map(plain.schema.column, range(len(plain.schema)))
        texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY" and leaf.path in kinds]
        kept = [name for name in texts if not _is_binary(kinds[name])]
        file = parquet.ParquetFile(source, pre_buffer=False, buffer_size=READ_BYTES, read_dictionary=kept)
        most, taken = _batch_rows(plain, groups, _LARGE_ROWS if is_large else _BATCH_ROWS), 0
        for batch in file.iter_batches(most, row_groups=list(groups), columns=list(columns)) if columns else ():
            taken += _num_bytes(batch)
            _refuse_beyond(name, taken, limit)
            for part in _parts(batch):
                cells = [_decoded(part.column(column)) for column in columns]
                yield from zip(*cells, strict=True)


def _size(source: Any) -> int:
    if hasattr(source, "seek"):
        return source.seek(0, 2)
    return source.stat().st_size


def _check_names(name: str, present: Sequence[str], columns: Sequence[str]) -> None:
    if twice := sorted({column for column in columns if present.count(column) > 1}):
        raise DataError(
            f"{name} has several columns {listed([*map(repr, twice)])}; expected a name for each. Rename or drop them."
        )


def _check_told(file: Any, name: str, groups: Sequence[int], limit: int) -> None:
    """Refuse by what the file says of itself, before any of it is decompressed."""
    parts = [file.metadata.row_group(group) for group in groups]  # what it says of columns ends the process at times
    told = sum(max(part.total_byte_size, _CELL_BYTES * part.num_rows * part.num_columns) for part in parts)
    _refuse_beyond(name, told, limit)


def _batch_rows(file: Any, groups: Sequence[int], most: int) -> int:
    """Rows to decode at once, by what the file says of their sizes."""
    parts = [file.metadata.row_group(group) for group in groups]
    row_bytes = max((part.total_byte_size / max(1, part.num_rows) for part in parts), default=0.0)
    return max(1, min(most, int(_PART_BYTES / max(1.0, row_bytes))))


def _is_binary(kind: Any) -> bool:
    from pyarrow import types

    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)


def _refuse_beyond(name: str, taken: int, limit: int) -> None:
    if taken > limit:
        raise DataError(
            f"{name} stands for {taken:,} bytes or more; expected {limit:,} at most from a file of its size. {_HINT}."
        )


def _parts(batch: Any) -> Iterator[Any]:
    """A batch in parts that take no more than some megabytes each, or a row."""
    if len(batch) < 2 or _num_bytes(batch) <= _PART_BYTES:
        yield batch
        return
    half = len(batch) // 2
    yield from _parts(batch.slice(0, half))
    yield from _parts(batch.slice(half))


def _decoded(values: Any) -> list[Any]:
    from pyarrow import DictionaryArray

    return (values.dictionary_decode() if isinstance(values, DictionaryArray) else values).to_pylist()


def _num_bytes(values: Any) -> int:
    """What a batch or an array takes once each value stands for itself."""
    from pyarrow import DictionaryArray, ExtensionArray, MapArray, RecordBatch, compute, types

    if isinstance(values, RecordBatch):
        return sum(map(_num_bytes, values.columns))
    if isinstance(values, ExtensionArray):
        return _num_bytes(values.storage)
    if isinstance(values, DictionaryArray):
        kind = values.dictionary.type
        if not (types.is_fixed_size_binary(kind) or types.is_primitive(kind) or types.is_decimal(kind)):
            lengths = compute.call_function("binary_length", [values.dictionary]).take(values.indices)
            return _CELL_BYTES * len(values) + int(compute.call_function("sum", [lengths]).as_py() or 0)
        return (_CELL_BYTES + values.dictionary.nbytes // max(1, len(values.dictionary))) * len(values)
    if isinstance(values, MapArray):
        return _CELL_BYTES * len(values) + _num_bytes(values.keys) + _num_bytes(values.items)
    if types.is_nested(values.type):
        parts = values.flatten()
        return _CELL_BYTES * len(values) + sum(map(_num_bytes, parts if isinstance(parts, list) else [parts]))
    return max(values.nbytes, _CELL_BYTES * len(values))
