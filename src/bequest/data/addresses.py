"""What lies at an address that fsspec knows: a local path, s3://, gs://, http:// and others."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bequest.core.errors import DataError, RunError

_MAGIC = re.compile(r"[*?\[]")
_CHAINED = re.compile(r"^[^/]*::|::(/|.*://)")
_FILES = ("file", "link")


@dataclass(frozen=True)
class Listing:
    """The files at an address, without those whose path has a part that is hidden.

    Attributes:
        root: The folder that paths are told from.
        base: What stands before a file's path in its address.
        num_bytes: Of each file, by its path; 0 where that is not known.
        leading_out: Paths of links to files that lie outside the root.
    """

    root: str
    base: str
    num_bytes: Mapping[str, int]
    leading_out: frozenset[str]


def filesystem(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it.

    Raises:
        RunError: fsspec does not know the protocol, or the package for it is not installed; or the address is a chain
            of several.
    """
    import fsspec
    from fsspec.core import url_to_fs

    if address.startswith("file://") or "://" not in address:
        system: Any = fsspec.filesystem("file")
        return system, system._strip_protocol(address)
    if _CHAINED.search(address):
        raise RunError(
            f"Cannot read {address}: it is a chain of addresses. Expected one address. Unpack or copy what lies there, "
            "and name that."
        )
    # fsspec takes what follows :: for another address; here it is part of a file's name.
    start, mark, end = address.partition("::")
    try:
        system, path = url_to_fs(start)
        return system, path + mark + end
    except (ImportError, TypeError, ValueError) as error:
        raise RunError(
            f"Cannot read {address}: {error}. Expected a local path, or a protocol that fsspec knows, with its package "
            "installed."
        ) from error


def list_files(address: str) -> Listing:
    """All files at an address.

    Args:
        address: A folder, a file, or a pattern with `*`.

    Raises:
        DataError: There are none, or the address or a folder in it cannot be listed.
        RunError: As for `filesystem`.
    """
    system, path = filesystem(address)
    base, num_bytes, leading_out = "", dict[str, int](), set[str]()
    try:
        root, entries = _entries(system, path)
        real_root = os.path.realpath(root)
        for entry in entries:
            name = entry["name"][len(root) :].lstrip("/")
            if not _is_file(entry) or any(part.startswith(".") for part in name.split("/")):
                continue
            base = base or system.unstrip_protocol(entry["name"]).removesuffix(name)
            num_bytes[name] = int(entry.get("size") or 0)
            if entry.get("islink") and not Path(os.path.realpath(entry["name"])).is_relative_to(real_root):
                leading_out.add(name)
    except (OSError, ValueError) as error:
        raise DataError(f"Cannot list {address} ({reason(error)}); expected data there. Correct its name.") from error
    if not num_bytes:
        raise DataError(f"There is nothing at {address}; expected a folder, a file, or a pattern. Correct its name.")
    return Listing(root, base, num_bytes, frozenset(leading_out))


def _entries(system: Any, path: str) -> tuple[str, Iterator[dict[str, Any]]]:
    """The folder that paths are told from, and what fsspec knows of each file."""
    if _is_pattern(system, path):
        return _MAGIC.split(path)[0].rpartition("/")[0], iter(system.glob(path, detail=True).values())
    if system.isdir(path):
        return path.rstrip("/"), _walk(system, path)
    return path.rpartition("/")[0], iter([{**system.info(path), "islink": False}])


def _is_pattern(system: Any, path: str) -> bool:
    """Whether it stands for others; a file or a folder may have such characters in its name too."""
    return bool(_MAGIC.search(path)) and not system.exists(path)


def takes_from(address: str, folder: str) -> bool:
    """Whether what lies in a folder would be, or be looked through for, data at an address.

    Raises:
        RunError: As for `filesystem`.
    """
    from fsspec.implementations.local import LocalFileSystem
    from fsspec.utils import glob_translate

    (system, path), (other, place) = filesystem(address), filesystem(folder)
    if system != other:
        return False
    if _is_pattern(system, path):
        inside = glob_translate(path.rpartition("/")[0] + "/")
        return bool(re.match(glob_translate(path), place) or re.match(inside, f"{place}/"))
    if isinstance(system, LocalFileSystem):
        path, place = os.path.realpath(path), os.path.realpath(place)
    return f"{place}/".startswith(f"{path.rstrip('/')}/") and not system.isfile(path)


def _walk(system: Any, folder: str) -> Iterator[dict[str, Any]]:
    """Folder by folder, for a file's entry takes a kilobyte; fsspec's own walk leaves out what cannot be listed."""
    todo = [folder]
    while todo:
        folder = todo.pop()
        for entry in system.ls(folder, detail=True):
            if entry["name"].rstrip("/") == folder.rstrip("/"):
                continue  # object stores keep a folder as an object of its name
            if entry["type"] == "directory":
                todo.append(entry["name"])
            else:
                yield entry


def _is_file(entry: Mapping[str, Any]) -> bool:
    """Of local links, to files; pipes and sockets would not end."""
    return entry["type"] in _FILES or bool(entry.get("islink") and os.path.isfile(entry["name"]))


def reason(error: BaseException) -> str:
    """What a fault of a file says, in a few words."""
    told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return told.strip().rstrip(".") or type(error).__name__
