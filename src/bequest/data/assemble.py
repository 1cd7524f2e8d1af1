"""From samples and the names of their labels to a task: faults refused, duplicates dropped, notes kept.

Copies of one content must not stand on both sides of a split: a model is not tested on what it has seen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bequest.core.errors import DataError
from bequest.core.names import is_text, shown
from bequest.core.task import HashArray, IntArray, Samples, Task
from bequest.data.labels import Describe, Labels, class_name, is_missing, refuse_missing, sorted_names
from bequest.data.messages import counted, listed
from bequest.data.samples import Chosen, hashes_of

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
    """Samples with their labels, as they were found.

    Attributes:
        samples: The inputs.
        labels: Their labels.
        split: The given part of each sample; empty where there is none.
        groups: The group of each sample, from 0; None where there are none.
        group_names: Names of the groups; empty where they have none.
    """

    samples: Samples
    labels: Labels
    split: Sequence[str] = ()
    groups: IntArray | None = None
    group_names: tuple[str, ...] = ()


def assemble(found: Labelled, name: str, *, notes: Sequence[str] = (), origin: Mapping[str, Any] | None = None) -> Task:
    """The task that was found, without exact duplicates and without content that carries two labels.

    Of equal samples the one in the test part is kept before one in validation, and that before others.

    Args:
        found: Samples, labels, parts and groups.
        name: A short name for tables.
        notes: What reading them found.
        origin: What they were loaded with.

    Raises:
        DataError: Texts are empty, names are no text, there are fewer than two classes, or a class or a given part has
            no samples left.
    """
    labels = found.labels
    _check_texts(found.samples)
    _check_names((*labels.classes, *found.group_names))
    if labels.kind == "classification" and len(labels.classes) < 2:
        raise DataError(
            f"All {counted(len(labels.values), 'sample')} of {name!r} have one label, "
            f"{listed([repr(n) for n in labels.classes])}; expected two classes or more. Add samples of another class."
        )
    kept, dropped = _without_copies(found)
    _check_left(found, kept)
    whole = len(kept) == len(labels.values)
    return Task(
        name=shown(name),
        samples=found.samples if whole else Chosen(found.samples, kept),
        labels=labels.values if whole else labels.values[kept],
        classes=labels.classes,
        split=tuple(found.split[int(i)] for i in kept) if found.split else (),
        groups=None if found.groups is None else found.groups[kept],
        notes=(*map(shown, notes), *labels.notes, *_similar_names(labels.classes), *dropped),
        origin=dict(origin or {}),
        kind=labels.kind,
        group_names=found.group_names,
    )


def numbered_groups(values: Sequence[Any], describe: Describe) -> tuple[IntArray, tuple[str, ...]]:
    """The group of each sample, from 0 in sorted order, and the groups' names.

    Raises:
        DataError: Some are missing.
    """
    refuse_missing([i for i, value in enumerate(values) if is_missing(value)], describe, "group")
    codes: dict[str, int] = {}
    found = np.array([codes.setdefault(str(class_name(value)), len(codes)) for value in values], np.int64)
    names = sorted_names(codes)
    rank = {name: i for i, name in enumerate(names)}
    return np.array([rank[name] for name in codes], np.int64)[found], names


def _check_texts(samples: Samples) -> None:
    if samples.modality != "text":
        return
    empty = [samples.describe(i) for i in range(len(samples)) if not _content(samples[i]).strip()]
    if empty:
        raise DataError(
            f"{counted(len(empty), 'text')} without any content: {listed(empty)}. Expected more than white "
            "space. Fill or remove them."
        )


def _check_names(names: Sequence[str]) -> None:
    wrong = [shown(name) for name in names if not is_text(name)]
    if wrong:
        raise DataError(
            f"{counted(len(wrong), 'name')} of classes or groups not in UTF-8: {listed(wrong)}. Expected names that "
            "can be written down. Rename the folders or labels."
        )


def _content(sample: str | tuple[str, str]) -> str:
    """What a text must not lack: of a prompt and its completion the completion."""
    return sample if isinstance(sample, str) else sample[1]


def _without_copies(found: Labelled) -> tuple[IntArray, list[str]]:
    """Positions of the samples to keep, and what to say of the others."""
    values = found.labels.values
    is_kept = np.ones(len(values), bool)
    equal: list[list[int]] = []
    contradictory: list[list[int]] = []
    for same in sorted(_copies(hashes_of(found.samples))):
        is_kept[same] = False
        if (values[same] != values[same[0]]).any():
            contradictory.append(same)
            continue
        is_kept[min(same, key=lambda i: (_KEPT_FIRST.get(found.split[i], 2) if found.split else 2, i))] = True
        equal.append(same)
    notes = [*_duplicates_note(equal, found.split), *_contradictions_note(contradictory, found)]
    return np.flatnonzero(is_kept), notes


def _copies(hashes: HashArray) -> Iterator[list[int]]:
    """The positions of each content that occurs more than once, in order."""
    words = np.ascontiguousarray(hashes).view(">u8")
    order = np.lexsort((words[:, 1], words[:, 0]))
    is_new = np.ones(len(order) + 1, bool)
    is_new[1:-1] = (words[order[1:]] != words[order[:-1]]).any(1)
    begins = np.flatnonzero(is_new)
    for k in np.flatnonzero(np.diff(begins) > 1):
        yield sorted(order[begins[k] : begins[k + 1]].tolist())


def _duplicates_note(equal: list[list[int]], part: Sequence[str]) -> list[str]:
    if not equal:
        return []
    astride = sum(len({part[i] for i in same}) > 1 for same in equal) if part else 0
    num = sum(len(same) - 1 for same in equal)
    across = f"; {astride:,} stood in more than one given part and stay in test, or else validation"
    return [f"Dropped {counted(num, 'exact duplicate')}, keeping one of each{across if astride else ''}."]


def _contradictions_note(contradictory: list[list[int]], found: Labelled) -> list[str]:
    if not contradictory:
        return []
    named = [
        " = ".join(f"{found.samples.describe(i)} ({found.labels.text(i)})" for i in _one_a_label(same, found.labels))
        for same in contradictory[:3]
    ]
    more = f" and {len(contradictory) - 3:,} more" if len(contradictory) > 3 else ""
    return [
        f"Dropped {counted(sum(map(len, contradictory)), 'sample')} whose content stands under different labels: "
        f"{'; '.join(named)}{more}. Correct their labels to use them."
    ]


def _one_a_label(same: list[int], labels: Labels) -> list[int]:
    return sorted({labels.values[i].tobytes(): i for i in reversed(same)}.values())


def _check_left(found: Labelled, kept: IntArray) -> None:
    labels = found.labels
    if labels.kind == "classification":
        counts = np.bincount(labels.values[kept], minlength=len(labels.classes))
    else:
        counts = np.full(1, len(kept))
    lost = [repr(labels.classes[c]) for c in np.flatnonzero(counts == 0)]
    if lost:
        given = "; content that stands under different labels is not used" if len(kept) < len(labels.values) else ""
        raise DataError(
            f"No samples of {listed(lost)}{given}. Expected samples of every class. Add some, or remove the class."
        )
    if found.split:
        gone = set(found.split) - {found.split[int(i)] for i in kept}
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
