"""Samples at any address of fsspec (a local path, s3://, gs://, http://, …), a shard at a time, none kept in memory.

A shard is what one pass writes one file for: a tar in WebDataset's layout, some row groups of a Parquet file, or a run
of files in sorted order. Its name holds its path from the data's root and its size, so the same data give the same
shards wherever they lie.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, cast

from bequest.core.errors import DataError
from bequest.core.observe import Observer
from bequest.core.task import Modality
from bequest.data.addresses import Listing, filesystem, list_files, reason
from bequest.data.images import SUFFIXES
from bequest.data.messages import counted, listed, told_links
from bequest.data.parquet import as_parquet, parquet_rows
from bequest.data.tars import Members, tar_samples

Kind = Literal["files", "tar", "parquet"]

_CHOOSE = "Name another folder, or choose with a pattern, e.g. 'folder/*.tar'."
_TARS = (".tar", ".tar.gz", ".tgz")
_LISTERS = 16
"""Threads that read the ends of Parquet files, to see their row groups."""
_READ_BYTES = 2**20
_NAMES: Mapping[Modality, tuple[str, ...]] = {
    "image": ("image", "img", "images", "jpg", "png", "picture", "bytes"),
    "text": ("text", "sentence", "content", "review", "body", "message"),
}
_LABEL_NAMES = ("label", "class", "category", "target")
_LABEL_MEMBERS = ("cls", "label")


@dataclass(frozen=True)
class Columns:
    """Which columns of a Parquet file, or members of a tar's sample, are what; None to recognise them.

    Attributes:
        sample: Of images' bytes, or of texts.
        label: Of labels.
    """

    sample: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class InputShard:
    """Some of the samples.

    Attributes:
        name: Tells it from all others; fit for a file's name.
        kind: How they are kept.
        base: What stands before a file's path in its address.
        keys: The files' paths.
        groups: Of a Parquet file, the first row group and the one after the last; (0, 0) of others.
    """

    name: str
    kind: Kind
    base: str
    keys: tuple[str, ...]
    groups: tuple[int, int] = (0, 0)

    @property
    def only(self) -> tuple[str, str]:
        """Address and path of the one file."""
        [key] = self.keys
        return self.base + key, key


@dataclass(frozen=True)
class Item:
    """A sample that is not yet decoded.

    Attributes:
        key: Tells it from all others of the data.
        label: Its label as text; empty where none is known.
        read: An image's bytes, or a text; raises `DataError` or `OSError` where it cannot be had.
        num_bytes: That it holds already; 0 where `read` fetches them.
    """

    key: str
    label: str
    read: Callable[[], Any]
    num_bytes: int = 0


def find_shards(address: str | Path, modality: Modality, size: int, observer: Observer) -> list[InputShard]:
    """The shards of the data at an address.

    Args:
        address: A folder, all of whose images (or .txt files), Parquet files or tars are taken; a file; or a pattern
            with `*`; local, or of any protocol that fsspec knows.
        modality: What is looked for among a folder's files.
        size: Samples in a shard, about: files of a run, least rows of row groups. A tar is one shard.
        observer: Told of links to images or texts that lead out of the data, which are not followed.

    Raises:
        DataError: There are no data, data of several kinds, or Parquet files without rows.
        RunError: The package for the address's protocol is not installed.
    """
    files = list_files(str(address))
    wanted = SUFFIXES if modality == "image" else {".txt"}
    found = {path: kind for path in files.num_bytes if (kind := _kind(path, wanted)) is not None}
    linked = {path for path in files.leading_out if found.get(path) == "files"}
    told = told_links(files.root, linked)
    kinds = sorted({kind for path, kind in found.items() if path not in linked})
    if len(kinds) != 1:
        what = f"holds data of several kinds: {', '.join(kinds)}" if kinds else "holds no data"
        raise DataError(
            f"{address} {what}; expected tars, Parquet files, or {'images' if modality == 'image' else '.txt files'}. "
            f"{told or _CHOOSE}"
        )
    if told:
        observer.note(told)
    paths = sorted(found.keys() - linked)
    if kinds == ["tar"]:
        return [_shard("tar", [path], files) for path in paths]
    if kinds == ["parquet"]:
        with ThreadPoolExecutor(_LISTERS) as pool:
            parts = pool.map(lambda path: _row_groups(files.base + path, size), paths)
            shards = [_shard("parquet", [p], files, run) for p, runs in zip(paths, parts, strict=True) for run in runs]
        if not shards:
            raise DataError(f"{address} holds no rows ({listed(paths, 3)}); expected a sample a row. {_CHOOSE}")
        return shards
    return [_shard("files", paths[start : start + size], files) for start in range(0, len(paths), size)]


def read_items(shard: InputShard, modality: Modality, columns: Columns) -> Iterator[Item]:
    """A shard's samples, one after another, each key once.

    Raises:
        DataError: A file is damaged, or there are no samples of that kind in it.
    """
    read = {"files": _files, "tar": _tar, "parquet": _parquet}[shard.kind]
    seen: set[str] = set()
    for item in read(shard, modality, columns):
        if item.key in seen:
            raise DataError(f"{item.key} is there twice; expected every sample's name once. Rename or remove one.")
        seen.add(item.key)
        yield item


def _kind(path: str, wanted: frozenset[str] | set[str]) -> Kind | None:
    name = path.lower()
    if name.endswith(_TARS):
        return "tar"
    if name.endswith(".parquet"):
        return "parquet"
    return "files" if PurePosixPath(name).suffix in wanted else None


def _shard(kind: Kind, paths: Sequence[str], files: Listing, groups: tuple[int, int] = (0, 0)) -> InputShard:
    described = repr([(path, files.num_bytes[path]) for path in paths]) + repr(groups)
    digest = hashlib.blake2b(described.encode(errors="surrogatepass"), digest_size=8).hexdigest()
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", paths[0])[-60:].strip("-")
    return InputShard(f"{stem}-{digest}", kind, files.base, tuple(paths), groups)


def _row_groups(url: str, size: int) -> list[tuple[int, int]]:
    """Runs of row groups with `size` rows or more each, but for the last."""
    with _parquet_file(url) as (_, file), as_parquet(url):
        about = file.metadata
        runs, first, rows = list[tuple[int, int]](), 0, 0
        for group in range(about.num_row_groups):
            rows += about.row_group(group).num_rows
            if rows >= size or (rows and group == about.num_row_groups - 1):
                runs.append((first, group + 1))
                first, rows = group + 1, 0
        return runs


def _files(shard: InputShard, modality: Modality, _: Columns) -> Iterator[Item]:
    for key in shard.keys:
        yield Item(key, PurePosixPath(key).parent.name, partial(_whole_file, shard.base + key, modality))


def _whole_file(url: str, modality: Modality) -> Any:
    with _opened(url) as file:
        data = file.read()
    return data if modality == "image" else _text(data, url)


def _tar(shard: InputShard, modality: Modality, columns: Columns) -> Iterator[Item]:
    url, key = shard.only
    with _opened(url) as file:
        for name, members in tar_samples(file, url):
            yield _tar_item(f"{key}/{name}", members, modality, columns)


def _tar_item(key: str, members: Members | DataError, modality: Modality, columns: Columns) -> Item:
    if isinstance(members, DataError):
        return Item(key, "", partial(_refuse, DataError(f"The sample {key} {members}")))
    named = columns.label or next((name for name in _LABEL_MEMBERS if name in members), None)
    label = members.get(named, b"") if named else b""
    text = label.decode(errors="replace").strip() if isinstance(label, bytes) else ""
    wanted = SUFFIXES if modality == "image" else {".txt"}
    found = [columns.sample] if columns.sample else [name for name in members if f".{name}" in wanted]
    try:
        content = _tar_sample(key, members, found, named, modality)
    except DataError as error:
        return Item(key, text, partial(_refuse, error))
    return _held(key, text, content)


def _held(key: str, label: str, content: bytes | str) -> Item:
    return Item(key, label, lambda: content, len(content))


def _refuse(error: DataError) -> Any:
    raise error


def _tar_sample(key: str, members: Members, found: Sequence[str], label: str | None, modality: Modality) -> Any:
    if label is not None and label not in members:
        raise DataError(
            f"The sample {key} has the members {listed(sorted(members))}; expected the label {label} among them. Add "
            "it, or name another: --label-column."
        )
    if len(found) != 1 or found[0] not in members:
        flag = "--image-column" if modality == "image" else "--text-column"
        raise DataError(
            f"The sample {key} has the members {listed(sorted(members))}; expected one "
            f"{'image' if modality == 'image' else 'text'} among them. Name its extension: {flag}."
        )
    contents = {name: members[name] for name in (found[0], label) if name is not None}
    for name, content in contents.items():
        if isinstance(content, DataError):
            raise DataError(f"The member {name} of the sample {key} {content}. Replace it with a file.")
    data = cast(bytes, contents[found[0]])
    return data if modality == "image" else _text(data, f"{key}.{found[0]}")


def _parquet(shard: InputShard, modality: Modality, columns: Columns) -> Iterator[Item]:
    url, key = shard.only
    first, end = shard.groups
    with _parquet_file(url) as (stream, file):
        with as_parquet(url):
            sample, label = _column(file.schema_arrow, url, modality, columns)
            before = sum(file.metadata.row_group(i).num_rows for i in range(first))
        wanted = [sample, label] if label else [sample]
        for number, cells in enumerate(parquet_rows(stream, url, wanted, range(first, end)), before):
            name, text = f"{key}#{number}", cells[1] if label else None
            yield _cell(name, "" if text is None else str(text), cells[0], modality, url)


def _column(schema: Any, url: str, modality: Modality, columns: Columns) -> tuple[str, str | None]:
    """The columns of samples and of labels."""
    for given in (columns.sample, columns.label):
        if given is not None and given not in schema.names:
            raise DataError(f"{url} has no column {given!r}; there are: {listed(schema.names, 20)}.")
    labels = {*_LABEL_NAMES, columns.label}
    fitting = [field.name for field in schema if field.name not in labels and _fits(field.type, modality)]
    named = [name for name in _NAMES[modality] if name in fitting]
    sample = columns.sample or next(iter(named or (fitting if len(fitting) == 1 else [])), None)
    if sample is None:
        flag, what = ("--image-column", "images' bytes") if modality == "image" else ("--text-column", "texts")
        raise DataError(
            f"{url} has {counted(len(fitting), 'column')} of {what} ({listed(fitting) or 'none'}); expected one that "
            f"can be told. Name it: {flag}."
        )
    label = columns.label or next((name for name in _LABEL_NAMES if name in schema.names and name != sample), None)
    return sample, label


def _fits(kind: Any, modality: Modality) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _fits(kind.value_type, modality)
    if modality == "text":
        return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    if types.is_struct(kind):
        return any(field.name == "bytes" for field in kind)
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)


def _cell(key: str, label: str, cell: Any, modality: Modality, url: str) -> Item:
    value = cell.get("bytes") if isinstance(cell, dict) else cell
    if isinstance(value, bytes if modality == "image" else str):
        return _held(key, label, value)
    told = f"{key} in {url} is {type(value).__name__}; expected an image's bytes or a text. Fill or remove it."
    return Item(key, label, partial(_refuse, DataError(told)))


def _text(data: bytes, place: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{place} is no UTF-8 ({error.reason}, byte {error.start}). Convert it.") from error


@contextmanager
def _opened(url: str) -> Iterator[IO[bytes]]:
    system, path = filesystem(url)
    try:
        file = system.open(path, "rb")
    except OSError as error:
        raise DataError(f"Cannot open {url} ({reason(error)}); expected a file that can be read.") from error
    with file:
        yield file


@contextmanager
def _parquet_file(url: str) -> Iterator[tuple[IO[bytes], Any]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            f"Cannot read {url}: the package that reads Parquet files is not installed; expected pyarrow. Install it: "
            "pip install 'bequest[tables]'"
        ) from error
    with _opened(url) as file:
        with as_parquet(url):
            opened = parquet.ParquetFile(file, pre_buffer=False, buffer_size=_READ_BYTES)
        yield file, opened
