"""From samples and the names of their labels to a task: faults refused, duplicates dropped, notes kept.

Copies of one content must not stand on both sides of a split: a model is not tested on what it has seen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bequest.core.errors import DataError
from bequest.core.task import IntArray, Samples, Task
from bequest.data.messages import counted, listed
from bequest.data.samples import Chosen

PARTS: Mapping[str, str] = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
"""Names of given parts, in lower case, and the part that each means."""

_KEPT_FIRST = {"test": 0, "validation": 1}


@dataclass(frozen=True)
class Labelled:
    """Samples with the names of their labels, as they were found.

    Attributes:
        samples: The inputs.
        labels: The class name of each sample; None or white space where it is missing.
        split: The given part of each sample; empty where there is none.
        groups: The group of each sample, from 0; None where there are none.
    """

    samples: Samples
    labels: Sequence[str | None]
    split: Sequence[str] = ()
    groups: IntArray | None = None


def assemble(
    found: Labelled,
    name: str,
    *,
    classes: Sequence[str] | None = None,
    notes: Sequence[str] = (),
    origin: Mapping[str, Any] | None = None,
) -> Task:
    """The task that was found, without exact duplicates and without content that carries two labels.

    Of equal samples the one in the test part is kept before one in validation, and that before others.

    Args:
        found: Samples, labels, parts and groups.
        name: A short name for tables.
        classes: Class names in order; None for those found, sorted.
        notes: What reading them found.
        origin: What they were loaded with.

    Raises:
        DataError: Labels are missing, texts are empty, there are fewer than two classes, or a class or a
            given part has no samples left.
    """
    labels = _whole_labels(found)
    _check_texts(found.samples)
    order = tuple(classes) if classes is not None else sorted_names(labels)
    if len(order) < 2:
        raise DataError(
            f"All {counted(len(labels), 'sample')} of {name!r} have one label, "
            f"{listed([repr(n) for n in order])}; expected two classes or more. Add samples of another class."
        )
    kept, dropped = _without_copies(found, labels)
    _check_left(found, labels, order, kept)
    index = {label: i for i, label in enumerate(order)}
    return Task(
        name=name,
        samples=found.samples if len(kept) == len(labels) else Chosen(found.samples, kept),
        labels=np.array([index[labels[i]] for i in kept], np.int64),
        classes=order,
        split=tuple(found.split[i] for i in kept) if found.split else (),
        groups=None if found.groups is None else found.groups[kept],
        notes=(*notes, *_similar_names(order), *dropped),
        origin=dict(origin or {}),
    )


def sorted_names(names: Iterable[str]) -> tuple[str, ...]:
    """The different names, in numeric order if all are numbers, else in alphabetic order."""
    different = set(names)
    try:
        return tuple(sorted(different, key=lambda name: (float(name), name)))
    except ValueError:
        return tuple(sorted(different))


def _whole_labels(found: Labelled) -> list[str]:
    whole = [label for label in found.labels if label is not None and label.strip()]
    if len(whole) < len(found.labels):
        missing = [i for i, label in enumerate(found.labels) if label is None or not label.strip()]
        raise DataError(
            f"{counted(len(missing), 'sample')} without a label: "
            f"{listed([found.samples.describe(i) for i in missing])}. Expected a label for each. Label or "
            "remove them."
        )
    return whole


def _check_texts(samples: Samples) -> None:
    if samples.modality != "text":
        return
    empty = [samples.describe(i) for i in range(len(samples)) if not samples[i].strip()]
    if empty:
        raise DataError(
            f"{counted(len(empty), 'text')} without any content: {listed(empty)}. Expected more than white "
            "space. Fill or remove them."
        )


def _without_copies(found: Labelled, labels: Sequence[str]) -> tuple[list[int], list[str]]:
    copies: dict[bytes, list[int]] = defaultdict(list)
    for i in range(len(labels)):
        copies[found.samples.content_hash(i)].append(i)
    part = found.split or [""] * len(labels)
    kept: list[int] = []
    equal: list[list[int]] = []
    contradictory: list[list[int]] = []
    for same in copies.values():
        if len({labels[i] for i in same}) > 1:
            contradictory.append(same)
            continue
        kept.append(min(same, key=lambda i: (_KEPT_FIRST.get(part[i], 2), i)))
        if len(same) > 1:
            equal.append(same)
    notes = [*_duplicates_note(equal, part), *_contradictions_note(contradictory, found.samples, labels)]
    return sorted(kept), notes


def _duplicates_note(equal: list[list[int]], part: Sequence[str]) -> list[str]:
    if not equal:
        return []
    astride = sum(len({part[i] for i in same}) > 1 for same in equal)
    num = sum(len(same) - 1 for same in equal)
    across = f"; {astride:,} stood in more than one given part and stay in test, or else validation"
    return [f"Dropped {counted(num, 'exact duplicate')}, keeping one of each{across if astride else ''}."]


def _contradictions_note(found: list[list[int]], samples: Samples, labels: Sequence[str]) -> list[str]:
    if not found:
        return []
    named = [
        " = ".join(f"{samples.describe(i)} ({labels[i]!r})" for i in _one_a_label(same, labels)) for same in found[:3]
    ]
    more = f" and {len(found) - 3:,} more" if len(found) > 3 else ""
    return [
        f"Dropped {counted(sum(map(len, found)), 'sample')} whose content stands under different labels: "
        f"{'; '.join(named)}{more}. Correct their labels to use them."
    ]


def _one_a_label(same: list[int], labels: Sequence[str]) -> list[int]:
    return sorted({labels[i]: i for i in reversed(same)}.values())


def _check_left(found: Labelled, labels: Sequence[str], classes: Sequence[str], kept: Sequence[int]) -> None:
    left = {labels[i] for i in kept}
    lost = [repr(name) for name in classes if name not in left]
    if lost:
        given = "; content that stands under different labels is not used" if len(kept) < len(labels) else ""
        raise DataError(
            f"No samples of {listed(lost)}{given}. Expected samples of every class. Add some, or remove the class."
        )
    if found.split:
        gone = set(found.split) - {found.split[i] for i in kept}
        if gone:
            raise DataError(
                f"No sample of the given {' and '.join(sorted(gone))} part is left: each stands in another "
                "part too, or under different labels. Expected parts without common samples. Divide the data "
                "anew."
            )


def _similar_names(classes: Sequence[str]) -> list[str]:
    alike: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        alike[name.strip().casefold()].append(repr(name))
    pairs = [" and ".join(names) for names in alike.values() if len(names) > 1]
    if not pairs:
        return []
    return [
        f"Warning: labels that differ only in case or surrounding space are kept apart: {listed(pairs)}. If "
        "they mean the same, write them alike."
    ]
