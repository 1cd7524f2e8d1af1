from __future__ import annotations

import numpy as np
import pytest

from bequest.comparison.statistics import interval, make_row, rank
from bequest.core.results import GroupScore, TrialRecord


def trial(method: str, seed: int, validation: float, **changes: object) -> TrialRecord:
    values = {"validation": validation, "test": 0.5, "validation_loss": 1.0, "trainable_parameters": 10, **changes}
    return TrialRecord(method, seed, {}, **values)


def test_interval_is_mean_and_standard_error() -> None:
    found = interval([0.8, 0.9, 0.7, 0.8])
    assert found.mean == pytest.approx(0.8)
    assert found.sem == pytest.approx(np.std([0.8, 0.9, 0.7, 0.8], ddof=1) / 2)
    assert interval([0.5]).sem is None


def test_rows_are_ranked_by_validation_never_by_test() -> None:
    rows = [
        make_row([trial("full", 0, 0.8, test=0.99)]),
        make_row([trial("lora", 0, 0.9, test=0.1)]),
    ]
    assert [r.method for r in rank(rows)] == ["lora", "full"]


def test_among_equals_the_smaller_comes_first_and_loss_counts_for_nothing() -> None:
    rows = [
        make_row([trial("full", 0, 0.9, trainable_parameters=1000, validation_loss=0.1)]),
        make_row([trial("linear_probe", 0, 0.9, trainable_parameters=10, validation_loss=0.3)]),
    ]
    assert [r.method for r in rank(rows)] == ["linear_probe", "full"]


def test_where_lower_is_better_the_lowest_comes_first() -> None:
    rows = [make_row([trial(name, 0, v, higher_is_better=False)]) for name, v in (("full", 23.0), ("lora", 21.0))]
    assert [r.method for r in rank(rows)] == ["lora", "full"]
    seeds = [trial("full", s, v, higher_is_better=False) for s, v in enumerate((20.0, 25.0, 22.0, 24.0))]
    assert make_row(seeds).median_seed == 3, "the worse of the two middles, 22 and 24"


def test_median_seed() -> None:
    assert make_row([trial("full", s, v) for s, v in enumerate((0.9, 0.5, 0.7))]).median_seed == 2
    assert make_row([trial("full", s, v) for s, v in enumerate((0.9, 0.5, 0.7, 0.8))]).median_seed == 2


def test_further_metrics_have_their_mean_and_standard_error() -> None:
    trials = [trial("full", s, 0.9, metrics={"macro-F1": v}) for s, v in enumerate((0.5, 0.7))]
    found = make_row([TrialRecord("full", 2, {}, error="no memory"), *trials]).metrics
    assert list(found) == ["macro-F1"]
    assert (found["macro-F1"].mean, found["macro-F1"].sem) == pytest.approx((0.6, 0.1))


def test_solvers_notes_are_told_once():
    trials = [trial("pro2", s, 0.9, solved=[{"note": "no source data"}, {"penalty": 1}]) for s in range(2)]
    assert make_row(trials).notes == ["no source data"]


def test_failed_seeds_count_only_as_errors() -> None:
    row = make_row([trial("full", 0, 0.9), TrialRecord("full", 1, {}, error="the loss became nan")])
    assert row.validation is not None and row.validation.seeds == 1
    assert row.errors == ["seed 1: the loss became nan"]
    lost = make_row([TrialRecord("lora", 0, {}, error="no memory")])
    assert lost.validation is None and lost.median_seed is None
    assert [r.method for r in rank([lost, row])] == ["full", "lora"]


def test_a_method_that_failed_at_a_seed_comes_after_all_that_did_not() -> None:
    lost = make_row([trial("lora", 0, 0.99), TrialRecord("lora", 1, {}, error="no memory")])
    whole = make_row([trial("full", 0, 0.96), trial("full", 1, 0.5)])
    none = make_row([TrialRecord("freeze", 0, {}, error="no memory")])
    assert [r.method for r in rank([none, lost, whole])] == ["full", "lora", "freeze"]


def grouped(method: str, seed: int, validation: float, worst_group: float, **changes: object) -> TrialRecord:
    groups = {"a": GroupScore(worst_group, 4), "b": GroupScore(1.0, 8)}
    return trial(method, seed, validation, validation_worst_group=worst_group, groups=groups, **changes)


def test_the_criterion_orders_rows_and_chooses_the_median_seed() -> None:
    full = [grouped("full", s, v, w) for s, (v, w) in enumerate([(0.9, 0.5), (0.8, 0.2), (0.7, 0.3)])]
    lora = [grouped("lora", s, 0.7, 0.4) for s in range(3)]
    for select_by, order, median in (("metric", ["full", "lora"], 1), ("worst-group", ["lora", "full"], 2)):
        rows = rank([make_row(full, select_by), make_row(lora, select_by)], select_by)
        assert [r.method for r in rows] == order
        assert next(r for r in rows if r.method == "full").median_seed == median


def test_equal_worst_groups_are_told_apart_by_accuracy_then_size() -> None:
    rows = [
        make_row([grouped("full", 0, 0.8, 0.5, trainable_parameters=5)], "worst-group"),
        make_row([grouped("lora", 0, 0.9, 0.5, trainable_parameters=50)], "worst-group"),
        make_row([grouped("freeze", 0, 0.9, 0.5, trainable_parameters=20)], "worst-group"),
        make_row([TrialRecord("bitfit", 0, {}, error="no memory")], "worst-group"),
    ]
    assert [r.method for r in rank(rows, "worst-group")] == ["freeze", "lora", "full", "bitfit"]


def test_groups_have_their_mean_and_standard_error() -> None:
    row = make_row([grouped("full", s, 0.9, w) for s, w in enumerate((0.5, 0.7))])
    assert (row.groups["a"].mean, row.groups["a"].sem) == pytest.approx((0.6, 0.1))
    assert row.groups["b"].values == [1.0, 1.0]
    assert row.validation_worst_group is not None and row.validation_worst_group.mean == pytest.approx(0.6)
