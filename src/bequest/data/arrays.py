"""Labelled data from Python: texts, images, or arrays of numbers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from bequest.core.errors import DataError, nearest
from bequest.core.task import HashArray, IntArray, Modality, Samples, Task
from bequest.data.assemble import Labelled, assemble, numbered_groups
from bequest.data.images import SUFFIXES, Pictures, Pixels, array_hash, image_files
from bequest.data.labels import (
    Describe,
    LabelColumns,
    Labels,
    TaskChoice,
    check_task,
    class_name,
    read_labels,
    sorted_names,
)
from bequest.data.messages import counted, listed, tally
from bequest.data.samples import Joined
from bequest.data.spool import spool_hashes
from bequest.data.text import Texts

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Arrays:
    """Arrays of numbers.

    Attributes:
        values: Any numeric dtype (samples, ...).
        place: What they are called in messages.
    """

    values: Array
    place: str

    @property
    def modality(self) -> Modality:
        """Always `array`."""
        return "array"

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Array:
        return np.asarray(self.values[index])

    @cached_property
    def hashes(self) -> HashArray:
        """uint8 (samples, 16)."""
        return spool_hashes(array_hash(np.asarray(value)) for value in self.values)

    def content_hash(self, index: int) -> bytes:
        """BLAKE2b of dtype, shape and bytes (16 bytes)."""
        return self.hashes[index].tobytes()

    def describe(self, index: int) -> str:
        """The position in the array."""
        return f"{self.place}[{index}]"


def from_arrays(
    inputs: Any,
    labels: Any,
    *,
    test: tuple[Any, Any] | None = None,
    classes: Sequence[str | int] | None = None,
    groups: Any = None,
    name: str = "arrays",
    task: TaskChoice = "auto",
) -> Task:
    """A task from data in memory.

    Exact duplicates are reduced to one and content under different labels is dropped; `Task.notes` says so.

    Args:
        inputs: Texts (a list of str); images (PIL images, `pathlib.Path`s of image files, or uint8 (samples,
            height, width) or (samples, height, width, 3)); or any other numbers (samples, ...). Arrays may be
            numpy's, torch tensors, or lists. Arrays of equal dtype and shape are not copied.
        labels: For a classification a whole number or a str for each input; for a regression a float for each, or
            numbers (samples, targets); for multi-label 0 and 1 (samples, classes), or a list or set of names for each.
        test: Inputs and labels of a given test split.
        classes: Class names in order: str labels are names among them, and so are numbers if the classes are
            numbers; otherwise number labels index them. None for the labels found, numbers in numeric order.
            Of labels with several columns, names of the columns.
        groups: A whole number or a str for each input, then for each of test's, for worst-group accuracy.
            They are numbered from 0 in sorted order.
        name: A short name for tables.
        task: `classification`, `multi-label` or `regression`; `auto` takes floats for a regression if they are not
            all whole, or are more different ones than 20 and than 5 % of the samples.

    Returns:
        The task, with an empty `origin`.

    Raises:
        DataError: Inputs are of no or mixed kinds, sizes do not match, numbers are not finite, labels are
            missing or not among `classes`, or there are fewer than two classes.
    """
    check_task(task)
    samples, found = _read(inputs, labels, "inputs", "labels")
    split: list[str] = []
    notes = _path_like_note(samples)
    if test is not None:
        if len(test) != 2:
            raise DataError("test is not a pair; expected (inputs, labels).")
        test_samples, test_found = _read(*test, "test inputs", "test labels")
        _check_alike(samples, test_samples)
        split = ["train"] * len(samples) + ["test"] * len(test_samples)
        samples, found = Joined((samples, test_samples)), _both(found, test_found)
    numbers, group_names = _grouped(groups, len(samples), test is not None)
    labelled = Labelled(samples, python_labels(found, samples.describe, task, classes), split, numbers, group_names)
    return assemble(labelled, name, notes=notes)


def python_labels(
    found: Any, describe: Describe, task: TaskChoice = "auto", classes: Sequence[str | int] | None = None
) -> Labels:
    """Labels from Python.

    Args:
        found: A list with a plain value, or a list of those, for each sample; or an array (samples, columns).
        describe: Names a sample in messages.
        task: The kind, or `auto`.
        classes: As for `from_arrays`.

    Raises:
        DataError: They are missing, are no labels of that kind, or are not among the classes.
    """
    if isinstance(found, np.ndarray):
        return _column_labels(cast(Array, found), describe, task, classes)
    if any(isinstance(label, list) for label in found):
        order = None if classes is None else _order(classes)
        cells = found if order is None else _listed_names(found, order, classes)
        return read_labels(LabelColumns([cells], ["label"], describe, order), task)
    if task == "regression":
        names = ["target"] if classes is None else _order(classes)
        return read_labels(LabelColumns([found], names, describe), task)
    if task == "multi-label" or (task == "auto" and classes is None):
        order = None if classes is None else _order(classes)
        is_counted = any(isinstance(label, float) for label in found)  # ints are classes, however many
        return read_labels(LabelColumns([found], ["target"], describe, order, is_counted), task)
    names, order = _named(found, classes)
    return read_labels(LabelColumns([names], ["label"], describe, order), "classification" if task == "auto" else task)


def _column_labels(found: Array, describe: Describe, task: TaskChoice, classes: Sequence[str | int] | None) -> Labels:
    names = [str(i) for i in range(found.shape[1])] if classes is None else _order(classes)
    if len(names) != found.shape[1]:
        raise DataError(
            f"labels has {counted(found.shape[1], 'column')}, but there are {counted(len(names), 'class', 'classes')}; "
            "expected one name a column."
        )
    return read_labels(LabelColumns(list(found.T), names, describe), task)


def _listed_names(found: list[Any], order: Sequence[str], classes: Sequence[str | int] | None) -> list[Any]:
    """Lists of class names for lists of numbers that index the classes; flags, 0 and 1 a class, as they are."""
    are_lists = all(isinstance(cell, list) for cell in found)
    are_flags = are_lists and all(len(cell) == len(order) and set(cell) <= {0, 1} for cell in found)
    if not are_lists or are_flags or all(isinstance(c, int) for c in classes or ()):
        return found
    others = sorted({i for cell in found for i in cell if _is_index(i) and not 0 <= i < len(order)})
    if others:
        raise DataError(
            f"labels hold {listed([repr(i) for i in others])}; expected indices of the {len(order)} classes, from 0 to "
            f"{len(order) - 1}. Correct them, or give all classes."
        )
    return [[order[i] if _is_index(i) else i for i in cell] for cell in found]


def _read(inputs: Any, labels: Any, inputs_place: str, labels_place: str) -> tuple[Samples, Any]:
    samples = read_samples(inputs, inputs_place)
    values = _label_values(labels, labels_place)
    if len(samples) != len(values):
        raise DataError(
            f"{counted(len(samples), 'sample')} in {inputs_place} but {len(values):,} in {labels_place}; "
            "expected one label a sample."
        )
    return samples, values


def _label_values(labels: Any, place: str) -> Any:
    """A list of plain values or of lists of them; or an array with several columns."""
    plain = plain_value(labels)
    array = _array(plain)
    if array is not None:
        if array.ndim == 2 and array.shape[1] > 1 and array.dtype.kind in "biuf":
            return array
        if array.ndim not in (1, 2):
            raise DataError(f"{place} has the shape {array.shape}; expected (samples,) or (samples, classes).")
        values = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
        return [label_value(value, f"{place}[{i}]") for i, value in enumerate(values.tolist())]
    items = _items(plain)
    if items is None:
        raise DataError(f"{place} is one {type(labels).__name__}; expected a list, one for each sample.")
    return [label_value(item, f"{place}[{i}]") for i, item in enumerate(items)]


def label_value(value: Any, place: str) -> Any:
    """A label as a plain value, or as a list of those.

    Raises:
        DataError: It is neither.
    """
    plain = plain_value(value)
    array = _array(plain)
    if array is not None and array.ndim == 1:
        return array.tolist()
    if isinstance(plain, list | tuple | set | frozenset):
        return [_scalar(item, place) for item in cast(Iterable[Any], plain)]
    return _scalar(plain, place)


def _both(found: Any, test: Any) -> Any:
    if isinstance(found, np.ndarray) != isinstance(test, np.ndarray) or np.shape(found)[1:] != np.shape(test)[1:]:
        raise DataError("labels and test labels differ in their number of columns; expected the same.")
    return np.concatenate([found, test]) if isinstance(found, np.ndarray) else [*found, *test]


def read_samples(inputs: Any, place: str) -> Samples:
    """Samples without labels.

    Args:
        inputs: As for `from_arrays`.
        place: What they are called in messages.

    Raises:
        DataError: They are of no or mixed kinds, or their numbers are not finite.
    """
    values = plain_value(inputs)
    array = _array(values)
    if array is not None and array.dtype.kind not in "OUT":
        return _array_samples(array, place)
    if array is not None and array.ndim == 2 and array.shape[1] == 1:  # a table's only column
        values = array[:, 0]
    items = _items(values)
    if items is None:
        raise DataError(
            f"{place} is one {type(inputs).__name__}; expected a list of texts, images or arrays. For files, "
            "call bequest.data.load(path)."
        )
    if not items:
        raise DataError(f"{place} is empty; expected samples.")
    return _item_samples([plain_value(item) for item in items], place)


def _item_samples(items: list[Any], place: str) -> Samples:
    from PIL.Image import Image

    if all(isinstance(item, str) for item in items):
        return Texts(items, [f"{place}[{i}]" for i in range(len(items))])
    if all(isinstance(item, os.PathLike) for item in items):
        return image_files([Path(item) for item in items])
    if all(isinstance(item, Image) for item in items):
        return Pictures(items, place)
    if any(isinstance(item, str | bytes | os.PathLike | Image) or item is None for item in items):
        kinds = tally(type(item).__name__ for item in items)
        raise DataError(
            f"{place} holds {kinds}; expected samples of one kind: all str (texts), all PIL images, all "
            "pathlib.Path (image files), or all arrays."
        )
    try:
        values = np.asarray(items)
    except ValueError:
        shapes = sorted({str(np.shape(item)) for item in items})
        raise DataError(
            f"{place} holds arrays of different shapes: {listed(shapes, 3)}; expected one shape. Resize or pad them."
        ) from None
    return _array_samples(values, place)


def _array_samples(values: Array, place: str) -> Samples:
    if values.dtype.kind not in "biuf" or values.ndim == 0:
        raise DataError(
            f"{place} is an array of {values.dtype} {values.shape}; expected numbers (samples, ...), texts or images."
        )
    if len(values) == 0:
        raise DataError(f"{place} is empty; expected samples.")
    if values.dtype == np.uint8 and (values.ndim == 3 or (values.ndim == 4 and values.shape[3] == 3)):
        return Pixels(values, place)
    if values.dtype.kind == "f":
        faults = [f"{place}[{i}]" for i in range(len(values)) if not np.isfinite(values[i]).all()]
        if faults:
            raise DataError(
                f"{counted(len(faults), 'sample')} with numbers that are not finite (NaN or infinite): "
                f"{listed(faults)}. Expected finite numbers. Fill or remove them."
            )
    return Arrays(values, place)


def _check_alike(samples: Samples, test: Samples) -> None:
    if samples.modality != test.modality:
        raise DataError(f"inputs are of kind {samples.modality}, test inputs of kind {test.modality}; expected one.")
    if isinstance(samples, Arrays) and isinstance(test, Arrays):
        here, there = (f"{s.values.dtype} {s.values.shape[1:]}" for s in (samples, test))
        if here != there:
            raise DataError(f"A sample of inputs is {here}, one of test inputs {there}; expected the same.")


def _path_like_note(samples: Samples) -> list[str]:
    if not isinstance(samples, Texts) or not all(t.lower().endswith(tuple(SUFFIXES)) for t in samples.texts):
        return []
    return ["Warning: the texts look like image files' names; pass them as pathlib.Path to read the images."]


def _scalars(values: Any, place: str) -> list[Any]:
    """Labels or groups as plain Python values."""
    plain = plain_value(values)
    array = _array(plain)
    if array is not None:
        if array.ndim != 1:
            raise DataError(f"{place} has the shape {array.shape}; expected one dimension, (samples,).")
        return array.tolist()
    items = _items(plain)
    if items is None:
        raise DataError(f"{place} is one {type(values).__name__}; expected a list, one for each sample.")
    return [_scalar(item, f"{place}[{i}]") for i, item in enumerate(items)]


def _scalar(value: Any, place: str) -> Any:
    """A label or group as a plain Python value."""
    plain = plain_value(value)
    if isinstance(plain, np.generic) or (isinstance(plain, np.ndarray) and cast(Array, plain).size == 1):
        plain = cast(Any, plain).item()
    if plain is not None and not isinstance(plain, str | int | float):
        raise DataError(f"{place} is {type(value).__name__}; expected a number, a str, or a list of those.")
    return plain


def plain_value(values: Any) -> Any:
    """Tensors and data frames' columns as numpy arrays; all else as it is. Neither library is imported."""
    if isinstance(values, np.ndarray | str):
        return cast(Any, values)
    try:
        if hasattr(values, "detach"):
            return values.detach().cpu().numpy()
        for method in ("to_numpy", "numpy"):
            if hasattr(values, method):
                return getattr(values, method)()
    except TypeError as error:  # a dtype that numpy has not, e.g. bfloat16
        raise DataError(f"Cannot turn a tensor into a numpy array: {error}. Convert it, e.g. to float32.") from error
    return values


def _array(values: Any) -> Array | None:
    return cast(Array, values) if isinstance(values, np.ndarray) else None


def _items(values: Any) -> list[Any] | None:
    """The items of a list or another collection; None for what is one thing."""
    if isinstance(values, str | bytes | os.PathLike | Mapping) or not isinstance(values, Iterable):
        return None
    return list(cast(Iterable[Any], values))


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _named(labels: list[Any], classes: Sequence[str | int] | None) -> tuple[list[str | None], tuple[str, ...]]:
    """Labels as class names, and the classes in order."""
    fractions = sorted({str(v) for v in labels if isinstance(v, float) and v == v and not v.is_integer()})
    if fractions:
        raise DataError(f"labels hold fractions: {listed(fractions, 3)}; expected classes: whole numbers or str.")
    if classes is None:
        names = [class_name(label) for label in labels]
        return names, sorted_names(name for name in names if name is not None)
    values, order = _scalars(classes, "classes"), _order(classes)
    if all(_is_index(label) for label in labels) and not all(_is_index(value) for value in values):
        others = sorted({i for i in labels if not 0 <= i < len(order)})
        if others:
            raise DataError(
                f"labels hold {listed([repr(i) for i in others])}; expected indices of the "
                f"{len(order)} classes, from 0 to {len(order) - 1}. Correct them, or give all classes."
            )
        return [order[i] for i in labels], order
    names = [class_name(label) for label in labels]
    others = sorted({n for n in names if n is not None and n.strip() and n not in order})
    if others:
        raise DataError(
            f"labels hold {listed([repr(n) for n in others])}, not among the classes. {nearest(others[0], order)}"
        )
    return names, order


def _order(classes: Sequence[str | int]) -> tuple[str, ...]:
    order = tuple(str(value) for value in _scalars(classes, "classes"))
    if len(set(order)) < len(order):
        raise DataError(f"classes holds a name twice: {listed([repr(n) for n in order])}; expected different ones.")
    return order


def _grouped(groups: Any, num_samples: int, with_test: bool) -> tuple[IntArray | None, tuple[str, ...]]:
    if groups is None:
        return None, ()
    values = _scalars(groups, "groups")
    if len(values) != num_samples:
        raise DataError(
            f"{len(values):,} groups for {counted(num_samples, 'sample')}; expected one for each of inputs"
            + (", then of test's inputs." if with_test else ".")
        )
    return numbered_groups(values, lambda i: f"groups[{i}]")
