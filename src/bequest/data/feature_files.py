"""Features in Parquet files that are read memory-mapped: a file a shard, and a manifest that lists them.

A file's columns are `key` (which sample), `label` (as text, empty where none is known), `hash` (of the sample's
content, 16 bytes) and one fixed-size list of float32 for each layer. Features are neither compressed nor encoded, and a
row group has one page of them, so its values lie end to end in the file, and are mapped from where they lie. Every
other reader of Parquet sees plain lists.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

import numpy as np

from bequest.core.errors import DataError, RunError
from bequest.core.parse import parse_json
from bequest.core.results import read_json
from bequest.core.task import HashArray, Modality, Task
from bequest.data.assemble import Labelled, assemble
from bequest.data.labels import LabelColumns, TaskChoice, read_labels
from bequest.data.mapped import map_file
from bequest.data.messages import listed
from bequest.data.spool import spool_hashes, spool_texts

Array = np.ndarray[Any, Any]

MANIFEST = "features.json"
SUFFIX = ".parquet"

_ROWS = 4096
_GROUP_BYTES = 2**24
"""Features in a row group at most, unless a sample has more: what a writer holds in memory."""
_METADATA = b"bequest"
_OTHERS = ("key", "label", "hash")


class FeatureWriter:
    """Writes one file, a row group at a time; a context, so that it does not outlive the file.

    Args:
        file: Open for writing.
        widths: Numbers of each layer, by its name.
    """

    def __init__(self, file: IO[bytes], widths: Mapping[str, int]) -> None:
        import pyarrow
        from pyarrow import parquet

        number = pyarrow.field("element", pyarrow.float32(), nullable=False)
        lists = [pyarrow.field(n, pyarrow.list_(number, w), nullable=False) for n, w in widths.items()]
        known = [pyarrow.field(n, pyarrow.string(), nullable=False) for n in _OTHERS[:2]]
        self._schema = pyarrow.schema([*known, pyarrow.field("hash", pyarrow.binary(16), nullable=False), *lists])
        self._widths, self._size = dict(widths), max(1, min(_ROWS, _GROUP_BYTES // (4 * sum(widths.values()))))
        # One page a row group: no limit to its bytes, and rows are not handed on in parts.
        layout = {"data_page_size": 2**30, "write_batch_size": _ROWS, "use_dictionary": False, "compression": "none"}
        self._writer = parquet.ParquetWriter(file, self._schema, write_statistics=False, **layout)
        self._rows: list[tuple[str, str, bytes]] = []
        self._features: list[Array] = []
        self._digest = hashlib.blake2b(digest_size=16)
        self._checksums: list[dict[str, int]] = []
        self.num_rows = 0

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

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
        told = {**about, "digest": self.digest, "checksums": self._checksums}
        self._writer.add_key_value_metadata({_METADATA: json.dumps(told).encode()})

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
        self._checksums.append({name: zlib.crc32(values.data) for name, values in layers.items()})
        self._digest.update(repr(rows).encode())
        for values in layers.values():
            self._digest.update(values.data)


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
        """Float32 (samples, width), mapped."""
        mapped = map_file(self.path, self.end)[self.offset :].view("<f4").reshape(len(self.hashes), self.width)
        mapped.setflags(write=False)
        return mapped


@dataclass(frozen=True)
class FeatureParquet:
    """What the end of a file says.

    Attributes:
        about: Plain data that its writer gave, with `digest` and `checksums`.
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
        DataError: It is no such file, or damaged.
    """
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(file) as opened:
            about = parse_json((opened.metadata.metadata or {})[_METADATA])
            schema = opened.schema_arrow
            widths = {field.name: field.type.list_size for field in schema if field.name not in _OTHERS}
            rows = tuple(opened.metadata.row_group(i).num_rows for i in range(opened.num_row_groups))
            if not isinstance(about, dict) or len(about["checksums"]) != len(rows):
                raise ValueError("its parts do not agree")
    except (ArrowException, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise DataError(
            f"{name} is no whole file of features ({error}); expected one that `bequest features` has written. "
            "Remove it, and run that again."
        ) from error
    return FeatureParquet(about, widths, rows)


def row_groups(path: Path, layer: str) -> list[RowGroup]:
    """Where a layer's numbers lie in a file, and of which samples they are.

    Raises:
        DataError: It is no such file, is damaged, or does not have the layer.
    """
    from pyarrow import ArrowException, parquet

    end = read_end(path, str(path))
    if layer not in end.widths:
        raise DataError(f"{path} has no layer {layer!r}; there are: {', '.join(end.widths)}.")
    width, found = end.widths[layer], list[RowGroup]()
    try:
        seconds = float(end.about["seconds"]) / max(1, sum(end.num_rows))
        with parquet.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
            column = file.schema_arrow.names.index(layer)
            for group, num in enumerate(end.num_rows):
                about = file.metadata.row_group(group).column(column)
                hashes = file.read_row_group(group, columns=["hash"]).column(0).combine_chunks()
                content = np.frombuffer(b"".join(hashes.to_pylist()), np.uint8).reshape(num, 16)
                # The page's header and the lists' levels come first; the numbers fill it to its end.
                offset = about.data_page_offset + about.total_compressed_size - 4 * width * num
                is_plain = about.compression == "UNCOMPRESSED" and "PLAIN" in about.encodings
                if not is_plain or offset < about.data_page_offset or about.num_values != width * num:
                    raise ValueError("its numbers do not lie end to end")
                checksum = int(end.about["checksums"][group][layer])
                found.append(RowGroup(path, content, width, offset, checksum, seconds))
    except (ArrowException, KeyError, OSError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}). Remove it, and run `bequest features` again.") from error
    return found


@dataclass(frozen=True)
class FeatureRows:
    """Features of many samples, as arrays, mapped from the files that hold them.

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
    def _values(self) -> list[list[Array]]:
        return [[group.values() for group in layers] for layers in self.groups]


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a folder of features says of itself.

    Raises:
        RunError: It has no manifest, or one that is none of ours.
    """
    content = read_json(folder / MANIFEST)
    if not isinstance(content, dict) or not {"layers", "keys", "shards", "num_samples"} <= content.keys():
        raise RunError(f"{folder / MANIFEST} lists no features; expected what `bequest features` writes. Run it again.")
    return content


def read_features(folder: Path) -> tuple[FeatureRows, Sequence[str]]:
    """Features from a folder that `bequest features` has written, mapped, and the labels, empty where none are known.

    Raises:
        DataError: A file is damaged.
        RunError: The folder has no manifest, or files are missing.
    """
    from pyarrow import parquet

    manifest = read_manifest(folder)
    files = [folder / Path(shard["file"]).name for shard in manifest["shards"]]
    lacking = [str(path) for path in files if not path.is_file()]
    if lacking:
        raise RunError(
            f"There is no {listed(lacking, 3)}, which {folder / MANIFEST} lists. Run `bequest features` again."
        )
    groups: list[tuple[RowGroup, ...]] = []
    for path in files:
        groups += zip(*(row_groups(path, layer) for layer in manifest["layers"]), strict=True)

    def column(name: str) -> Sequence[str]:
        return spool_texts(t for p in files for t in parquet.read_table(p, columns=[name]).column(0).to_pylist())

    made_by = json.dumps({"layers": list(manifest["layers"]), "keys": manifest["keys"]}, sort_keys=True)
    return FeatureRows(tuple(groups), column("key"), made_by), column("label")


def features_task(folder: Path, task: TaskChoice, origin: Mapping[str, Any]) -> Task:
    """The labelled features in a folder that `bequest features` has written, as arrays.

    Raises:
        DataError: Labels are missing, or a file is damaged.
        RunError: As for `read_features`.
    """
    rows, texts = read_features(folder)
    columns = LabelColumns([[text or None for text in texts]], ["label"], rows.describe)
    return assemble(Labelled(rows, read_labels(columns, task)), folder.name, origin=origin)
