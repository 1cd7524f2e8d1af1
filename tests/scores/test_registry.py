from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scoring import probabilities, problem

from bequest.core.errors import DataError, MethodError
from bequest.scores import Design, agreement, get_score, score, score_all, scores
from bequest.scores import design as design_module
from bequest.scores.design import Array

NAMES = ["h_score", "leep", "logme", "nce", "ridge_loo", "transrate"]


def all_of(features: Array, labels: Array, num_classes: int = 3, **kwargs: Array) -> dict[str, float | None]:
    return score_all(features, labels, num_classes=num_classes, kind="classification", **kwargs)


def defined(found: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in found.items() if value is not None}


def test_every_score_of_the_package_is_found() -> None:
    assert list(scores()) == NAMES
    assert all(info.summary.endswith(".") and info.paper for info in scores().values())


def test_names_that_are_not_known_or_taken() -> None:
    with pytest.raises(MethodError, match=r"no score 'logm'\. Did you mean 'logme'"):
        get_score("logm")
    get_score("logme")
    with pytest.raises(MethodError, match="Two scores are called 'logme'"):

        @score("logme", paper="none", needs="features")
        def other(design: Design, labels: Array) -> float:
            return len(design.features) / len(labels)


def test_all_are_what_each_gives() -> None:
    features, labels = problem(50, 6)
    theta = probabilities(50, 4)
    found = all_of(features, labels, probabilities=theta)
    inputs = {"features": Design(features), "probabilities": theta}
    assert found == {name: info.function(inputs[info.needs], labels) for name, info in scores().items()}


def test_what_is_not_defined_is_none() -> None:
    features, labels = problem(50, 6)
    assert sorted(defined(all_of(features, labels))) == ["h_score", "logme", "ridge_loo", "transrate"]
    regression = score_all(features, features[:, :2], num_classes=2, kind="regression")
    assert list(regression) == NAMES
    assert list(defined(regression)) == ["logme"]
    columns = np.eye(3, dtype=np.int64)[labels]
    assert list(defined(score_all(features, columns, num_classes=3, kind="multi-label"))) == ["logme"]


def compare(samples: int, width: int) -> dict[str, bool]:
    """Which scores prefer separated classes to noise."""
    rng = np.random.default_rng(5)
    labels = np.arange(samples) % 3
    noise = rng.normal(size=(samples, width))
    good, bad = all_of(noise + 5 * rng.normal(size=(3, width))[labels], labels), all_of(noise, labels)
    return {name: value > defined(bad)[name] for name, value in defined(good).items()}


def test_separated_classes_score_higher_than_noise() -> None:
    assert all(compare(60, 8).values())
    few = compare(30, 50)
    assert not few.pop("transrate")  # as its page says
    assert all(few.values())


@pytest.mark.parametrize("num_classes", [2, 20])
def test_a_class_with_three_samples(num_classes: int) -> None:
    _, labels = problem(120, 5, num_classes)
    labels = np.concatenate([labels[labels != 1], np.ones(3, np.int64)])
    features = np.random.default_rng(0).normal(size=(len(labels), 30)) + 9 * np.eye(30)[labels]
    found = defined(all_of(features, labels, num_classes))
    assert found["ridge_loo"] > 0.8
    assert 0 < found["h_score"] < num_classes - 1
    assert all(math.isfinite(v) for v in found.values())


def test_a_class_without_samples_counts_nowhere() -> None:
    features, labels = problem(60, 6)
    theta = probabilities(60, 4)
    assert all_of(features, 2 * labels, 6, probabilities=theta) == all_of(features, labels, probabilities=theta)


def test_constant_features_change_nothing_but_the_width() -> None:
    features, labels = problem(60, 6)
    constant = all_of(np.full((60, 4), 0.3), labels)
    assert constant["h_score"] == constant["transrate"] == 0
    padded = defined(all_of(np.concatenate([features, np.zeros((60, 2))], 1), labels))
    for name in ("logme", "ridge_loo", "transrate"):
        assert padded[name] == pytest.approx(defined(all_of(features, labels))[name], rel=1e-9)


@pytest.mark.parametrize("shape", [(60, 6), (30, 50)], ids=["N > D", "N < D"])
def test_features_given_twice_are_features_scaled(shape: tuple[int, int]) -> None:
    features, labels = problem(*shape)
    twice, scaled = (defined(all_of(f, labels)) for f in (np.tile(features, 2), np.sqrt(2) * features))
    for name in ("logme", "ridge_loo", "transrate"):
        assert twice[name] == pytest.approx(scaled[name], rel=1e-6)


def test_blocks_and_memory_mapped_half_precision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    features, labels = problem(50, 6)
    np.save(tmp_path / "features.npy", features.astype(np.float16))
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    whole = defined(all_of(features.astype(np.float16).astype(np.float64), labels))
    monkeypatch.setattr(design_module, "_BLOCK", 7 * 6)
    assert [len(b) for b in Design(mapped).centred.blocks()] == [7] * 7 + [1]
    assert defined(all_of(mapped, labels)) == pytest.approx(whole, rel=1e-9)


def test_the_decomposition_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    eigh = np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: (calls.append(1), eigh(matrix))[1])
    all_of(*problem(60, 6))
    assert len(calls) == 2  # centred and raw


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_no_numbers(value: float) -> None:
    features, labels = problem(60, 6)
    features[17, 3] = value
    with pytest.raises(DataError, match=f"Feature 3 of sample 17 is {value}, expected a finite number"):
        all_of(features, labels)


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (np.zeros(60, np.int64), "All 60 samples have label 0"),
        (np.arange(60) % 4, "A label is 3, expected 0 to 2"),
        (np.arange(60) % 3 - 1, "A label is -1, expected 0 to 2"),
        (np.arange(59) % 3, r"shape \(59,\), expected \(60,\)"),
        (np.arange(60) % 3 / 1.0, "float64, expected whole numbers from 0 to 2"),
        (np.where(np.arange(60) == 5, np.nan, 1.0), "label of sample 5 is no finite number"),
    ],
)
def test_labels_that_cannot_be(labels: Array, text: str) -> None:
    with pytest.raises(DataError, match=text):
        all_of(problem(60, 6)[0], labels)


def test_other_shapes_and_probabilities() -> None:
    features, labels = problem(60, 6)
    with pytest.raises(DataError, match=r"shape \(60, 3, 2\), expected \(samples, width\)"):
        all_of(features.reshape(60, 3, 2), labels)
    with pytest.raises(DataError, match=r"shape \(59, 4\), expected \(60, source classes\)"):
        all_of(features, labels, probabilities=probabilities(59, 4))
    theta = probabilities(60, 4)
    theta[8] *= 3
    with pytest.raises(DataError, match=r"Row 8 of the probabilities is no distribution.*softmax"):
        all_of(features, labels, probabilities=theta)
    theta[8] = np.nan
    with pytest.raises(DataError, match="Row 8"):
        all_of(features, labels, probabilities=theta)


def test_agreement_is_kendalls_tau() -> None:
    found = agreement({"a": [1, 2, 3, 4], "b": [10, 30, 20, 40], "c": [4, 3, None, 1], "d": [1, 1, 1, 1]})
    expected = [[1, 4 / 6, -1], [4 / 6, 1, -1], [-1, -1, 1]]
    np.testing.assert_allclose(found[:3, :3], expected)
    assert np.isnan(found[3]).all()
    assert agreement({}).shape == (0, 0)
    with pytest.raises(DataError, match="same candidates"):
        agreement({"a": [1, 2], "b": [1]})
