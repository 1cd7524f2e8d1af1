"""Hugging Face datasets: by name or folder, or as objects from Python. The package is not imported before it is needed.

Texts and labels are copied to disk as those of any table; images are decoded from the dataset when asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from bequest.core.errors import DataError
from bequest.core.names import leads_out
from bequest.core.parse import parse_json
from bequest.data.assemble import PARTS
from bequest.data.files import read_regular
from bequest.data.formats import ImageColumn, Table
from bequest.data.messages import listed
from bequest.data.spool import Lazy, spool_columns
from bequest.data.tables import stacked

PREFIX = "hf:"
_BATCH_ROWS = 1000
_SAVED_FILES = ("dataset_dict.json", "dataset_info.json")
_STATE_FILE = "state.json"
_CARDS = ("README.md", ".huggingface.yaml")
"""Where a folder tells which of its files are data."""
_LISTS = ("List", "LargeList", "Sequence")


def is_dataset(data: Any) -> bool:
    """Whether an object is a Hugging Face dataset or a dictionary of them."""
    return hasattr(data, "column_names") and hasattr(data, "with_format")


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` made a folder."""
    return (folder / _SAVED_FILES[0]).is_file() or (
        (folder / _SAVED_FILES[1]).is_file() and (folder / _STATE_FILE).is_file()
    )


def opened_dataset(name: str) -> Any:
    """The dataset of a name, `NAME` or `NAME:CONFIGURATION`, or in a folder.

    Raises:
        DataError: The package is not installed, or there is no such dataset.
    """
    datasets = _datasets(name)
    folder = Path(name).expanduser()
    if is_saved(folder):
        _check_saved(folder)
    try:
        if is_saved(folder):
            return datasets.load_from_disk(str(folder))
        if folder.is_dir():
            return _of_files(datasets, folder)
        base, _, configuration = name.partition(":")
        return datasets.load_dataset(base, configuration or None)
    except DataError:
        raise
    except Exception as error:  # the library meets a stranger's files with whatever they lead it to
        told = str(error).strip() or type(error).__name__
        raise DataError(
            f"Cannot load the Hugging Face dataset {name!r}: {told} Expected the name of a dataset, with its "
            f"configuration after a colon ({PREFIX}NAME:CONFIGURATION) if it has several, or a folder. Correct it."
        ) from error


def dataset_name(name: str) -> str:
    """A short name for tables."""
    folder = Path(name).expanduser()
    return folder.resolve().name if folder.is_dir() else name.rpartition("/")[2]


def dataset_table(data: Any, place: str) -> Table:
    """The rows of a dataset, with its splits as given parts.

    Args:
        data: A dataset, or a dictionary of them by split.
        place: What it is called in messages.

    Raises:
        DataError: It is a stream, is empty, or has splits but none to train on.
    """
    splits = cast(Mapping[str, Any], data) if isinstance(data, Mapping) else {"": data}
    if len(splits) == 1:
        return _table(next(iter(splits.values())), place, place)
    parts = {name: PARTS[str(name).lower()] for name in splits if str(name).lower() in PARTS}
    if "train" not in parts.values():
        raise DataError(
            f"{place} has the splits {listed(list(map(str, splits)))}, none of which is train; expected train, and "
            "test or validation. Rename them, or give one split."
        )
    tables = [_table(splits[name], f"{place} {name}", place) for name in parts]
    table = stacked(tables, list(parts.values()) if len(tables) > 1 else [""])
    others = [str(name) for name in splits if name not in parts]
    notes = (f"Ignored the splits {listed(others)}: they are not train, validation or test.",) if others else ()
    return replace(table, place=place, notes=(*table.notes, *notes))


def _of_files(datasets: Any, folder: Path) -> Any:
    """The dataset of a folder's files, which its card may name, none of them elsewhere."""
    for card in (folder / name for name in _CARDS):
        if card.is_file():
            _inner_names(card, list(_told_by(card)), "the data's files below it")
    builder = datasets.load_dataset_builder(str(folder))
    root = folder.resolve()
    for file in (file for files in (builder.config.data_files or {}).values() for file in files):
        if not Path(file).resolve().is_relative_to(root):
            raise DataError(f"{folder} has a link to {Path(file).resolve()}; expected files within it. Copy it there.")
    builder.download_and_prepare()
    return builder.as_dataset()


def _told_by(card: Path) -> Iterator[Any]:
    """The names of files and folders in a card's metadata, which Markdown has between two lines of dashes."""
    from yaml import safe_load

    text = card.read_text(encoding="utf-8", errors="replace")
    if card.suffix == ".md":
        found = re.match(r"\s*---\s*\n(.*?)\n---", text, re.S)
        text = found[1] if found else ""
    seen: set[int] = set()
    todo: list[Any] = [safe_load(text)]
    while todo:
        value = todo.pop()
        if id(value) in seen:  # an alias
            continue
        seen.add(id(value))
        if isinstance(value, Mapping):
            yield from (name for key in ("data_files", "data_dir", "path") for name in _names(value.get(key)))
            todo += value.values()
        elif isinstance(value, list):
            todo += value


def _names(value: Any) -> list[Any]:
    """A name, or a list's; what else there is stands deeper."""
    return [name for name in (value if isinstance(value, list) else [value]) if isinstance(name, str)]


def _check_saved(folder: Path) -> None:
    """Refuse what `save_to_disk` does not write: files of another shape, and names that lead out of the folder."""
    splits = [folder]
    if (folder / _SAVED_FILES[0]).is_file():
        names = _described(folder / _SAVED_FILES[0]).get("splits")
        splits += [folder / name for name in _inner_names(folder / _SAVED_FILES[0], names)]
    for split in splits:
        if (split / _SAVED_FILES[1]).is_file():
            _described(split / _SAVED_FILES[1])
        if (split / _STATE_FILE).is_file():
            files = _described(split / _STATE_FILE).get("_data_files")
            names = (
                [f.get("filename") if isinstance(f, dict) else f for f in files] if isinstance(files, list) else files
            )
            _inner_names(split / _STATE_FILE, names)


def _described(file: Path) -> dict[str, Any]:
    try:
        found = parse_json(file.read_bytes())
    except ValueError as error:
        raise DataError(
            f"{file} cannot be read as JSON ({error}); expected what save_to_disk wrote. Save it again."
        ) from error
    if not isinstance(found, dict):
        raise DataError(f"{file} holds no JSON object; expected what save_to_disk wrote. Save it again.")
    return cast(dict[str, Any], found)


def _inner_names(
    file: Path, names: Any, expected: str = "files and folders beside it, as save_to_disk writes them"
) -> list[str]:
    """The names of files or folders that a file tells, all within its folder."""
    told = cast(list[Any], names) if isinstance(names, list) else [names]
    wrong = [name for name in told if not isinstance(name, str) or leads_out(name)]
    if wrong:
        raise DataError(
            f"{file} names {str(wrong[0])[:100]!r}; expected {expected}. Correct it, or save the dataset again."
        )
    return told


def _datasets(name: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"Cannot load {name!r}: the package that reads Hugging Face datasets is not installed; expected datasets. "
            "Install it: pip install 'bequest[hub]'"
        ) from error
    return datasets


def _table(data: Any, place: str, table_place: str) -> Table:
    if not hasattr(data, "__len__") or not hasattr(data, "features"):
        raise DataError(
            f"{place} is a stream; expected a dataset that can be read in any order. Load it without streaming."
        )
    if not len(data):
        raise DataError(f"{place} is empty; expected rows. Add some.")
    features = dict(data.features)
    images = {name: f for name, f in features.items() if _kind(f) == "Image"}
    cells = [name for name, f in features.items() if name not in images and _is_readable(f)]
    dropped = [repr(name) for name in features if name not in images and name not in cells]
    names = [name for name in features if name in cells or name in images]
    spooled = dict(zip(cells, spool_columns(_rows(data, cells), len(cells)), strict=True)) if cells else {}
    nothing = Lazy(len(data), _nothing)
    return Table(
        place=table_place,
        folder=Path.cwd(),
        columns=tuple(names),
        values=tuple(spooled.get(name, nothing) for name in names),
        places=Lazy(len(data), partial(_place, place)),
        notes=(f"Ignored columns that hold no texts, numbers or images: {listed(dropped)}.",) if dropped else (),
        images={name: _image_column(data, name, feature) for name, feature in images.items()},
        class_names={name: tuple(c.names) for name in cells if (c := _classes(features[name])) is not None},
    )


def _rows(data: Any, columns: list[str]) -> Iterator[Sequence[Any]]:
    classes = [_classes(data.features[name]) for name in columns]
    plain = data.with_format(None).select_columns(columns)
    for batch in plain.iter(batch_size=_BATCH_ROWS):
        for row in zip(*(batch[name] for name in columns), strict=True):
            yield [_named(cell, c.names) if c is not None else cell for cell, c in zip(row, classes, strict=True)]


def _named(cell: Any, names: Sequence[str]) -> Any:
    """Class names for class numbers; None for -1, which stands for a secret label."""
    if isinstance(cell, list):
        return [_named(item, names) for item in cast(list[Any], cell)]
    return names[cell] if cell is not None and cell >= 0 else None


def _image_column(data: Any, name: str, feature: Any) -> ImageColumn:
    encoded = data.with_format(None).select_columns([name]).cast_column(name, type(feature)(decode=False))
    return ImageColumn(len(data), partial(_read_image, encoded, name))


def _read_image(encoded: Any, name: str, index: int) -> bytes:
    cell = encoded[index][name]
    if cell is None:
        raise OSError("no image")
    if cell["bytes"] is not None:
        return cell["bytes"]
    return read_regular(Path(cell["path"]))


def _kind(feature: Any) -> str:
    return type(feature).__name__


def _inner(feature: Any) -> Any:
    """What a list holds; the feature itself where it is none."""
    if isinstance(feature, list):
        return cast(list[Any], feature)[0]
    return feature.feature if _kind(feature) in _LISTS else feature


def _classes(feature: Any) -> Any:
    return _inner(feature) if _kind(_inner(feature)) == "ClassLabel" else None


def _is_readable(feature: Any) -> bool:
    inner = _inner(feature)
    return _kind(inner) == "ClassLabel" or (_kind(inner) == "Value" and "binary" not in inner.dtype)


def _nothing(_: int) -> None:
    return None


def _place(place: str, index: int) -> str:
    return f"{place} row {index}"
