"""Every classifier as a module says what scikit-learn's says, is made again from its description, and exports."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bequest.nn.head import build_head, describe_head
from bequest.nn.heads.neighbours import Neighbours
from bequest.optim.classifiers import ABSENT, CLASSIFIERS, Classifier

NAMES = tuple(CLASSIFIERS)
PROBLEMS = {"2 classes": (2, 60, 12), "3 classes": (3, 90, 12), "20 classes": (20, 200, 12), "N < D": (3, 24, 40)}


def problem(num_classes: int, samples: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clouds that overlap, the last class with three samples; features and labels to fit on, features to ask about."""
    rng = np.random.default_rng(num_classes)
    labels = rng.integers(0, num_classes - 1, samples) if num_classes > 2 else np.zeros(samples, np.int64)
    labels[-3:] = num_classes - 1
    labels[: num_classes - 1] = np.arange(num_classes - 1)
    if num_classes == 2:
        labels[::2] = 1
    means = rng.normal(size=(num_classes, width))
    asked = means[rng.integers(0, num_classes, 300)] + rng.normal(size=(300, width))
    return (means[labels] + rng.normal(size=(samples, width))).astype(np.float32), labels, asked.astype(np.float32)


def fitted(name: str, x: np.ndarray, y: np.ndarray, settings: Any = None) -> tuple[Any, nn.Module]:
    """The scikit-learn estimator and the module."""
    kind = CLASSIFIERS[name]
    made: list[Any] = []

    def convert(estimator: Any, num_outputs: int) -> nn.Module:
        made.append(estimator)
        return kind.convert(estimator, num_outputs)

    head = Classifier(kind.make, convert, kind.settings).fit(x, y, int(y.max()) + 1, seed=3, settings=settings)
    return made[0], head


def outputs(head: nn.Module, x: np.ndarray) -> torch.Tensor:
    with torch.inference_mode():
        return head(torch.from_numpy(x))


@pytest.mark.parametrize("shape", PROBLEMS.values(), ids=PROBLEMS)
@pytest.mark.parametrize("name", NAMES)
def test_same_as_scikit_learn(name: str, shape: tuple[int, int, int]) -> None:
    x, y, asked = problem(*shape)
    peer, head = fitted(name, x, y)
    logits = outputs(head, asked)
    assert logits.shape == (300, shape[0]) and logits.dtype == torch.float32
    np.testing.assert_array_equal(logits.argmax(1).numpy(), peer.predict(asked.astype(np.float64)))
    np.testing.assert_array_equal(outputs(head, x).argmax(1).numpy(), peer.predict(x.astype(np.float64)))
    if (
        hasattr(peer, "predict_proba") and name != "nearest_mean"
    ):  # which measures those in other units than its classes
        np.testing.assert_allclose(logits.softmax(1), peer.predict_proba(asked.astype(np.float64)), atol=1e-5)
    if hasattr(peer, "decision_function") and shape[0] > 2 and name != "nearest_mean":
        np.testing.assert_allclose(logits, peer.decision_function(asked.astype(np.float64)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_made_again_from_its_description_and_exported(name: str) -> None:
    x, y, asked = problem(*PROBLEMS["3 classes"])
    _, head = fitted(name, x, y)
    again = build_head(json.loads(json.dumps(describe_head(head)))).eval()
    again.load_state_dict(head.state_dict())
    expected = outputs(head, asked)
    assert torch.equal(outputs(again, asked), expected)
    batch = torch.export.Dim("batch", min=1, max=4096)
    exported = torch.export.export(head, (torch.from_numpy(x[:2]),), dynamic_shapes=({0: batch},)).module()
    for count in (1, 300):
        assert torch.equal(exported(torch.from_numpy(asked[:count])), outputs(head, asked[:count]))


@pytest.mark.parametrize("present", [[0, 2, 3], [1, 3], [2]], ids=["three", "two", "one"])
@pytest.mark.parametrize("name", NAMES)
def test_a_class_without_samples_is_never_chosen(name: str, present: list[int]) -> None:
    x, y, asked = problem(len(present) + 1, 60, 5)
    labels = np.array(present)[y % len(present)]
    head = CLASSIFIERS[name].fit(x, labels, 5, seed=0)
    logits = outputs(head, asked)
    assert logits.shape == (300, 5) and bool(torch.isfinite(logits).all())
    assert set(logits.argmax(1).tolist()) <= set(present)
    if len(present) > 1:
        alone = CLASSIFIERS[name].fit(x, np.searchsorted(present, labels), len(present), seed=0)
        torch.testing.assert_close(logits[:, present], outputs(alone, asked))


@pytest.mark.parametrize("name", ["random_forest", "gradient_boosting"])
def test_a_sample_on_a_threshold_goes_where_scikit_learn_sends_it(name: str) -> None:
    """Features on a grid whose middles no float32 holds."""
    rng = np.random.default_rng(0)
    grid = np.nextafter(np.float32(1), np.float32(2), dtype=np.float32) - np.float32(1)
    x = (1 + grid * rng.integers(0, 8, (80, 6))).astype(np.float32)
    y = ((x[:, 0] > 1 + 3 * grid) ^ (x[:, 1] > 1 + 5 * grid)).astype(np.int64)
    peer, head = fitted(name, x, y)
    logits = outputs(head, x)
    assert len(set(logits[:, 1].tolist())) > 2
    np.testing.assert_allclose(logits.softmax(1), peer.predict_proba(x.astype(np.float64)), atol=1e-5)


@pytest.mark.parametrize("neighbours", [1, 4, 9])
def test_neighbours_beyond_one_block_and_at_equal_distances(neighbours: int) -> None:
    rng = np.random.default_rng(1)
    samples, asked = (rng.integers(0, 4, (n, 3)).astype(np.float32) for n in (2500, 40))
    labels = rng.integers(0, 6, len(samples))
    head = Neighbours(2500, 3, 6, neighbours)
    head.samples.copy_(torch.from_numpy(samples))
    head.labels.copy_(torch.from_numpy(labels))
    distances = np.square(asked[:, None] - samples[None]).sum(2)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :neighbours]
    shares = np.stack([np.bincount(labels[row], minlength=6) for row in nearest]) / neighbours
    np.testing.assert_allclose(outputs(head, asked).exp(), shares, atol=1e-6)


def test_no_more_neighbours_than_samples() -> None:
    x, y, asked = problem(3, 24, 4)
    peer, head = fitted("knn", x, y, {"n_neighbors": 100})
    np.testing.assert_allclose(outputs(head, asked).softmax(1), peer.predict_proba(asked), atol=1e-5)


def test_the_logit_of_an_absent_class_is_no_logit_of_a_present_one() -> None:
    x, y, asked = problem(3, 90, 12)
    logits = outputs(CLASSIFIERS["logistic"].fit(x, y, 4, seed=0), asked)
    assert bool((logits[:, 3] == ABSENT).all()) and bool((logits[:, :3] > ABSENT / 10).all())
