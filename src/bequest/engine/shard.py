"""A shard: some samples' records in one file, in the layout of safetensors, that never changes once it is there.

`hashes` uint8 (records, 16), `lengths` int64 (records,) and `values` (rows, …), the records end to end. The file's name
ends with the CRC-32 of its folder's name, which is the key's digest, and its bytes: so a damaged one, or one of another
key that somebody put there, is known before anything is read from it.
"""

from __future__ import annotations

import json
import math
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bequest.core.errors import SourceError
from bequest.core.parse import parse_json
from bequest.core.results import atomic_open
from bequest.data.mapped import map_file

if TYPE_CHECKING:
    from torch import Tensor

Array = np.ndarray[Any, Any]

SUFFIX = ".shard2"
"""Its number is the layout's version: files of another are not looked at."""

_DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
}
_NAMES = {code: name for name, code in _DTYPES.items()}
_BLOCK = 2**20
_LONGEST_HEADER = 2**16


class DamagedShard(Exception):
    """A file's bytes are not what was once written."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path.name} is damaged")
        self.path = path


@dataclass(frozen=True)
class Shard:
    """What a shard's file says of its records.

    Attributes:
        path: The file.
        dtype: Name of the values' type, as torch has it.
        shape: Of the values: all records' rows together, then what the records have in common.
        offset: Where in the file the values begin.
        seconds: What computing one of its records took, on average.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    seconds: float

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return self.offset + math.prod(self.shape) * _stored(self.dtype).itemsize

    def open(self) -> Array:
        """The values, memory-mapped, after every byte of the file was checked; bfloat16 as uint16.

        Raises:
            DamagedShard: The file's bytes are others than were written.
            OSError: The file is gone or cannot be read.
        """
        crc = _checksum(self.path.parent)
        with self.path.open("rb") as file:
            # Not through the map: what is read there counts as this process's memory.
            while block := file.read(_BLOCK):
                crc = zlib.crc32(block, crc)
        if not self.path.name.endswith(f"-{crc:08x}{SUFFIX}"):
            raise DamagedShard(self.path)
        return self.mapped(self.path)

    def mapped(self, path: Path) -> Array:
        """The values in a file whose bytes are known to be right."""
        data = map_file(path, self.num_bytes)
        values = data[self.offset :].view(_stored(self.dtype)).reshape(self.shape)
        values.setflags(write=False)
        return values


def write_shard(
    folder: Path, hashes: Array, records: Sequence[Array | Tensor], seconds: float
) -> tuple[Shard, Array, Array]:
    """Write records into a new file, which appears whole or not at all.

    Args:
        folder: Where to.
        hashes: uint8 (records, 16): content hash of each sample.
        records: One array or tensor a sample; all of one dtype and one shape after the first dimension.
        seconds: What computing them took together.

    Returns:
        The shard, the length of each record, int64 (records,), and the values, mapped.

    Raises:
        SourceError: The records differ in dtype or shape, or are of a dtype that is not known.
        OSError: The file cannot be written.
    """
    dtype, arrays = _alike(records)
    lengths = np.array([len(array) for array in arrays], dtype="<i8")
    shape = (int(lengths.sum()), *arrays[0].shape[1:])
    header = _header(dtype, len(arrays), shape, seconds)
    parts = [header, np.ascontiguousarray(hashes, np.uint8), lengths, *arrays]
    crc = _checksum(folder)
    for part in parts:
        crc = zlib.crc32(_buffer(part), crc)
    offset = len(header) + len(arrays) * 24
    shard = Shard(folder / f"{uuid.uuid4().hex}-{crc:08x}{SUFFIX}", dtype, shape, offset, seconds / len(arrays))
    with atomic_open(shard.path, durable=False) as file:
        for part in parts:
            file.write(_buffer(part))
        file.flush()
        # Mapped before it has its name: from then on another process may delete it.
        values = shard.mapped(Path(file.name))
    return shard, lengths, values


def read_shard(path: Path) -> tuple[Shard, Array, Array]:
    """What a file says of its records, without their values: the shard, hashes, lengths.

    Raises:
        DamagedShard: The file is cut short, or its first bytes are others than were written.
        OSError: The file is gone or cannot be read.
    """
    with path.open("rb") as file:
        try:
            size = int.from_bytes(file.read(8), "little")
            header = parse_json(file.read(size if size <= _LONGEST_HEADER else 0))
            [num_records, _] = header["hashes"]["shape"]
            if not 0 < num_records * 24 <= path.stat().st_size:
                raise ValueError("it has not as many bytes as its records need")
            values, seconds = header["values"], float(header["__metadata__"]["seconds"])
            shape, dtype = tuple(map(int, values["shape"])), _NAMES[values["dtype"]]
            shard = Shard(path, dtype, shape, 8 + size + num_records * 24, seconds / num_records)
            hashes = np.frombuffer(file.read(num_records * 16), np.uint8).reshape(num_records, 16)
            lengths = np.frombuffer(file.read(num_records * 8), "<i8", num_records)
            if min(shape, default=0) < 0 or shard.num_bytes != path.stat().st_size:
                raise ValueError("its size is another")
            if lengths.min() < 0 or shape[:1] != (lengths.sum(),):
                raise ValueError("its records are not all of its rows")
        except (ArithmeticError, KeyError, TypeError, ValueError) as error:
            raise DamagedShard(path) from error
    return shard, hashes, lengths


def count_records(path: Path) -> int:
    """How many records a file says that it has; none where it cannot be read."""
    try:
        return len(read_shard(path)[2])
    except (DamagedShard, OSError):
        return 0


def as_tensor(values: Array, dtype: str) -> Tensor:
    """A tensor over the memory of an array that `Shard.open` made a copy of."""
    import torch

    tensor = torch.from_numpy(values)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor


def _checksum(folder: Path) -> int:
    """What the checksum of a folder's shards begins with."""
    return zlib.crc32(folder.name.encode())


def _stored(dtype: str) -> np.dtype[Any]:
    """How values of a type lie in memory: numpy has no bfloat16."""
    return np.dtype("uint16" if dtype == "bfloat16" else dtype).newbyteorder("<")


def _alike(records: Sequence[Array | Tensor]) -> tuple[str, list[Array]]:
    named = [_plain(record) for record in records]
    kinds = {f"{name} (n{''.join(f', {n}' for n in a.shape[1:])})" if a.ndim else f"{name} ()" for name, a in named}
    name, first = named[0]
    if len(kinds) > 1 or first.ndim == 0 or name not in _DTYPES:
        raise SourceError(
            f"The preprocessing or the body made arrays of these dtypes and shapes: {'; '.join(sorted(kinds)[:4])}; "
            f"expected one dtype of {', '.join(_DTYPES)}, and one shape after the first dimension. Make them alike in "
            "the preprocessing."
        )
    return name, [array for _, array in named]


def _plain(record: Array | Tensor) -> tuple[str, Array]:
    if isinstance(record, np.ndarray):
        return record.dtype.name, record
    import torch

    name, plain = str(record.dtype).removeprefix("torch."), record.detach().cpu()
    return name, (plain.contiguous().view(torch.uint16) if name == "bfloat16" else plain).numpy()


def _header(dtype: str, num_records: int, shape: tuple[int, ...], seconds: float) -> bytes:
    first, second = num_records * 16, num_records * 24
    end = second + math.prod(shape) * _stored(dtype).itemsize
    described = {
        "__metadata__": {"seconds": repr(float(seconds))},
        "hashes": {"dtype": "U8", "shape": [num_records, 16], "data_offsets": [0, first]},
        "lengths": {"dtype": "I64", "shape": [num_records], "data_offsets": [first, second]},
        "values": {"dtype": _DTYPES[dtype], "shape": shape, "data_offsets": [second, end]},
    }
    text = json.dumps(described).encode()
    text += b" " * (-len(text) % 8)  # so that the values are aligned
    return len(text).to_bytes(8, "little") + text


def _buffer(part: bytes | Array) -> Any:
    """The bytes as they go into the file, without a copy where they lie so already."""
    if isinstance(part, bytes):
        return part
    flat = np.ascontiguousarray(part, part.dtype.newbyteorder("<")).reshape(-1)
    return flat.view(np.uint8).data
