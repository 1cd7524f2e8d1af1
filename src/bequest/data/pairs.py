"""A dataset that gives pairs of an input and a label, as PyTorch's map-style datasets do."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from bequest.core.errors import DataError
from bequest.core.task import HashArray, Modality, Task
from bequest.data.arrays import label_value, plain_value, python_labels
from bequest.data.assemble import Labelled, assemble
from bequest.data.images import array_hash, picture_hash, upright
from bequest.data.labels import TaskChoice, check_task
from bequest.data.messages import counted, listed
from bequest.data.samples import Joined
from bequest.data.spool import spool_hashes

_NUM_TRIED = 3  # samples that are read twice, to see whether they stay the same


@dataclass(frozen=True)
class Inputs:
    """The inputs of a dataset of pairs, read when they are asked for.

    Attributes:
        dataset: Gives a pair for each position.
        modality: What an input is.
        place: What the dataset is called in messages.
        hashes: uint8 (samples, 16).
    """

    dataset: Any
    modality: Modality
    place: str
    hashes: HashArray

    def __len__(self) -> int:
        return len(self.hashes)

    def __getitem__(self, index: int) -> Any:
        return _sample(_pair(self.dataset, int(index), self.place)[0])

    def content_hash(self, index: int) -> bytes:
        """16 bytes of the text, the pixels, or the numbers."""
        return self.hashes[index].tobytes()

    def describe(self, index: int) -> str:
        """The position in the dataset."""
        return f"{self.place}[{index}]"


def from_dataset(
    dataset: Any,
    *,
    test: Any = None,
    classes: Sequence[str | int] | None = None,
    name: str | None = None,
    task: TaskChoice = "auto",
) -> Task:
    """A task from a dataset of pairs (input, label), such as PyTorch's and torchvision's map-style datasets.

    Every pair is read at once, for its label and the hash of its content; inputs are read again when they are needed.
    Exact duplicates are reduced to one and content under different labels is dropped; `Task.notes` says so.

    Args:
        dataset: Has a length and gives a pair for each position. An input is a str, a PIL image, or a tensor or array:
            uint8 (height, width) and (height, width, 3) are images, all others numbers. It must give the same each
            time: without random augmentation, which is bequest's part.
        test: A dataset of the given test split.
        classes: Class names in order, as for `from_arrays`. None for those of `dataset.classes` that have samples, or
            else the labels found.
        name: A short name for tables; None for the name of the dataset's class.
        task: As for `from_arrays`.

    Returns:
        The task, with an empty `origin`.

    Raises:
        DataError: The dataset gives no pairs, inputs of mixed kinds, or something else each time; or labels are not
            what the task asks for.
    """
    check_task(task)
    inputs, labels = _read(dataset, "dataset")
    samples, split = inputs, ()
    if test is not None:
        test_inputs, test_labels = _read(test, "test dataset")
        if inputs.modality != test_inputs.modality:
            raise DataError(
                f"The dataset holds samples of kind {inputs.modality}, the test dataset {test_inputs.modality}; "
                "expected one kind."
            )
        samples, labels = Joined((inputs, test_inputs)), [*labels, *test_labels]
        split = ["train"] * len(inputs) + ["test"] * len(test_inputs)
    if classes is None and task in ("auto", "classification"):
        classes, labels = _own_classes(dataset, labels)
    found = Labelled(samples, python_labels(labels, samples.describe, task, classes), split)
    return assemble(found, name or type(dataset).__name__)


def _read(dataset: Any, place: str) -> tuple[Inputs, list[Any]]:
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise DataError(
            f"The {place} is a {type(dataset).__name__} without a length or positions; expected a map-style dataset "
            "that gives a pair (input, label) for each position. Put a stream's pairs into a list."
        )
    if not len(dataset):
        raise DataError(f"The {place} is empty; expected pairs of an input and a label. Add some.")
    labels: list[Any] = []
    kinds: dict[str, int] = {}  # and the first position of each
    hashes = spool_hashes(_hashes(dataset, place, labels, kinds))
    if len(kinds) > 1:
        found = [f"{kind} ({place}[{i}])" for kind, i in kinds.items()]
        raise DataError(
            f"The {place} gives inputs of different kinds: {listed(found)}. Expected one: all texts, all images, or "
            "all arrays of one dtype and shape. Resize or convert them."
        )
    _check_same(dataset, place, hashes)
    kind = next(iter(kinds))
    modality: Modality = "text" if kind == "text" else "image" if kind == "image" else "array"
    return Inputs(dataset, modality, place, hashes), labels


def _hashes(dataset: Any, place: str, labels: list[Any], kinds: dict[str, int]) -> Iterator[bytes]:
    bare: list[str] = []
    for i in range(len(dataset)):
        value, label = _pair(dataset, i, place)
        sample = _sample(value)
        labels.append(label_value(label, f"the label of {place}[{i}]"))
        kinds.setdefault(_kind(sample, f"{place}[{i}]"), i)
        if isinstance(sample, np.ndarray) and sample.dtype.kind == "f" and not np.isfinite(sample).all():
            bare.append(f"{place}[{i}]")
        yield _hash(sample)
    if bare:
        raise DataError(
            f"{counted(len(bare), 'sample')} with numbers that are not finite (NaN or infinite): {listed(bare)}. "
            "Expected finite numbers. Fill or remove them."
        )


def _pair(dataset: Any, index: int, place: str) -> tuple[Any, Any]:
    item = dataset[index]
    if not isinstance(item, tuple | list) or len(cast(Sequence[Any], item)) != 2:
        what = f"{type(item).__name__} of {len(item)}" if isinstance(item, tuple | list) else type(item).__name__
        raise DataError(
            f"{place}[{index}] gives a {what}; expected a pair (input, label). Wrap the dataset in one that gives "
            "pairs; for a Hugging Face dataset call load_task(dataset)."
        )
    return cast(tuple[Any, Any], tuple(cast(Sequence[Any], item)))


def _sample(value: Any) -> Any:
    """A str, a PIL image, or an array."""
    if isinstance(value, str):
        return value
    plain = plain_value(value) if not _is_picture(value) else value
    if isinstance(plain, np.ndarray):
        array = cast(np.ndarray[Any, np.dtype[Any]], plain)
        if array.dtype == np.uint8 and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
            from PIL import Image

            return Image.fromarray(np.ascontiguousarray(array))
        return array
    return upright(plain) if _is_picture(plain) else plain


def _is_picture(value: Any) -> bool:
    return hasattr(value, "getpalette") and hasattr(value, "tobytes")  # PIL need not be imported for this


def _kind(sample: Any, place: str) -> str:
    if isinstance(sample, str):
        return "text"
    if isinstance(sample, np.ndarray) and sample.dtype.kind in "biuf":
        return f"array {sample.dtype} {sample.shape}"
    if _is_picture(sample):
        return "image"
    raise DataError(f"The input of {place} is a {type(sample).__name__}; expected a str, a PIL image, or numbers.")


def _hash(sample: Any) -> bytes:
    if isinstance(sample, str):
        return hashlib.blake2b(sample.encode(errors="surrogatepass"), digest_size=16).digest()
    return array_hash(sample) if isinstance(sample, np.ndarray) else picture_hash(sample)


def _check_same(dataset: Any, place: str, hashes: HashArray) -> None:
    for i in range(min(_NUM_TRIED, len(hashes))):
        if _hash(_sample(_pair(dataset, i, place)[0])) != hashes[i].tobytes():
            raise DataError(
                f"{place}[{i}] gives something else each time it is read; expected the same. Take random augmentation "
                "out of the dataset's transform: bequest augments by itself."
            )


def _own_classes(dataset: Any, labels: list[Any]) -> tuple[list[str] | None, list[Any]]:
    """The names in `dataset.classes` of those classes that have samples, and labels as names."""
    names = getattr(dataset, "classes", None)
    if not isinstance(names, list | tuple) or not all(isinstance(n, str) for n in cast(Sequence[Any], names)):
        return None, labels
    own = list(cast(Sequence[str], names))
    if len(set(own)) < len(own) or not all(type(label) is int and 0 <= label < len(own) for label in labels):
        return None, labels
    used = set(labels)
    return [name for i, name in enumerate(own) if i in used], [own[label] for label in labels]
