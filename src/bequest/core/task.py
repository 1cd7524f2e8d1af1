"""Labelled target data: samples, labels, splits, fingerprints."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from bequest.core.checks import check_count, check_seed, check_test_size, check_train_size
from bequest.core.errors import DataError

Modality = Literal["text", "image", "array"]
Kind = Literal["classification", "multi-label", "regression", "causal-lm"]
IntArray = np.ndarray[Any, np.dtype[np.int64]]
HashArray = np.ndarray[Any, np.dtype[np.uint8]]
LabelArray = np.ndarray[Any, np.dtype[Any]]

_NUM_BINS = 10  # of a regression's target, for stratified draws


class Samples(Protocol):
    """The inputs of a task, read one at a time so that they need not fit into memory."""

    @property
    def modality(self) -> Modality:
        """What a sample is: `text` (str), `image` (PIL image) or `array` (numpy array)."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any:
        """The decoded sample. Raises `DataError` naming the file or row when it cannot be read."""
        ...

    def content_hash(self, index: int) -> bytes:
        """16 bytes that are equal for two samples if and only if their content is."""
        ...

    def describe(self, index: int) -> str:
        """Where the sample came from, for messages: a path, or a row of a file."""
        ...


@runtime_checkable
class Hashed(Protocol):
    """Samples that hold all of their content hashes, so that no one need compute or copy them."""

    @property
    def hashes(self) -> HashArray:
        """uint8 (samples, 16): the content hash of each."""
        ...


@dataclass(frozen=True)
class Draw:
    """Which samples one seed may use, as indices into the task.

    Attributes:
        train: What stages are fitted on.
        validation: A fifth of the labels (or the given validation part): early stopping and ranking.
        test: Scored once per final model; the same for every seed.
        selection: A part of the held-out labels kept for ranking alone, and not in `validation`; None where no method
            is fitted on that, so that it can rank as well.
    """

    train: IntArray
    validation: IntArray
    test: IntArray
    selection: IntArray | None = None

    @property
    def held_out(self) -> IntArray:
        """Every label that is not in `train` and not tested on."""
        return self.validation if self.selection is None else np.concatenate([self.validation, self.selection])

    @property
    def labelled(self) -> IntArray:
        """Every label that a method may see before the test; the train part comes first."""
        return np.concatenate([self.train, self.held_out])

    @property
    def ranking(self) -> IntArray:
        """What rows are ranked on."""
        return self.validation if self.selection is None else self.selection

    def divided(self, strata: IntArray, seed: int) -> Draw:
        """The same with half of the held-out labels, stratum by stratum, kept for ranking alone.

        Args:
            strata: int64 (samples of the task,).
            seed: Chooses the half.

        Raises:
            DataError: Fewer than two labels are held out.
        """
        if len(self.validation) < 2:
            raise DataError(
                f"{len(self.validation)} labels are held out; expected two or more, since one half is fitted on and "
                "the other ranks. Give a larger --train-size."
            )
        held, rng = strata[self.validation], np.random.default_rng([check_seed("--seed", seed), 4])
        chosen = np.zeros(len(held), bool)
        chosen[stratified(held, len(held) // 2, rng)] = True
        return replace(self, validation=self.validation[~chosen], selection=self.validation[chosen])


@dataclass(frozen=True)
class Grouping:
    """The groups of a task's samples.

    Attributes:
        names: One a group, e.g. `sport / red`.
        numbers: int64 (samples,): the group of each sample; groups of one class are numbered consecutively.
    """

    names: tuple[str, ...]
    numbers: IntArray


@dataclass(frozen=True)
class Task:
    """Labelled target data (dataset B).

    Attributes:
        name: A short name for tables.
        samples: The inputs.
        labels: For classification int64 (samples,): the index of each sample's class. For multi-label float32
            (samples, classes): 1 where a sample carries a class, else 0. For regression float32 (samples, targets).
            For causal-lm (samples, 0): what is to be predicted stands in the samples.
        classes: Names of the classes, or of a regression's targets, in the order of `labels`.
        split: Given parts, one of `train`, `validation`, `test` a sample; empty where splits are made.
        groups: int64 (samples,): each sample's value in the column of groups; None where there is none. What counts as
            a group is in `grouping`.
        notes: What loading found and the user should know (duplicates dropped, files skipped, …).
        origin: What `bequest.data.load` was called with, so that a run can be replayed; empty for data from
            Python.
        kind: What is predicted: one class, any number of classes, numbers, or the next token.
        group_names: Names of the values of `groups`, which index them. Empty where they have none.
        units: int64 (samples,), ascending: of which unit (a document) each sample is a piece. Units are drawn whole;
            None where each sample is drawn by itself.
    """

    name: str
    samples: Samples
    labels: LabelArray
    classes: tuple[str, ...]
    split: tuple[str, ...] = ()
    groups: IntArray | None = None
    notes: tuple[str, ...] = ()
    origin: dict[str, Any] = field(default_factory=dict[str, Any])
    kind: Kind = "classification"
    group_names: tuple[str, ...] = ()
    units: IntArray | None = None

    @property
    def modality(self) -> Modality:
        """What a sample is."""
        return self.samples.modality

    @cached_property
    def hashes(self) -> HashArray:
        """uint8 (samples, 16): the content hash of every sample."""
        if isinstance(self.samples, Hashed):
            return self.samples.hashes
        hashes = np.empty((len(self.samples), 16), np.uint8)
        for i in range(len(hashes)):
            hashes[i] = np.frombuffer(self.samples.content_hash(i), np.uint8)
        return hashes

    @cached_property
    def grouping(self) -> Grouping | None:
        """What accuracy is told of group by group; None where the samples have no groups.

        A group is a value of `groups` where each occurs in one class only. Where one occurs in several classes, values
        are attributes, and a group is a class with an attribute (Kirichenko et al. 2023, arXiv:2204.02937). A sample of
        another kind of task has no one class: there a group is always a value.
        """
        if self.groups is None:
            return None
        is_classification = self.kind == "classification"
        labels = self.labels if is_classification else np.zeros(len(self.groups), np.int64)
        num_values = int(self.groups.max()) + 1
        pairs, numbers = np.unique(labels * num_values + self.groups, return_inverse=True)
        classes, values = np.divmod(pairs, num_values)
        named: list[str] = [self.group_names[int(v)] if self.group_names else str(v) for v in values]
        if len(np.unique(values)) < len(values):
            named = [f"{self.classes[int(c)]} / {name}" for c, name in zip(classes, named, strict=True)]
        return Grouping(tuple(named), numbers.astype(np.int64))

    @cached_property
    def strata(self) -> IntArray:
        """int64 (samples,): what draws and folds are stratified by.

        The class, or the group inside of it where there are groups; of a multi-label sample its rarest label, or a
        stratum of those without any; of a regression up to ten bins of the first target, each with as many samples.
        Of a language model's texts there is one.
        """
        if self.kind == "causal-lm":
            return np.zeros(len(self.labels), np.int64)
        if self.kind == "classification":
            return self.labels if self.grouping is None else self.grouping.numbers
        if self.kind == "regression":
            return _bins(self.labels[:, 0])
        carried: np.ndarray[Any, np.dtype[np.bool_]] = self.labels > 0
        rarest: IntArray = np.where(carried, carried.sum(0), len(carried) + 1).argmin(1)
        return np.where(carried.any(1), rarest, len(self.classes)).astype(np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest over samples, labels, classes, groups and given splits; independent of file names and order."""
        digest = hashlib.blake2b(digest_size=16)
        for i, row in enumerate(self._fingerprint_rows()):
            digest.update(b"\0\0" + row if i else row)
        if self.kind != "classification":  # its classes each have a sample, whose row names them
            digest.update("\0\0".join(["", self.kind, *sorted(self.classes)]).encode())
        return digest.hexdigest()

    def _fingerprint_rows(self) -> Iterator[bytes]:
        """What is known of each sample, in order of these bytes; of all at once there are never but numbers."""
        words = np.ascontiguousarray(self.hashes).view(">u8")
        order: IntArray = np.lexsort((words[:, 1], words[:, 0]))
        by_name = np.array(sorted(range(len(self.classes)), key=self.classes.__getitem__), np.int64)
        for _, same in groupby(order.tolist(), key=lambda i: self.hashes[i].tobytes()):
            yield from sorted(self.hashes[i].tobytes() + self._fingerprint_row(i, by_name) for i in same)

    def _fingerprint_row(self, index: int, by_name: IntArray) -> bytes:
        if self.kind == "classification":
            label = self.classes[int(self.labels[index])].encode()
        else:
            values: LabelArray = self.labels[index, by_name] + np.float32(0)  # -0 + 0 is 0
            label = values.astype("<f4").tobytes()
        part = self.split[index] if self.split else ""
        row = b"\0" + label + f"\0{part}".encode()
        if self.groups is None:
            return row
        group = int(self.groups[index])
        return row + f"\0{self.group_names[group] if self.group_names else group}".encode()

    def draw(
        self, seed: int, *, train_size: int | None = None, test_size: int | float = 0.25, split_seed: int = 0
    ) -> Draw:
        """Parts for one seed: stratified, without replacement; the test part does not depend on the seed.

        A fifth of what is seen is held out for validation, with every stratum in it where a fifth has room for
        all; a given validation part is taken whole instead. In a classification each class's share of a part is
        divided among its groups in proportion, with every group in it where there is room. Where samples are pieces of
        units, sizes count units.

        Args:
            seed: Redraws which labels are seen and how they are divided.
            train_size: How many labels a method may see before the test (train and validation together);
                None for all that are not test.
            test_size: How many samples to test on, or the fraction (below 1) of all that are not a given
                validation part. Where a test split is given, a fraction is ignored, and a number below the
                split's size draws from it.
            split_seed: Chooses the test part.

        Raises:
            DataError: A seed or a size makes no sense, or the sizes ask for more samples than there are, or leave
                nothing to test on or fewer than two samples to learn from; in classification, of each class.
        """
        [draw] = _by_unit(self, lambda whole: [_draw(whole, seed, train_size, test_size, split_seed)])
        return draw

    def folds(self, seed: int, count: int, *, train_size: int | None = None) -> list[Draw]:
        """Parts for one seed of a stratified cross-validation: every sample is in the test part of one fold.

        What a fold does not test on is divided as `draw` does it. A given validation part is held out in every fold,
        and not tested on. Where samples are pieces of units, whole units are tested on.

        Args:
            seed: Redraws the folds, which labels are seen, and how they are divided.
            count: How many folds.
            train_size: As for `draw`.

        Raises:
            DataError: A number makes no sense or is more than there are samples, of each class in a classification; or
                there is a given test part.
        """
        return _by_unit(self, lambda whole: _folds(whole, seed, count, train_size))


def stratified(
    labels: IntArray,
    size: int,
    rng: np.random.Generator,
    *,
    least: int = 0,
    groups: IntArray | None = None,
    each: int = 1,
    spare: int = 0,
) -> IntArray:
    """Positions of `size` samples whose class proportions are those of `labels`, in random order.

    A class's share is `size` times its proportion, rounded by the largest remainder, ties at random: so
    shares are within one of exact, and add up to `size`. Classes that `least` lifts above their share take
    from the others in proportion. A class's share is divided among its groups in the same way.

    Args:
        labels: Class indices (samples,).
        size: How many to draw.
        rng: Source of randomness.
        least: Every class that is present gets at least so many, where it has them.
        groups: Groups inside the classes (samples,); None for none.
        each: Every group gets at least so many, or fewer where its class's share has no room for that.
        spare: Groups of no more samples than this are not lifted above their share, but left to other parts.

    Raises:
        DataError: There are fewer samples than `size`, or `least` of each class are more.
    """
    classes, counts = np.unique(labels, return_counts=True)
    fewest = int(np.minimum(counts, least).sum())
    if not fewest <= size <= len(labels):
        raise DataError(f"Asked for {size} samples of {len(classes)} classes; expected {fewest} to {len(labels)}.")
    shares = _shares(counts.astype(np.int64), size, np.minimum(counts, least), rng)
    picked = [np.empty(0, np.int64)]
    for label, share in zip(classes, shares, strict=True):
        members = np.flatnonzero(labels == label)
        inner = np.zeros(len(members), np.int64) if groups is None else groups[members]
        picked += _by_group(members, inner, int(share), rng, each, spare)
    return rng.permutation(np.concatenate(picked))


def _by_group(
    members: IntArray, groups: IntArray, size: int, rng: np.random.Generator, each: int, spare: int
) -> list[IntArray]:
    """`size` of a class's members, group by group."""
    present, counts = np.unique(groups, return_counts=True)
    if len(present) == 1:
        return [rng.permutation(members)[:size]]
    least = np.where(counts > spare, np.minimum(counts, min(each, size // len(present))), 0)
    shares = _shares(counts.astype(np.int64), size, least, rng)
    return [rng.permutation(members[groups == g])[:share] for g, share in zip(present, shares, strict=True)]


def _shares(counts: IntArray, size: int, least: IntArray, rng: np.random.Generator) -> IntArray:
    """How many of each class, `least` of each or more: in integers throughout, so that no rounding upsets the sum."""
    shares = least.astype(np.int64)
    free = np.ones(len(counts), bool)  # not held up by `least`
    while free.any():  # every pass but the last frees fewer classes
        rest, total = size - int(shares[~free].sum()), int(counts[free].sum())
        held = free & (rest * counts < shares * total)
        if not held.any():
            whole, remainder = np.divmod(rest * counts[free], total)
            order = rng.permutation(len(whole))
            order = order[np.argsort(-remainder[order], kind="stable")]
            whole[order[: rest - int(whole.sum())]] += 1
            shares[free] = whole
            break
        free &= ~held
    return shares


def _bins(values: LabelArray) -> IntArray:
    """The bin of each value: bins of about as many values each, equal values in the same."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, _NUM_BINS + 1)[1:-1]))
    return np.searchsorted(edges, values, side="right").astype(np.int64)


def _draw(task: Task, seed: int, train_size: int | None, test_size: int | float, split_seed: int) -> Draw:
    train_size, test_size = check_train_size(train_size), check_test_size(test_size)
    test_rng = np.random.default_rng([check_seed("--split-seed", split_seed), 1])
    rng = np.random.default_rng([check_seed("--seed", seed), 2])
    given_test, held = _positions(task, "test"), _positions(task, "validation")
    pool = np.setdiff1d(np.arange(len(task.labels)), np.concatenate([given_test, held]))
    least = 1 if task.kind == "classification" else 0  # a label without a test sample spoils no other score
    if len(given_test):
        wanted = min(int(test_size), len(given_test)) if test_size >= 1 else len(given_test)
        _check_given_test_size(task, wanted, given_test)
        test = given_test[_divided(task, given_test, wanted, test_rng, least=least)]
    else:
        wanted = int(test_size) if test_size >= 1 else round(test_size * len(pool))
        _check_test_size(task, wanted, pool)
        test = pool[_divided(task, pool, wanted, test_rng, least=least, spare=2)]
        pool = np.setdiff1d(pool, test)
    return _learnt(task, test, held, pool, train_size, rng)


def _folds(task: Task, seed: int, count: int, train_size: int | None) -> list[Draw]:
    train_size, count = check_train_size(train_size), check_count("--folds", count, 2)
    rng = np.random.default_rng([check_seed("--seed", seed), 5])
    if "test" in task.split:
        raise DataError(
            f"--folds is given, but {task.name!r} has a given test part; expected data whose every sample may be "
            "tested on. Leave --folds out, or the split."
        )
    held = _positions(task, "validation")
    pool = np.setdiff1d(np.arange(len(task.labels)), held)
    few = _smaller(task, pool, count)
    if few:
        raise DataError(
            f"Too few samples for {count} folds in: {few}; expected {count} or more{_each(task)}. Give fewer --folds, "
            "or add samples."
        )
    left, draws = pool, list[Draw]()
    for fold in range(count):
        test = left[_divided(task, left, round(len(left) / (count - fold)), rng, least=0)]
        left = np.setdiff1d(left, test)
        draws.append(_learnt(task, np.sort(test), held, np.setdiff1d(pool, test), train_size, rng))
    return draws


def _learnt(
    task: Task, test: IntArray, held: IntArray, pool: IntArray, train_size: int | None, rng: np.random.Generator
) -> Draw:
    """The labels that are seen, of those in `pool` and the given validation part, and how they are divided."""
    _check_train_size(task, train_size, pool, len(held))
    if len(held):
        train = pool if train_size is None else _pick(task, pool, train_size - len(held), rng)
        return Draw(rng.permutation(train), held, test)
    labelled = rng.permutation(pool) if train_size is None else _pick(task, pool, train_size, rng)
    num_held = max(1, round(len(labelled) / 5))
    least = min(1, num_held // _num_strata(task, labelled))
    validation = _divided(task, labelled, num_held, rng, least=least, spare=1)
    train = np.setdiff1d(np.arange(len(labelled)), validation)
    return Draw(labelled[rng.permutation(train)], labelled[validation], test)


def _by_unit(task: Task, drawn: Callable[[Task], list[Draw]]) -> list[Draw]:
    """Where samples are pieces of units, these are drawn as if each were one sample; pieces follow, in their order."""
    if task.units is None:
        return drawn(task)
    first: IntArray = np.flatnonzero(np.diff(task.units, prepend=-1))
    size: IntArray = np.diff(first, append=len(task.units))
    split = tuple(task.split[int(i)] for i in first) if task.split else ()
    whole = replace(task, labels=task.labels[first], split=split, groups=None, units=None)

    def pieces(chosen: IntArray) -> IntArray:
        sizes, before = size[chosen], np.cumsum(size[chosen]) - size[chosen]
        return np.repeat(first[chosen] - before, sizes) + np.arange(sizes.sum(), dtype=np.int64)

    return [Draw(pieces(draw.train), pieces(draw.validation), pieces(draw.test)) for draw in drawn(whole)]


def _positions(task: Task, part: str) -> IntArray:
    return np.array([i for i, given in enumerate(task.split) if given == part], np.int64)


def _pick(task: Task, pool: IntArray, size: int, rng: np.random.Generator) -> IntArray:
    return pool[_divided(task, pool, size, rng, least=min(2, size // _num_strata(task, pool)), each=2)]


def _divided(
    task: Task, pool: IntArray, size: int, rng: np.random.Generator, *, least: int, each: int = 1, spare: int = 0
) -> IntArray:
    """Positions in `pool` of `size` samples: classes in proportion, and in each class its groups."""
    groups = None if task.kind != "classification" or task.groups is None else task.strata[pool]
    return stratified(_coarse(task)[pool], size, rng, least=least, groups=groups, each=each, spare=spare)


def _coarse(task: Task) -> IntArray:
    """What a part has in proportion before all else: the classes, or the strata of samples that have no one class."""
    return task.labels if task.kind == "classification" else task.strata


def _num_strata(task: Task, pool: IntArray) -> int:
    return len(np.unique(_coarse(task)[pool]))


def _fewest(task: Task) -> int:
    """How many samples there must be for each that there must be of a class."""
    return len(task.classes) if task.kind == "classification" else 1


def _check_given_test_size(task: Task, wanted: int, given: IntArray) -> None:
    present = len(np.unique(task.labels[given])) if task.kind == "classification" else 1
    if wanted < present:
        raise DataError(
            f"--test-size asks for {wanted} of the {len(given)} given test samples of {task.name!r}; "
            f"expected {present} (one a class) or more. Give another --test-size."
        )


def _check_test_size(task: Task, wanted: int, pool: IntArray) -> None:
    fewest = _fewest(task)
    few = _smaller(task, pool, 3)
    if few:
        raise DataError(
            f"Too few samples in: {few}; expected three or more{_each(task)}, one to test on and two to learn "
            "from. Add samples" + (", or remove the class." if task.kind == "classification" else ".")
        )
    if not fewest <= wanted <= len(pool) - 2 * fewest:
        one, two = ("one a class", "two a class") if task.kind == "classification" else ("at least one", "two")
        raise DataError(
            f"--test-size asks for {wanted} of {len(pool)} samples of {task.name!r}; expected from "
            f"{fewest} ({one}) to {len(pool) - 2 * fewest} ({two} are left to "
            "learn from). Give another --test-size."
        )


def _check_train_size(task: Task, wanted: int | None, pool: IntArray, held: int) -> None:
    few = _smaller(task, pool, 2)
    if few:
        raise DataError(
            f"Too few samples to learn from, beside the test part, in: {few}; expected two or more{_each(task)}. "
            "Add samples, "
            + ("remove the class, " if task.kind == "classification" else "")
            + "or give a smaller --test-size."
        )
    fewest = 2 * _fewest(task)
    if wanted is not None and not fewest <= wanted - held <= len(pool):
        raise DataError(
            f"--train-size or --train-sizes asks for {wanted} labels of {task.name!r}"
            + (f", {held} of them the given validation part" if held else "")
            + f"; expected from {fewest + held} (two{_each(task)}, so that one can be held out) to "
            f"{len(pool) + held} (all that are not test). Give another number."
        )


def _each(task: Task) -> str:
    return " a class" if task.kind == "classification" else ""


def _smaller(task: Task, pool: IntArray, least: int) -> str:
    if task.kind != "classification":
        return f"{task.name!r} ({len(pool)})" if len(pool) < least else ""
    counts = np.bincount(task.labels[pool], minlength=len(task.classes))
    few = [f"{task.classes[c]!r} ({counts[c]})" for c in np.flatnonzero(counts < least)]
    return ", ".join(few[:10]) + (f" and {len(few) - 10} more" if len(few) > 10 else "")
