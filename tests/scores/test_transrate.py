"""TransRate against determinants of whole matrices."""

from __future__ import annotations

import numpy as np
import pytest

from bequest.scores.design import Array, Design
from bequest.scores.transrate import transrate


def rate(z: Array) -> float:
    return 0.5 * float(np.linalg.slogdet(np.eye(z.shape[1]) + z.T @ z / (len(z) * 1e-4))[1])


def test_it_is_the_definition(data: tuple[Array, Array]) -> None:
    features, labels = data
    z = features - features.mean(0)
    z /= np.sqrt(np.mean(np.sum(z**2, 1)))
    within = sum(np.mean(labels == c) * rate(z[labels == c]) for c in range(3))
    assert transrate(Design(features), labels) == pytest.approx(rate(z) - within, rel=1e-9)


def test_units_do_not_matter(data: tuple[Array, Array]) -> None:
    features, labels = data
    assert transrate(Design(1000 * features + 5), labels) == pytest.approx(transrate(Design(features), labels))


def test_constant_features() -> None:
    assert transrate(Design(np.full((20, 4), 0.1)), np.arange(20) % 2) == 0
