"""Draws and fingerprints, over many random tasks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from bequest.core.errors import DataError
from bequest.core.task import Draw, Modality, Task, stratified


@dataclass(frozen=True)
class Words:
    words: tuple[str, ...]

    @property
    def modality(self) -> Modality:
        return "text"

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, index: int) -> Any:
        return self.words[index]

    def content_hash(self, index: int) -> bytes:
        return hashlib.blake2b(self.words[index].encode(), digest_size=16).digest()

    def describe(self, index: int) -> str:
        return f"word {index}"


def task_of(counts: list[int], split: tuple[str, ...] = ()) -> Task:
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
    classes = tuple(f"c{i}" for i in range(len(counts)))
    return Task("t", Words(tuple(f"word {i}" for i in range(len(labels)))), labels, classes, split)


def with_test(train: list[int], test: list[int], validation: list[int] | None = None) -> Task:
    """A task with given parts, of which each list counts the classes."""
    parts = [("train", train), ("test", test), ("validation", validation or [0] * len(train))]
    split = tuple(p for p, counts in parts for n in counts for _ in range(n))
    labels = np.array([c for _, counts in parts for c, n in enumerate(counts) for _ in range(n)], np.int64)
    return replace(task_of([len(labels)]), labels=labels, split=split, classes=task_of(train).classes)


def per_class(task: Task, indices: Any) -> np.ndarray[Any, Any]:
    return np.bincount(task.labels[indices], minlength=len(task.classes))


def assert_sound(task: Task, draw: Draw) -> None:
    """Parts are disjoint, have no sample twice, and every class can be learnt and tested."""
    together = np.concatenate([draw.train, draw.validation, draw.test])
    assert together.dtype == np.int64
    assert len(np.unique(together)) == len(together)
    assert per_class(task, draw.train).min() >= 1
    assert per_class(task, draw.labelled).min() >= 2
    assert per_class(task, draw.test).min() >= 1


def random_counts(rng: np.random.Generator, least: int) -> list[int]:
    spread = rng.choice([1, 10, 300])
    return [int(n) for n in rng.integers(least, least + spread, size=rng.integers(2, 15), endpoint=True)]


@pytest.mark.parametrize("seed", range(300))
def test_stratified_sizes_are_exact_and_shares_within_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = np.array(random_counts(rng, 1))
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    size = int(rng.integers(0, len(labels), endpoint=True))
    picked = stratified(labels, size, rng)
    assert len(picked) == len(np.unique(picked)) == size
    shares = np.bincount(labels[picked], minlength=len(counts))
    assert np.all(np.abs(shares - size * counts / counts.sum()) < 1)


@pytest.mark.parametrize("seed", range(300))
def test_stratified_gives_the_least_and_shares_the_rest_in_proportion(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts, least = np.array(random_counts(rng, 1)), int(rng.integers(0, 6))
    labels = np.repeat(np.arange(len(counts)), counts)
    fewest = np.minimum(counts, least)
    size = int(rng.integers(fewest.sum(), len(labels), endpoint=True))
    picked = stratified(labels, size, rng, least=least)
    shares = np.bincount(labels[picked], minlength=len(counts))
    assert shares.sum() == len(np.unique(picked)) == size
    assert np.all(shares >= fewest)
    above = shares > fewest
    if above.any():
        # Classes that are not held up share one rate, up to rounding: their intervals of possible rates meet.
        assert ((shares[above] - 1) / counts[above]).max() < ((shares[above] + 1) / counts[above]).min()


def test_stratified_takes_all_or_nothing() -> None:
    labels = np.array([0, 0, 1, 2])
    rng = np.random.default_rng(0)
    assert sorted(stratified(labels, 4, rng)) == [0, 1, 2, 3]
    assert stratified(labels, 0, rng).dtype == np.int64
    assert len(stratified(labels, 0, rng)) == 0
    assert len(stratified(np.empty(0, np.int64), 0, rng)) == 0


def test_stratified_ties_fall_to_every_class() -> None:
    labels = np.repeat(np.arange(10), 2)
    drawn = np.concatenate([labels[stratified(labels, 3, np.random.default_rng(s))] for s in range(60)])
    assert np.all(np.bincount(drawn, minlength=10) > 0)


@pytest.mark.parametrize(("size", "least", "expected"), [(5, 0, "0 to 4"), (-1, 0, "0 to 4"), (2, 1, "3 to 4")])
def test_stratified_refuses_impossible_sizes(size: int, least: int, expected: str) -> None:
    with pytest.raises(DataError, match=rf"Asked for {size} samples of 3 classes; expected {expected}\."):
        stratified(np.array([0, 0, 1, 2]), size, np.random.default_rng(0), least=least)


@pytest.mark.parametrize("seed", range(150))
def test_draw_with_any_valid_sizes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    task = task_of(random_counts(rng, 4))
    num_classes, total = len(task.classes), len(task.labels)
    test_size = int(rng.integers(num_classes, max(num_classes, total // 4), endpoint=True))
    train_size = int(rng.integers(2 * num_classes, total - test_size, endpoint=True))
    draw = task.draw(seed, train_size=train_size, test_size=test_size)
    assert_sound(task, draw)
    assert len(draw.test) == test_size
    assert len(draw.labelled) == train_size
    assert len(draw.validation) == max(1, round(train_size / 5))
    if len(draw.validation) >= num_classes:
        assert per_class(task, draw.validation).min() >= 1


@pytest.mark.parametrize("seed", range(50))
def test_draw_of_all_is_stratified_within_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    task = task_of(random_counts(rng, 8))
    total, counts = len(task.labels), per_class(task, slice(None))
    draw = task.draw(seed)
    assert_sound(task, draw)
    assert len(draw.test) == round(total / 4)
    assert len(draw.labelled) == total - len(draw.test)
    assert np.all(np.abs(per_class(task, draw.test) - len(draw.test) * counts / total) < 1)


def test_test_part_depends_on_the_split_seed_only() -> None:
    task = task_of([40, 30, 20])
    first = task.draw(0)
    for other in (task.draw(1), task.draw(2, train_size=12), task.draw(0, train_size=30)):
        assert np.array_equal(first.test, other.test)
    assert set(first.test) != set(task.draw(0, split_seed=1).test)


def test_seeds_redraw_labels_and_repeat() -> None:
    task = task_of([40, 30, 20])
    for train_size in (None, 20):
        draws = [task.draw(s, train_size=train_size) for s in range(10)]
        assert len({tuple(sorted(d.validation)) for d in draws}) == 10
        assert len({tuple(d.train) for d in draws}) == 10
        again = task.draw(3, train_size=train_size)
        assert np.array_equal(again.train, draws[3].train)
        assert np.array_equal(again.validation, draws[3].validation)


def test_order_carries_no_labels() -> None:
    draw = task_of([100, 100]).draw(0)
    for part in (draw.train, draw.validation, draw.test):
        assert list(part) != sorted(part)


def test_given_test_is_whole_or_drawn_from() -> None:
    task = with_test([10, 10], [6, 4])
    given = {i for i, p in enumerate(task.split) if p == "test"}
    assert set(task.draw(0).test) == given
    assert set(task.draw(0, test_size=0.1).test) == given
    assert set(task.draw(0, test_size=1000).test) == given
    some = task.draw(0, test_size=5)
    assert_sound(task, some)
    assert set(some.test) < given
    assert list(per_class(task, some.test)) == [3, 2]
    assert len(some.labelled) == 20


def test_given_test_smaller_than_its_classes() -> None:
    task = with_test([10, 10, 10], [6, 4, 0])
    expected = r"--test-size asks for 1 of the 10 given test samples of 't'; expected 2 \(one a class\) or more"
    with pytest.raises(DataError, match=expected):
        task.draw(0, test_size=1)


def test_given_validation_is_kept_whole() -> None:
    task = with_test([20, 20], [0, 0], [4, 6])
    held = [i for i, p in enumerate(task.split) if p == "validation"]
    for draw in (task.draw(0), task.draw(1, train_size=20), task.draw(1, test_size=30)):
        assert_sound(task, draw)
        assert list(draw.validation) == held
    assert len(task.draw(0).test) == 10
    assert len(task.draw(1, train_size=20).train) == 10


def test_given_validation_bounds_the_train_size() -> None:
    task = with_test([20, 20], [5, 5], [4, 6])
    expected = r"asks for 13 labels of 't', 10 of them the given validation part; expected from 14 .* to 50 "
    with pytest.raises(DataError, match=expected):
        task.draw(0, train_size=13)
    assert len(task.draw(0, train_size=14).train) == 4
    assert len(task.draw(0, train_size=50).train) == 40
    with pytest.raises(DataError, match="asks for 51 labels"):
        task.draw(0, train_size=51)


def test_only_train_is_given() -> None:
    task = with_test([20, 20], [0, 0])
    assert_sound(task, task.draw(0))
    assert len(task.draw(0).test) == 10


@pytest.mark.parametrize("size", [0, -3, -0.5, 2.5, float("nan"), float("inf")])
@pytest.mark.parametrize("given", [0, 5])
def test_senseless_test_sizes(size: float, given: int) -> None:
    task = with_test([20, 20], [given, given])
    with pytest.raises(DataError, match=r"--test-size is .*; expected a fraction between 0 and 1, or a whole"):
        task.draw(0, test_size=size)


@pytest.mark.parametrize(("size", "asked"), [(1, 1), (0.01, 0), (37, 37), (0.99, 40), (1000, 1000)])
def test_test_size_out_of_range(size: float, asked: int) -> None:
    expected = rf"--test-size asks for {asked} of 40 samples of 't'; expected from 2 \(one a class\) to 36 "
    with pytest.raises(DataError, match=expected):
        task_of([20, 20]).draw(0, test_size=size)


@pytest.mark.parametrize("size", [1, 3, 31])
def test_train_size_out_of_range(size: int) -> None:
    expected = rf"--train-sizes asks for {size} labels of 't'; expected from 4 \(two a class.*\) to 30 "
    with pytest.raises(DataError, match=expected):
        task_of([20, 20]).draw(0, train_size=size)


def test_train_and_test_sizes_at_their_bounds() -> None:
    task = task_of([20, 20])
    for train_size, test_size in ((4, 2), (38, 2), (4, 36)):
        draw = task.draw(0, train_size=train_size, test_size=test_size)
        assert_sound(task, draw)
        assert (len(draw.labelled), len(draw.test)) == (train_size, test_size)


def test_too_few_samples_are_named_and_counted() -> None:
    with pytest.raises(DataError, match=r"Too few samples in: 'c1' \(2\), 'c3' \(1\); expected three or more a"):
        task_of([20, 2, 3, 1]).draw(0)
    expected = r"Too few samples to learn from, beside the test part, in: 'c1' \(0\); expected two or more a class"
    with pytest.raises(DataError, match=expected):
        with_test([5, 0], [5, 5]).draw(0)


def test_long_lists_of_small_classes_are_cut() -> None:
    with pytest.raises(DataError, match=r"'c9' \(1\) and 20 more;"):
        task_of([1] * 30).draw(0)


def test_smallest_task_of_all() -> None:
    task = task_of([3, 3])
    draw = task.draw(0, test_size=2)
    assert_sound(task, draw)
    assert len(draw.train) == 3


def test_fingerprint_ignores_order_and_place_but_nothing_else() -> None:
    words, labels = ("a", "b", "c", "d"), np.array([0, 0, 1, 1])
    task = Task("t", Words(words), labels, ("x", "y"))
    turned = Task("other", Words(words[::-1]), labels[::-1], ("x", "y"))
    renumbered = Task("t", Words(words), 1 - labels, ("y", "x"))
    assert task.fingerprint == turned.fingerprint == renumbered.fingerprint
    others = [
        replace(task, labels=np.array([0, 1, 0, 1])),
        replace(task, classes=("x", "z")),
        replace(task, split=("train", "test", "train", "test")),
        replace(task, samples=Words(("a", "b", "c", "e"))),
    ]
    assert len({t.fingerprint for t in (task, *others)}) == 5


def numbers_task(num: int, seed: int = 0) -> Task:
    values = np.random.default_rng(seed).normal(size=(num, 2)).astype(np.float32)
    return replace(task_of([num]), labels=values, classes=("height", "width"), kind="regression")


def tagged_task(num: int, seed: int = 0) -> Task:
    rates = [0.6, 0.3, 0.05, 0.01]
    labels = (np.random.default_rng(seed).random((num, 4)) < rates).astype(np.float32)
    return replace(task_of([num]), labels=labels, classes=("a", "b", "c", "d"), kind="multi-label")


@pytest.mark.parametrize("make", [numbers_task, tagged_task])
@pytest.mark.parametrize("seed", range(40))
def test_draw_of_other_kinds_with_any_valid_sizes(make: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    task = make(int(rng.integers(3, 200, endpoint=True)), seed)
    total = len(task.labels)
    test_size = int(rng.integers(1, total - 2, endpoint=True))
    train_size = int(rng.integers(2, total - test_size, endpoint=True))
    draw = task.draw(seed, train_size=train_size, test_size=test_size)
    together = np.concatenate([draw.train, draw.validation, draw.test])
    assert len(np.unique(together)) == len(together)
    assert (len(draw.test), len(draw.labelled)) == (test_size, train_size)
    assert len(draw.validation) == max(1, round(train_size / 5))


def test_regression_strata_are_ten_bins_of_the_first_target() -> None:
    task = numbers_task(1000)
    assert np.bincount(task.strata).tolist() == [100] * 10
    lowest = task.labels[task.strata == 0, 0]
    assert lowest.max() < task.labels[task.strata == 1, 0].min()
    draw = task.draw(0, train_size=100)
    for part, each in ((draw.test, 25), (draw.labelled, 10), (draw.validation, 2)):
        assert np.bincount(task.strata[part], minlength=10).tolist() == [each] * 10


def test_regression_of_few_values_has_as_many_strata() -> None:
    ratings = replace(numbers_task(90), labels=np.repeat([[1.0], [2.0], [5.0]], 30, 0), classes=("stars",))
    assert len(np.unique(ratings.strata)) == 3
    flat = replace(ratings, labels=np.ones((90, 1)))
    assert len(flat.draw(0).test) == 22


def test_multi_label_strata_are_the_rarest_label_or_none() -> None:
    labels = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1], [1, 0, 0]], np.float32)
    task = replace(task_of([5]), labels=labels, classes=("a", "b", "c"), kind="multi-label")
    assert task.strata.tolist() == [1, 0, 3, 2, 0]


def test_rare_labels_are_in_what_is_learnt_where_there_is_room() -> None:
    task = tagged_task(600, 3)
    for seed in range(10):
        draw = task.draw(seed, train_size=60, test_size=0.25)
        assert task.labels[draw.labelled].sum(0).min() >= 1


@pytest.mark.parametrize("make", [numbers_task, tagged_task])
def test_other_kinds_refuse_only_what_leaves_nothing(make: Any) -> None:
    with pytest.raises(DataError, match=r"Too few samples in: 't' \(2\); expected three or more, one to test"):
        make(2).draw(0)
    with pytest.raises(DataError, match=r"--test-size asks for 39 of 40 .* 1 \(at least one\) to 38 \(two are left"):
        make(40).draw(0, test_size=39)
    with pytest.raises(
        DataError, match=r"--train-sizes asks for 1 .* from 2 \(two, so that one can be held out\) to 30 "
    ):
        make(40).draw(0, train_size=1)


def test_fingerprint_of_a_classification_is_what_it_was() -> None:
    assert task_of([4, 5, 6]).fingerprint == "827eb82748cc0d32746d4cde3c837987"
    assert with_test([10, 10], [6, 4], [3, 3]).fingerprint == "7508136935bba523928f60f835f526f1"


def test_fingerprint_covers_groups_and_their_names() -> None:
    task = task_of([3, 3])
    groups = np.array([0, 1, 0, 1, 0, 1])
    grouped = replace(task, groups=groups, group_names=("day", "night"))
    turned = replace(task, groups=1 - groups, group_names=("night", "day"))
    assert grouped.fingerprint == turned.fingerprint
    others = [
        replace(grouped, groups=1 - groups),
        replace(grouped, group_names=()),
        replace(grouped, groups=np.array([0, 1, 0, 1, 1, 0])),
        task,
    ]
    assert len({t.fingerprint for t in (grouped, *others)}) == 5


def grouped(cells: list[list[int]]) -> Task:
    """A task of as many samples of each class (row) with each attribute (column) as `cells` says."""
    pairs = [(c, a) for c, row in enumerate(cells) for a, n in enumerate(row) for _ in range(n)]
    task = task_of([sum(row) for row in cells])
    groups = np.array([a for _, a in pairs], np.int64)
    return replace(task, groups=groups, group_names=tuple(f"a{a}" for a in range(len(cells[0]))))


def per_group(task: Task, indices: Any) -> list[int]:
    assert task.grouping is not None
    return np.bincount(task.grouping.numbers[indices], minlength=len(task.grouping.names)).tolist()


def test_a_group_is_a_class_with_an_attribute_that_several_classes_have() -> None:
    task = grouped([[3, 2, 0], [1, 0, 4]])
    assert task.grouping is not None
    assert task.grouping.names == ("c0 / a0", "c0 / a1", "c1 / a0", "c1 / a2")
    assert task.grouping.numbers.tolist() == [0, 0, 0, 1, 1, 2, 3, 3, 3, 3]
    assert task.strata is task.grouping.numbers
    unnamed = replace(task, group_names=())
    assert unnamed.grouping is not None and unnamed.grouping.names[3] == "c1 / 2"


def test_a_group_is_the_value_where_each_occurs_in_one_class() -> None:
    task = grouped([[0, 2, 3], [4, 0, 0]])
    assert task.grouping is not None
    assert task.grouping.names == ("a1", "a2", "a0"), "class by class"
    assert task.grouping.numbers.tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert task_of([3, 3]).grouping is None


def test_a_group_of_samples_without_one_class_is_the_value() -> None:
    task = replace(numbers_task(6), groups=np.array([0, 1, 0, 2, 2, 2]), group_names=("x", "y", "z"))
    assert task.grouping is not None
    assert (task.grouping.names, task.grouping.numbers.tolist()) == (("x", "y", "z"), [0, 1, 0, 2, 2, 2])
    assert task.strata.tolist() == numbers_task(6).strata.tolist()


@pytest.mark.parametrize("seed", range(100))
def test_classes_have_the_same_shares_with_groups_as_without(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_classes, num_attributes = rng.integers(2, 6), rng.integers(2, 5)
    cells = rng.integers(0, rng.choice([3, 20, 100]), (num_classes, num_attributes), endpoint=True)
    cells[:, 0] += 4
    task = grouped(cells.tolist())
    total = len(task.labels)
    test_size = int(rng.integers(num_classes, total // 3, endpoint=True)) if total // 3 > num_classes else num_classes
    train_size = int(rng.integers(2 * num_classes, total - test_size, endpoint=True))
    draw = task.draw(seed, train_size=train_size, test_size=test_size)
    assert_sound(task, draw)
    plain = replace(task, groups=None).draw(seed, train_size=train_size, test_size=test_size)
    for part in ("train", "validation", "test"):
        shares = [per_class(t, getattr(d, part)) for t, d in ((task, draw), (replace(task, groups=None), plain))]
        assert shares[0].sum() == shares[1].sum()
        assert np.abs(shares[0] - shares[1]).max() <= 1, "but for ties, which fall at random"


@pytest.mark.parametrize("seed", range(30))
def test_every_group_is_in_every_part_where_it_has_room(seed: int) -> None:
    task = grouped([[60, 40, 3], [80, 3, 17], [50, 50, 0]])
    draw = task.draw(seed)
    for part in (draw.train, draw.validation, draw.test):
        assert min(per_group(task, part)) >= 1
    some = task.draw(seed, train_size=60)
    assert min(per_group(task, some.labelled)) >= 2
    assert min(per_group(task, some.train)) >= 1 and min(per_group(task, some.validation)) >= 1


def test_groups_share_their_classs_samples_in_proportion() -> None:
    task = grouped([[400, 100], [100, 200]])
    draw = task.draw(0, train_size=200, test_size=80)
    assert per_group(task, draw.test) == [40, 10, 10, 20]
    assert per_group(task, draw.labelled) == [100, 25, 25, 50]
    assert per_group(task, draw.validation) == [20, 5, 5, 10]


def test_a_group_too_small_for_all_parts_is_left_to_the_labels_and_the_labels_to_training() -> None:
    task = grouped([[100, 2], [100, 1]])
    trained = [per_group(task, task.draw(seed).train) for seed in range(20)]
    assert all(counts[1] == 1 for counts in trained), "one of two is learnt from, whatever the other is for"
    assert all(counts[3] == 1 for counts in trained)


def test_groups_for_which_a_part_has_no_room_are_drawn_in_proportion() -> None:
    task = grouped([[20] * 10, [20] * 10])
    draw = task.draw(0, train_size=10, test_size=6)
    assert per_class(task, draw.test).tolist() == [3, 3]
    assert max(per_group(task, draw.test)) == 1
    assert len(draw.labelled) == 10


def test_errors_speak_of_classes_with_groups_too() -> None:
    with pytest.raises(DataError, match=r"Too few samples in: 'c1' \(2\); expected three or more a class"):
        grouped([[10, 10], [1, 1]]).draw(0)
    with pytest.raises(
        DataError, match=r"--test-size asks for 1 of 40 samples of 't'; expected from 2 \(one a class\)"
    ):
        grouped([[10, 10], [10, 10]]).draw(0, test_size=1)


@pytest.mark.parametrize("make", [numbers_task, tagged_task])
def test_fingerprint_of_other_kinds_ignores_the_order_of_samples_and_classes(make: Any) -> None:
    task = make(20)
    order, columns = np.random.default_rng(0).permutation(20), np.arange(len(task.classes))[::-1]
    words = Words(tuple(task.samples[i] for i in order))
    classes = tuple(task.classes[c] for c in columns)
    turned = replace(task, samples=words, labels=task.labels[order][:, columns], classes=classes)
    assert turned.fingerprint == task.fingerprint
    changed = task.labels.copy()
    changed[7, 0] = 1 - changed[7, 0]
    others = [
        replace(task, labels=changed),
        replace(task, classes=("other", *task.classes[1:])),
        replace(task, kind="regression" if task.kind == "multi-label" else "multi-label"),
        replace(task, split=("train",) * 19 + ("test",)),
    ]
    assert len({t.fingerprint for t in (task, *others)}) == 5


def test_hashes_are_one_array_or_what_the_samples_hold() -> None:
    task = task_of([2, 2])
    assert (task.hashes.shape, task.hashes.dtype) == ((4, 16), np.uint8)
    assert task.hashes[3].tobytes() == task.samples.content_hash(3)

    @dataclass(frozen=True)
    class Held(Words):
        hashes: Any = None

    held = Held(("a", "b"), np.arange(32, dtype=np.uint8).reshape(2, 16))
    assert Task("t", held, np.array([0, 1]), ("x", "y")).hashes is held.hashes


@pytest.mark.parametrize("seed", range(30))
def test_every_sample_is_tested_on_in_one_fold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 6))
    task = task_of(random_counts(rng, least=2 * count))
    folds = task.folds(seed, count)
    assert sorted(np.concatenate([draw.test for draw in folds])) == list(range(len(task.labels)))
    for draw in folds:
        assert_sound(task, draw)
        assert sorted(np.concatenate([draw.labelled, draw.test])) == list(range(len(task.labels)))
        assert abs(len(draw.test) - len(task.labels) / count) < 1
        assert (abs(per_class(task, draw.test) - per_class(task, range(len(task.labels))) / count) < 2).all()


def test_seeds_redraw_folds_and_repeat() -> None:
    task = task_of([30, 50])
    tested = [[list(draw.test) for draw in task.folds(seed, 3, train_size=20)] for seed in (0, 0, 1)]
    assert tested[0] == tested[1] != tested[2]
    assert all(len(draw.labelled) == 20 for draw in task.folds(0, 3, train_size=20))


def test_a_given_validation_part_is_held_out_in_every_fold() -> None:
    task = task_of([8, 8], split=("train",) * 6 + ("validation",) * 2 + ("train",) * 8)
    for draw in task.folds(0, 4):
        assert list(draw.validation) == [6, 7]
        assert not set(draw.test) & {6, 7}


def test_folds_keep_the_pieces_of_a_unit_together() -> None:
    units = np.repeat(np.arange(12), 3)
    task = replace(task_of([36]), kind="regression", labels=np.zeros((36, 1), np.float32), units=units)
    for draw in task.folds(0, 4):
        assert not set(units[draw.test]) & set(units[draw.labelled])


def test_folds_that_cannot_be_made() -> None:
    with pytest.raises(DataError, match=r"--folds is 1; expected a whole number, 2 or more"):
        task_of([8, 8]).folds(0, 1)
    with pytest.raises(DataError, match=r"Too few samples for 5 folds in: 'c0' \(4\); expected 5 or more a class"):
        task_of([4, 8]).folds(0, 5)
    with pytest.raises(DataError, match=r"--folds is given, but .* has a given test part"):
        with_test([4, 4], [2, 2]).folds(0, 2)
