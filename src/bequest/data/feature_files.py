"""Features in Parquet files that are read memory-mapped: a file a shard, and a manifest that lists them.

A file's columns are `key` (which sample), `label` (as text, empty where none is known), `hash` (of the sample's
content, 16 bytes) and one fixed-size list of float32 for each layer. Features are neither compressed nor encoded, and a
row group has one page of them, so its values lie end to end in the file, and are mapped from where they lie. Every
other reader of Parquet sees plain lists. The file's end holds a checksum of every column of every row group, and one of
itself; a row group is compared with them before its first use.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

import numpy as np

from bequest.core.errors import DataError, RunError
from bequest.core.parse import parse_json
from bequest.core.results import read_json
from bequest.core.task import HashArray, Modality, Task
from bequest.core.typed import check_fields
from bequest.data.assemble import Labelled, assemble
from bequest.data.labels import LabelColumns, TaskChoice, read_labels
from bequest.data.mapped import map_file
from bequest.data.messages import listed
from bequest.data.parquet import parquet_faults
from bequest.data.spool import spool_hashes, spool_texts

Array = np.ndarray[Any, Any]

MANIFEST = "features.json"
SUFFIX = ".parquet"

_ROWS = 4096
_GROUP_BYTES = 2**24
"""Features in a row group at most, unless a sample has more: what a writer holds in memory."""
_METADATA, _END_SUM = b"bequest", b"bequest_crc32"
_NO_SUM = b"0" * 8
_SUM_STANDS_AT = _END_SUM + bytes([0x18, len(_NO_SUM)])
"""What is before the sum in the file's end: its name, then Thrift's signs of a text of eight bytes."""
_OTHERS = ("key", "label", "hash")
_BLOCK = 2**20


class FeatureWriter:
    """Writes one file, a row group at a time; a context, so that it does not outlive the file.

    Args:
        file: Open for writing.
        widths: Numbers of each layer, by its name.
    """

    def __init__(self, file: IO[bytes], widths: Mapping[str, int]) -> None:
        from pyarrow import parquet

        self._schema = _schema(widths)
        self._widths, self._size = dict(widths), max(1, min(_ROWS, _GROUP_BYTES // (4 * sum(widths.values()))))
        # One page a row group: no limit to its bytes, and rows are not handed on in parts.
        layout = {"data_page_size": 2**30, "write_batch_size": _ROWS, "use_dictionary": False, "compression": "none"}
        self._file = _Tail(file)
        self._writer = parquet.ParquetWriter(self._file, self._schema, write_statistics=False, **layout)
        self._rows: list[tuple[str, str, bytes]] = []
        self._features: list[Array] = []
        self._digest = hashlib.blake2b(digest_size=16)
        self._checksums: list[dict[str, int]] = []
        self.num_rows = 0

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()
        self._file.release()

    def write(self, rows: Sequence[tuple[str, str, bytes]], features: Array) -> None:
        """Add samples.

        Args:
            rows: Key, label and content hash of each.
            features: Of all layers, side by side, float32 (samples, widths).
        """
        self._rows += rows
        self._features.append(features)
        self.num_rows += len(rows)
        while len(self._rows) >= self._size:
            self._flush()

    def finish(self, about: Mapping[str, Any]) -> None:
        """Write what is left, and plain data about the file, among them the `seconds` that making it took."""
        if self._rows:
            self._flush()
        told = json.dumps({**about, "digest": self.digest, "checksums": self._checksums}).encode()
        self._writer.add_key_value_metadata({_METADATA: told, _END_SUM: _NO_SUM})
        self._file.hold()

    @property
    def digest(self) -> str:
        """Hex digest of all keys, labels, hashes and features so far."""
        return self._digest.hexdigest()

    def _flush(self) -> None:
        import pyarrow

        rows, self._rows = self._rows[: self._size], self._rows[self._size :]
        whole = np.concatenate(self._features) if len(self._features) > 1 else self._features[0]
        part, self._features = whole[: len(rows)], [whole[len(rows) :]]
        keys, labels, hashes = zip(*rows, strict=True)
        ends = list(accumulate(self._widths.values()))
        layers = dict(zip(self._widths, np.split(part, ends[:-1], axis=1), strict=True))
        layers = {name: np.ascontiguousarray(values, "<f4") for name, values in layers.items()}
        columns: list[Any] = [pyarrow.array(keys), pyarrow.array(labels), pyarrow.array(hashes, pyarrow.binary(16))]
        for name, values in layers.items():
            kind = self._schema.field(name).type
            columns.append(pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.ravel()), type=kind))
        self._writer.write_table(pyarrow.table(columns, schema=self._schema), row_group_size=len(rows))
        self._checksums.append({n: _checksum(column) for n, column in zip(self._schema.names, columns, strict=True)})
        self._digest.update(repr(rows).encode())
        for values in layers.values():
            self._digest.update(values.data)


class _Tail:
    """A file whose last part waits until all of it is known, for the sum over the file's end stands in that end."""

    closed = False

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._held: bytearray | None = None

    def write(self, data: Any) -> None:
        if self._held is None:
            self._file.write(data)
        else:
            self._held += data

    def flush(self) -> None:
        self._file.flush()

    def hold(self) -> None:
        self._held = bytearray()

    def release(self) -> None:
        if self._held is not None:
            size = int.from_bytes(self._held[-8:-4], "little") + 8
            end, place = bytes(self._held[-size:]), self._held.rfind(_SUM_STANDS_AT) + len(_SUM_STANDS_AT)
            self._held[place : place + len(_NO_SUM)] = f"{zlib.crc32(end):08x}".encode()
            self._file.write(self._held)


def _check_end(file: IO[bytes]) -> None:
    """Compare a file's end with its checksum before anything else: pyarrow ends the process at some that is damaged."""
    size = file.seek(0, 2)
    file.seek(-min(8, size), 2)
    length = int.from_bytes(file.read(8)[:4], "little") + 8
    file.seek(-min(length, size), 2)
    end = file.read()
    before, name, after = end.rpartition(_SUM_STANDS_AT)
    if not name:
        raise ValueError("it holds no checksums")
    told, after = after[: len(_NO_SUM)], after[len(_NO_SUM) :]
    if told != f"{zlib.crc32(before + name + _NO_SUM + after):08x}".encode():
        raise ValueError("its end is not what was written")
    file.seek(0)


@dataclass(frozen=True)
class RowGroup:
    """Some of a file's samples, and where one layer's numbers lie.

    Attributes:
        path: The file.
        hashes: uint8 (samples, 16).
        width: Numbers a sample.
        offset: Where in the file they begin.
        checksum: CRC-32 of their bytes.
        seconds: What computing a sample took, on average.
    """

    path: Path
    hashes: HashArray
    width: int
    offset: int
    checksum: int
    seconds: float = 0.0

    @property
    def end(self) -> int:
        """Where in the file the numbers end."""
        return self.offset + 4 * self.width * len(self.hashes)

    def values(self) -> Array:
        """Float32 (samples, width), mapped, after every byte of them was compared with the checksum.

        Raises:
            DataError: They are others than were written.
            OSError: The file is gone or cannot be read.
        """
        crc, left = 0, self.end - self.offset
        with self.path.open("rb") as file:
            file.seek(self.offset)
            while left and (block := file.read(min(_BLOCK, left))):
                crc, left = zlib.crc32(block, crc), left - len(block)
        if left or crc != self.checksum:
            raise DataError(
                f"{self.path} is damaged: its features are not those that were written. Run `bequest features` again, "
                "which computes that file anew."
            )
        mapped = map_file(self.path, self.end)[self.offset :].view("<f4").reshape(len(self.hashes), self.width)
        mapped.setflags(write=False)
        return mapped


@dataclass(frozen=True)
class FeatureParquet:
    """What the end of a file says.

    Attributes:
        about: Plain data that its writer gave, with `digest` (text) and `checksums` (of each row group, by column).
        widths: Numbers of each layer, by its name.
        num_rows: Samples in each row group.
    """

    about: dict[str, Any]
    widths: dict[str, int]
    num_rows: tuple[int, ...]


def read_end(file: Any, name: str) -> FeatureParquet:
    """What the end of a file says; its features are not read.

    Args:
        file: Its path, or the file open for reading.
        name: What it is called in messages.

    Raises:
        DataError: It is no such file, or its end is damaged.
    """
    with _reading(file, name) as (_, end):
        return end


def read_whole(file: Any, name: str) -> FeatureParquet:
    """As `read_end`, after all that is in the file was compared with its checksums, a column of a row group at a time.

    Raises:
        DataError: It is no such file, or anything in it is damaged.
    """
    with _reading(file, name) as (opened, end):
        for group in range(len(end.num_rows)):
            for column in (*_OTHERS, *end.widths):
                _checked(opened, end, group, column)
    return end


def is_out_of_reach(error: DataError) -> bool:
    """Whether a file could not be fetched, which tells nothing of what is in it: pyarrow's errors have no number."""
    cause = error.__cause__
    return isinstance(cause, OSError) and (type(cause) is not OSError or cause.errno is not None)


def row_groups(path: Path, layer: str) -> list[RowGroup]:
    """Where a layer's numbers lie in a file, and of which samples they are.

    Raises:
        DataError: It is no such file, is damaged, or does not have the layer.
    """
    with _reading(path, str(path)) as (opened, end):
        if layer not in end.widths:
            raise DataError(f"{path} has no layer {layer!r}; there are: {', '.join(end.widths)}.")
        width, found = end.widths[layer], list[RowGroup]()
        seconds = end.about["seconds"] / max(1, sum(end.num_rows))
        for group, num in enumerate(end.num_rows):
            hashes = b"".join(_checked(opened, end, group, "hash").to_pylist())
            # The page's header and the lists' levels come first; the numbers fill it to its end.
            place = opened.metadata.row_group(group).column(opened.schema_arrow.names.index(layer))
            offset = place.data_page_offset + place.total_compressed_size - 4 * width * num
            content = np.frombuffer(hashes, np.uint8).reshape(num, 16)
            found.append(RowGroup(path, content, width, offset, end.about["checksums"][group][layer], seconds))
        return found


@contextmanager
def _reading(file: Any, name: str) -> Iterator[tuple[Any, FeatureParquet]]:
    """A file, opened, and what its end says; whatever is wrong with it is raised as `DataError`."""
    from pyarrow import parquet

    try:
        with file.open("rb") if isinstance(file, Path) else nullcontext(file) as stream:
            _check_end(stream)
        with parquet.ParquetFile(file, memory_map=isinstance(file, Path), pre_buffer=False) as opened:
            yield opened, _end(opened)
    except parquet_faults() as error:
        raise DataError(
            f"{name} is no whole file of features ({error}); expected one that `bequest features` has written. "
            "Remove it, and run that again."
        ) from error


def _end(opened: Any) -> FeatureParquet:
    about, schema = parse_json(opened.metadata.metadata[_METADATA]), opened.schema_arrow
    widths = {field.name: field.type.list_size for field in schema if field.name not in _OTHERS}
    if not schema.equals(_schema(widths)) or not widths or min(widths.values()) < 1:
        raise ValueError("its columns are others")
    rows = tuple(opened.metadata.row_group(i).num_rows for i in range(opened.num_row_groups))
    check_fields(_About(about["seconds"], about["digest"], about["checksums"]))
    if any(sums.keys() != set(schema.names) for sums in about["checksums"]) or len(about["checksums"]) != len(rows):
        raise ValueError("its parts do not agree")
    _check_layout(opened.metadata, [{**dict.fromkeys(_OTHERS, 0), **widths}[name] for name in schema.names])
    return FeatureParquet(about, widths, rows)


@dataclass(frozen=True)
class _About:
    seconds: float
    digest: str
    checksums: list[dict[str, int]]


def _check_layout(metadata: Any, widths: Sequence[int]) -> None:
    """Refuse a file whose pages are encoded, or do not lie one after another as they are written.

    Args:
        metadata: The file's.
        widths: Numbers of each column; 0 of one that has a value a sample.
    """
    place = len(b"PAR1")
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column, width in zip(map(group.column, range(group.num_columns)), widths, strict=True):
            is_plain = column.compression == "UNCOMPRESSED" and not column.has_dictionary_page
            num_values, size = max(1, width) * group.num_rows, column.total_compressed_size
            if (column.data_page_offset, column.num_values) != (place, num_values) or not num_values or not is_plain:
                raise ValueError("its numbers do not lie end to end")
            if size < 4 * width * group.num_rows:
                raise ValueError("its numbers do not lie end to end")
            place += size


def _checked(opened: Any, end: FeatureParquet, group: int, name: str) -> Any:
    """A column of a row group, after it was compared with its checksum."""
    column = opened.read_row_group(group, columns=[name]).column(name).combine_chunks()
    if _checksum(column) != end.about["checksums"][group][name]:
        raise ValueError(f"{name!r} of its row group {group} is not what was written")
    return column


def _checksum(column: Any) -> int:
    """CRC-32 of a column: of a layer's its numbers as they lie in the file."""
    from pyarrow import types

    if types.is_fixed_size_list(column.type):
        return zlib.crc32(np.ascontiguousarray(column.flatten().to_numpy(), "<f4").data)
    values = column.to_pylist()
    return zlib.crc32(b"".join(v if isinstance(v, bytes) else json.dumps(v).encode() for v in values))


def _schema(widths: Mapping[str, int]) -> Any:
    import pyarrow

    number = pyarrow.field("element", pyarrow.float32(), nullable=False)
    lists = [pyarrow.field(n, pyarrow.list_(number, w), nullable=False) for n, w in widths.items()]
    known = [pyarrow.field(n, pyarrow.string(), nullable=False) for n in _OTHERS[:2]]
    return pyarrow.schema([*known, pyarrow.field("hash", pyarrow.binary(16), nullable=False), *lists])


@dataclass(frozen=True)
class FeatureRows:
    """Features of many samples, as arrays, mapped from the files that hold them.

    A row group is compared with its checksum when the first of its samples is asked for; `DataError` where it is
    damaged or gone.

    Attributes:
        groups: Of each run of samples, its row group in each layer.
        keys: Which sample each is.
        made_by: What tells these features from others of the same contents: the layers, and what gave them.
    """

    groups: tuple[tuple[RowGroup, ...], ...]
    keys: Sequence[str]
    made_by: str

    @property
    def modality(self) -> Modality:
        """Always `array`."""
        return "array"

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Array:
        if not 0 <= index < len(self):
            raise IndexError(index)
        i = bisect.bisect_right(self._ends, index)
        row = index - (self._ends[i - 1] if i else 0)
        if i not in self._values:
            self._values[i] = [_opened(group) for group in self.groups[i]]
        return np.concatenate([values[row] for values in self._values[i]])

    @cached_property
    def hashes(self) -> HashArray:
        """uint8 (samples, 16): of what the features were made of and by, so those of two sources never count as one."""
        salted = hashlib.blake2b(self.made_by.encode(), digest_size=16)

        def of(content: Array) -> bytes:
            digest = salted.copy()
            digest.update(content.tobytes())
            return digest.digest()

        return spool_hashes(of(content) for layers in self.groups for content in layers[0].hashes)

    def content_hash(self, index: int) -> bytes:
        """Of what the features were made of and by (16 bytes)."""
        return self.hashes[index].tobytes()

    def describe(self, index: int) -> str:
        """The sample's key."""
        return self.keys[index]

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(len(layers[0].hashes) for layers in self.groups))

    @cached_property
    def _values(self) -> dict[int, list[Array]]:
        return {}


def _opened(group: RowGroup) -> Array:
    try:
        return group.values()
    except OSError as error:
        raise DataError(
            f"{group.path} cannot be read ({error.strerror or error}); expected it where it was when the features were "
            "loaded. Put it back."
        ) from error


@dataclass(frozen=True)
class Manifest:
    """What a folder of features says of itself.

    Attributes:
        num_samples: In all files together.
        layers: Numbers of each layer, by its name.
        keys: What each layer's records depend on beside the sample, by its name.
        shards: Of each file at least its name, `file`.
    """

    num_samples: int
    layers: dict[str, int]
    keys: dict[str, dict[str, Any]]
    shards: list[dict[str, Any]]

    def files(self, folder: Path) -> list[Path]:
        """The files, which lie in the folder whatever their names say."""
        return [folder / Path(shard["file"]).name for shard in self.shards]


def read_manifest(folder: Path) -> Manifest:
    """What a folder of features says of itself.

    Raises:
        RunError: It has no manifest, one that is none of ours, or not the files that it lists.
    """
    place, names = folder / MANIFEST, [field.name for field in fields(Manifest)]
    content = read_json(place)
    try:
        if lacking := [name for name in names if not isinstance(content, dict) or name not in content]:
            raise TypeError(f"it has no {listed(lacking)}")
        manifest = Manifest(*(content[name] for name in names))
        _check_manifest(manifest)
    except TypeError as error:
        raise RunError(
            f"{place} lists no features ({error}); expected what `bequest features` writes. Run it again."
        ) from error
    lacking = [str(path) for path in manifest.files(folder) if not _is_file(path)]
    if lacking:
        raise RunError(f"There is no {listed(lacking, 3)}, which {place} lists. Run `bequest features` again.")
    return manifest


def _check_manifest(manifest: Manifest) -> None:
    check_fields(manifest)
    if not manifest.layers or manifest.layers.keys() != manifest.keys.keys():
        raise TypeError(
            f"keys has {listed(list(manifest.keys)) or 'none'}, layers {listed(list(manifest.layers)) or 'none'}"
        )
    for i, shard in enumerate(manifest.shards):
        if not isinstance(shard.get("file"), str):
            raise TypeError(f"shards[{i}].file is {repr(shard.get('file'))[:60]}, expected str")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False  # a name that no file can have


def read_features(folder: Path) -> tuple[FeatureRows, Sequence[str]]:
    """Features from a folder that `bequest features` has written, mapped, and the labels, empty where none are known.

    Raises:
        DataError: A file is damaged, or of other layers than the manifest says.
        RunError: The folder has no manifest, or files are missing.
    """
    manifest = read_manifest(folder)
    files, groups = manifest.files(folder), list[tuple[RowGroup, ...]]()
    for path in files:
        groups += zip(*(_layer(path, name, width) for name, width in manifest.layers.items()), strict=True)
    keys, labels = (spool_texts(t for path in files for t in _texts(path, name)) for name in _OTHERS[:2])
    made_by = json.dumps({"layers": list(manifest.layers), "keys": manifest.keys}, sort_keys=True)
    return FeatureRows(tuple(groups), keys, made_by), labels


def _layer(path: Path, name: str, width: int) -> list[RowGroup]:
    found = row_groups(path, name)
    if any(group.width != width for group in found):
        raise DataError(
            f"The layer {name!r} in {path} has {found[0].width:,} numbers, in {MANIFEST} {width:,}; expected the same. "
            "Run `bequest features` again."
        )
    return found


def _texts(path: Path, column: str) -> Iterator[str]:
    with _reading(path, str(path)) as (opened, end):
        for group in range(len(end.num_rows)):
            yield from _checked(opened, end, group, column).to_pylist()


def features_task(folder: Path, task: TaskChoice, origin: Mapping[str, Any]) -> Task:
    """The labelled features in a folder that `bequest features` has written, as arrays.

    Raises:
        DataError: Labels are missing, or a file is damaged.
        RunError: As for `read_features`.
    """
    rows, texts = read_features(folder)
    columns = LabelColumns([[text or None for text in texts]], ["label"], rows.describe)
    return assemble(Labelled(rows, read_labels(columns, task)), folder.name, origin=origin)
