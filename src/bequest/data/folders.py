"""A folder of class folders of images or .txt files, with or without given splits."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from bequest.core.errors import DataError
from bequest.core.names import shown
from bequest.core.task import IntArray, Samples, Task
from bequest.data.assemble import PARTS, Labelled, assemble
from bequest.data.images import SUFFIXES, image_files, sound_image_files
from bequest.data.labels import LabelColumns, no_labels, read_labels, sorted_names
from bequest.data.messages import counted, listed, tally, told_links
from bequest.data.spool import Lazy, picked, spool_columns
from bequest.data.tables import skipped_note
from bequest.data.text import Texts, read_sound_texts, read_texts

_EXPECTED = (
    "Expected class folders of images or of .txt files, e.g. {0}/cat/1.jpg and {0}/dog/2.jpg, or train/ and "
    "test/ that hold class folders."
)


@dataclass
class _Found:
    """What a folder holds, beside the files themselves."""

    root: Path
    num_images: int = 0
    num_texts: int = 0
    empty: list[Path] = field(default_factory=list[Path])
    ignored: list[str] = field(default_factory=list[str])  # the kind of each
    links: set[str] = field(default_factory=set[str])  # that lead out of the folder

    def leads_out(self, path: str) -> bool:
        """Whether a path is a link to what lies outside the folder; noted if it is."""
        if not os.path.islink(path) or Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.root)):
            return False
        self.links.add(path)
        return True

    @property
    def notes(self) -> list[str]:
        """What to say of what was not read."""
        ignored = f"Ignored {counted(len(self.ignored), 'other file')}: {tally(self.ignored)}."
        return [*([ignored] if self.ignored else []), *([self.told_links] if self.links else [])]

    @property
    def told_links(self) -> str:
        """What to say of links that were not followed; empty where there are none."""
        return told_links(self.root, self.links)

    @property
    def num(self) -> int:
        return self.num_images + self.num_texts


def read_folder(root: Path, *, encoding: str, skip_bad: bool = False, origin: Mapping[str, Any]) -> Task:
    """The task in a folder of class folders, or of `train`, `test` and `validation` folders that hold those.

    Args:
        root: The folder; its name names the task.
        encoding: Of .txt files, as `bequest.data.text.read_texts` takes it.
        skip_bad: Whether to leave out files that cannot be decoded; each image is then decoded to find out.
        origin: What the task was loaded with.

    Raises:
        DataError: There are no class folders, one is empty, images and texts are mixed, or files are broken.
    """
    found = _Found(root)
    names, labels, parts = spool_columns(_scan(root, found), 3)  # files may be many: none stays in memory
    _check(root, found, names, labels)
    paths = Lazy(len(names), partial(_path, names))
    samples, kept = _samples(paths, bool(found.num_images), encoding, skip_bad)
    bad = picked(names, np.setdiff1d(np.arange(len(names)), kept))
    notes = skipped_note(bad, f"unreadable {samples.modality}")
    notes = [*found.notes, *notes]
    cells = picked(labels, kept)
    columns = LabelColumns([cells], ["label"], samples.describe, sorted_names(labels))
    split = [PARTS[parts[int(i)]] for i in kept] if parts[0] else ()
    return assemble(
        Labelled(samples, read_labels(columns, "classification"), split), root.name, notes=notes, origin=origin
    )


def read_unlabelled(root: Path, *, encoding: str, skip_bad: bool = False) -> Samples:
    """All images, or all .txt files, below a folder; what its folders are called does not matter.

    Args:
        root: The folder.
        encoding: As for `read_folder`.
        skip_bad: As for `read_folder`.

    Raises:
        DataError: There are none, or both, or files are broken.
    """
    if not root.is_dir():
        raise DataError(f"There is no folder {root}; expected one that holds images or .txt files. Check --unlabelled.")
    found = _Found(root)
    [names] = spool_columns(((name,) for name in _scan_class(root, found)), 1)
    if not found.num or (found.num_images and found.num_texts):
        told = f"{counted(found.num_images, 'image')} and {counted(found.num_texts, '.txt file')}"
        raise DataError(f"{root} holds {told}; expected files of one kind. Give --unlabelled a folder of those alone.")
    samples, _ = _samples(Lazy(len(names), partial(_path, names)), bool(found.num_images), encoding, skip_bad)
    return samples


def read_documents(root: Path, *, encoding: str, skip_bad: bool = False, origin: Mapping[str, Any]) -> Task:
    """The .txt files below a folder, each a text for a language model.

    Args:
        root: The folder; its name names the task. Where it holds folders `train` and `test`, they are the given parts;
            all other folders mean nothing.
        encoding: As for `read_folder`.
        skip_bad: As for `read_folder`.
        origin: As for `read_folder`.

    Raises:
        DataError: There are no .txt files, or files cannot be read or decoded.
    """
    found = _Found(root)
    names, parts = spool_columns(_scan_documents(root, found), 2)
    if not found.num_texts:
        raise DataError(f"{root} holds no .txt files.{_there(found)} Expected some, each a text. Convert the texts.")
    paths = Lazy(len(names), partial(_path, names))
    samples, kept = _samples(paths, False, encoding, skip_bad)
    notes = skipped_note(picked(names, np.setdiff1d(np.arange(len(names)), kept)), "unreadable text")
    notes = [*found.notes, *notes]
    split = [parts[int(i)] for i in kept] if all(parts) else ()
    return assemble(Labelled(samples, no_labels(len(kept)), split), root.name, notes=notes, origin=origin)


def read_paragraphs(path: Path, *, encoding: str, origin: Mapping[str, Any]) -> Task:
    """The texts in one .txt file, divided at blank lines, for a language model.

    Args:
        path: The file; its name names the task.
        encoding: As for `read_folder`.
        origin: As for `read_folder`.

    Raises:
        DataError: The file cannot be read or decoded.
    """
    [whole] = read_texts([path], encoding)
    texts = [text for text in re.split(r"\n\s*\n", whole) if text.strip()]
    places = Lazy(len(texts), partial(_paragraph, path))
    number = counted(len(texts), "text")
    note = f"Divided {path.name} at blank lines into {number}. To have it otherwise: a folder of files."
    found = Labelled(Texts(texts, places), no_labels(len(texts)))
    return assemble(found, path.stem, notes=[note], origin=origin)


def find_files(root: Path, suffixes: Collection[str]) -> tuple[list[Path], str]:
    """The files below a folder, and what to say of links that were not followed; empty where there are none.

    Args:
        root: The folder.
        suffixes: Of the files, in lower case.

    Raises:
        DataError: A folder cannot be read.
    """
    found = _Found(root)
    paths = [path for path in map(Path, _files_below(root, found)) if path.suffix.lower() in suffixes]
    return sorted(p for p in paths if p.is_file() and not _is_hidden(p.relative_to(root))), found.told_links


def _paragraph(path: Path, index: int) -> str:
    return shown(f"{path}, text {index + 1}")


def _scan_documents(root: Path, found: _Found) -> Iterator[tuple[str, str]]:
    """Path and given part of each text."""
    given = [(PARTS[f.name.lower()], f) for f in _folders(root, found) if f.name.lower() in PARTS]
    if len(given) < 2 or len(given) < len(_folders(root, found)) or "train" not in (part for part, _ in given):
        given = [("", root)]
    else:
        found.ignored += [_kind(path) for path in _loose_files(root, found)]
    for part, folder in given:
        for name in sorted(_files_below(folder, found), key=lambda name: name.split(os.sep)):
            path = Path(name)
            if path.suffix.lower() != ".txt" or not os.path.isfile(name) or _is_hidden(path.relative_to(folder)):
                found.ignored.append(_kind(path))
                continue
            found.num_texts += 1
            yield name, part


def _samples(paths: Sequence[Path], are_images: bool, encoding: str, skip_bad: bool) -> tuple[Samples, IntArray]:
    """The samples, and the positions of their files."""
    everything = np.arange(len(paths))
    if are_images:
        return sound_image_files(paths) if skip_bad else (image_files(paths, skippable=True), everything)
    texts, kept = read_sound_texts(paths, encoding) if skip_bad else (read_texts(paths, encoding), everything)
    return Texts(texts, Lazy(len(kept), partial(_place, paths, kept))), kept


def _path(names: Sequence[str], index: int) -> Path:
    return Path(names[index])


def _place(paths: Sequence[Path], kept: IntArray, index: int) -> str:
    return shown(paths[int(kept[index])])


def _scan(root: Path, found: _Found) -> Iterator[tuple[str, str, str]]:
    """Path, class and given part of each image or text."""
    found.ignored += [_kind(path) for path in _loose_files(root, found)]
    for part, folder in _parts(root, found):
        found.ignored += [_kind(path) for path in _loose_files(folder, found) if part]
        class_folders = _folders(folder, found)
        if not class_folders:
            told = [*([found.told_links] if found.links else []), _EXPECTED.format(root)]
            raise DataError(f"{folder} holds no class folders. {' '.join(told)}")
        for class_folder in class_folders:
            before = found.num
            yield from ((path, class_folder.name, part) for path in _scan_class(class_folder, found))
            if found.num == before:
                found.empty.append(class_folder)


def _scan_class(folder: Path, found: _Found) -> Iterator[str]:
    for name in sorted(_files_below(folder, found), key=lambda name: name.split(os.sep)):
        path = Path(name)
        suffix = path.suffix.lower()
        if _is_hidden(path.relative_to(folder)):
            found.ignored.append("hidden")
        elif os.path.exists(name) and not os.path.isfile(name):  # a pipe would be read for ever
            found.ignored.append("no file")
        elif suffix in SUFFIXES or suffix == ".txt":
            found.num_images += suffix in SUFFIXES
            found.num_texts += suffix == ".txt"
            yield name
        else:
            found.ignored.append(_kind(path))


def _parts(root: Path, found: _Found) -> list[tuple[str, Path]]:
    """The given parts and their folders; ('', root) where none are given."""
    folders = _folders(root, found)
    given = [(PARTS[f.name.lower()], f) for f in folders if f.name.lower() in PARTS]
    parts = {part for part, _ in given}
    if "train" not in parts or not any(_folders(folder, found) for _, folder in given):
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


def _check(root: Path, found: _Found, names: Sequence[str], labels: Sequence[str]) -> None:
    if not found.num:
        expected = _EXPECTED.format(root)
        raise DataError(f"{root} holds no images and no .txt files in class folders.{_there(found)} {expected}")
    if found.num_images and found.num_texts:
        fewer = [n for n in names if n.lower().endswith(".txt") == (found.num_texts <= found.num_images)]
        raise DataError(
            f"{root} holds {counted(found.num_images, 'image')} and {counted(found.num_texts, 'text')}; "
            f"expected one kind. Move away what is not a sample, e.g. {listed(fewer[:3])}."
        )
    if found.empty:
        kind = "images" if found.num_images else ".txt files"
        raise DataError(
            f"{counted(len(found.empty), 'class folder')} without {kind}: "
            f"{listed([str(p) for p in found.empty])}. Expected samples in every one. Add some, or remove "
            "the folder."
        )
    inner = root / labels[0]
    if len(set(labels)) == 1 and inner.is_dir() and len(_folders(inner, found)) > 1:
        raise DataError(
            f"{root} holds one class folder, {inner.name}/, which holds folders itself. Expected two classes "
            f"or more. Did you mean {inner}?"
        )


def _there(found: _Found) -> str:
    ignored = f" There are: {tally(found.ignored)}." if found.ignored else ""
    return f"{ignored} {found.told_links}".rstrip()


def _folders(path: Path, found: _Found) -> list[Path]:
    return sorted(p for p in _listing(path, found) if p.is_dir() and not _is_hidden(Path(p.name)))


def _loose_files(path: Path, found: _Found) -> list[Path]:
    return [p for p in _listing(path, found) if p.is_file()]


def _listing(path: Path, found: _Found) -> list[Path]:
    try:
        return [p for p in path.iterdir() if not found.leads_out(str(p))]
    except OSError as error:
        _refuse_folder(error)


def _refuse_folder(error: OSError) -> NoReturn:
    raise DataError(f"Cannot read the folder {error.filename}: {error.strerror}. Check its permissions.") from error


def _files_below(folder: Path, found: _Found) -> Iterator[str]:
    """Every file below a folder, through links to folders within the given one too, each folder once."""
    seen: set[tuple[int, int]] = set()
    todo = [str(folder)]
    while todo:  # os.walk calls itself for every level, of which there may be a thousand
        parent = todo.pop()
        try:
            about = os.stat(parent)
            if (about.st_dev, about.st_ino) in seen:  # a link that leads back up would not end
                continue
            seen.add((about.st_dev, about.st_ino))
            with os.scandir(parent) as entries:
                inside = [(entry.path, entry.is_dir()) for entry in entries]
        except OSError as error:
            _refuse_folder(error)
        inside = [(path, is_folder) for path, is_folder in inside if not found.leads_out(path)]
        yield from (path for path, is_folder in inside if not is_folder)
        todo += [path for path, is_folder in inside if is_folder]


def _is_hidden(path: Path) -> bool:
    return any(p.startswith(".") or p in ("__pycache__", "__MACOSX") for p in path.parts)


def _kind(path: Path) -> str:
    return "hidden" if path.name.startswith(".") else path.suffix.lower() or "without suffix"
