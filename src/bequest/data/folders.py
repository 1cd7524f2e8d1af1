"""A folder of class folders of images or .txt files, with or without given splits."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bequest.core.errors import DataError
from bequest.core.task import Task
from bequest.data.assemble import PARTS, Labelled, assemble
from bequest.data.images import SUFFIXES, image_files
from bequest.data.messages import counted, listed, tally
from bequest.data.text import Texts, read_texts

_EXPECTED = (
    "Expected class folders of images or of .txt files, e.g. {0}/cat/1.jpg and {0}/dog/2.jpg, or train/ and "
    "test/ that hold class folders."
)


@dataclass(frozen=True)
class _File:
    path: Path
    label: str
    part: str


@dataclass
class _Found:
    images: list[_File] = field(default_factory=list[_File])
    texts: list[_File] = field(default_factory=list[_File])
    empty: list[Path] = field(default_factory=list[Path])
    ignored: list[str] = field(default_factory=list[str])  # the kind of each


def read_folder(root: Path, *, encoding: str, origin: Mapping[str, Any]) -> Task:
    """The task in a folder of class folders, or of `train`, `test` and `validation` folders that hold those.

    Args:
        root: The folder; its name names the task.
        encoding: Of .txt files, as `bequest.data.text.read_texts` takes it.
        origin: What the task was loaded with.

    Raises:
        DataError: There are no class folders, one is empty, images and texts are mixed, or files are broken.
    """
    found = _scan(root)
    files = found.images or found.texts
    _check(root, found)
    paths = [file.path for file in files]
    samples = image_files(paths) if found.images else Texts(read_texts(paths, encoding), [str(p) for p in paths])
    split = [file.part for file in files] if files[0].part else ()
    notes = []
    if found.ignored:
        notes = [f"Ignored {counted(len(found.ignored), 'other file')}: {tally(found.ignored)}."]
    labels = [file.label for file in files]
    return assemble(Labelled(samples, labels, split), root.name, notes=notes, origin=origin)


def _scan(root: Path) -> _Found:
    found = _Found(ignored=[_kind(path) for path in _loose_files(root)])
    for part, folder in _parts(root):
        found.ignored += [_kind(path) for path in _loose_files(folder) if part]
        class_folders = _folders(folder)
        if not class_folders:
            raise DataError(f"{folder} holds no class folders. {_EXPECTED.format(root)}")
        for class_folder in class_folders:
            _scan_class(class_folder, part, found)
    return found


def _scan_class(folder: Path, part: str, found: _Found) -> None:
    before = len(found.images) + len(found.texts)
    for path in sorted(_files_below(folder)):
        file = _File(path, folder.name, part)
        if _is_hidden(path.relative_to(folder)):
            found.ignored.append("hidden")
        elif path.suffix.lower() in SUFFIXES:
            found.images.append(file)
        elif path.suffix.lower() == ".txt":
            found.texts.append(file)
        else:
            found.ignored.append(_kind(path))
    if len(found.images) + len(found.texts) == before:
        found.empty.append(folder)


def _parts(root: Path) -> list[tuple[str, Path]]:
    """The given parts and their folders; ('', root) where none are given."""
    folders = _folders(root)
    given = [(PARTS[f.name.lower()], f) for f in folders if f.name.lower() in PARTS]
    parts = {part for part, _ in given}
    if "train" not in parts or not any(_folders(folder) for _, folder in given):
        return [("", root)]
    others = [f"{f.name}/" for f in folders if f.name.lower() not in PARTS]
    if not others:
        return given
    if len(parts) == 1:  # a class of trains, beside others
        return [("", root)]
    raise DataError(
        f"{root} holds {listed([f'{f.name}/' for _, f in given])} but also {listed(others)}. Expected either "
        "given parts or class folders, not both. Move the others away, or rename them."
    )


def _check(root: Path, found: _Found) -> None:
    if not found.images and not found.texts:
        there = f" There are: {tally(found.ignored)}." if found.ignored else ""
        raise DataError(f"{root} holds no images and no .txt files in class folders.{there} {_EXPECTED.format(root)}")
    if found.images and found.texts:
        fewer = min(found.images, found.texts, key=len)
        raise DataError(
            f"{root} holds {counted(len(found.images), 'image')} and {counted(len(found.texts), 'text')}; "
            "expected one kind. Move away what is not a sample, e.g. "
            f"{listed([str(f.path) for f in fewer[:3]])}."
        )
    if found.empty:
        kind = "images" if found.images else ".txt files"
        raise DataError(
            f"{counted(len(found.empty), 'class folder')} without {kind}: "
            f"{listed([str(p) for p in found.empty])}. Expected samples in every one. Add some, or remove "
            "the folder."
        )
    names = {file.label for file in found.images or found.texts}
    inner = root / next(iter(names))
    if len(names) == 1 and inner.is_dir() and len(_folders(inner)) > 1:
        raise DataError(
            f"{root} holds one class folder, {inner.name}/, which holds folders itself. Expected two classes "
            f"or more. Did you mean {inner}?"
        )


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in _listing(path) if p.is_dir() and not _is_hidden(Path(p.name)))


def _loose_files(path: Path) -> list[Path]:
    return [p for p in _listing(path) if p.is_file()]


def _listing(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except OSError as error:
        raise DataError(f"Cannot read the folder {path}: {error.strerror}. Check its permissions.") from error


def _files_below(folder: Path) -> Iterator[Path]:
    """Every file below a folder, through links to folders too, each folder once."""
    seen: set[str] = set()
    for parent, names, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link that leads back up would not end
            names.clear()
            continue
        seen.add(real)
        yield from (Path(parent, name) for name in files)


def _is_hidden(path: Path) -> bool:
    return any(p.startswith(".") or p in ("__pycache__", "__MACOSX") for p in path.parts)


def _kind(path: Path) -> str:
    return "hidden" if path.name.startswith(".") else path.suffix.lower() or "without suffix"
