"""NCE against counting."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from scoring import probabilities

from bequest.scores.nce import nce


def test_it_is_the_conditional_entropy() -> None:
    theta, labels = probabilities(50, 4), np.random.default_rng(0).integers(0, 3, 50)
    source = [max(range(4), key=lambda z: theta[i, z]) for i in range(50)]
    pairs, marginal = Counter(zip(labels.tolist(), source, strict=True)), Counter(source)
    expected = sum(n / 50 * math.log(n / marginal[z]) for (_, z), n in pairs.items())
    assert nce(theta, labels) == pytest.approx(expected, rel=1e-12)


def test_best_and_a_source_that_knows_nothing() -> None:
    labels = np.arange(30) % 3
    assert nce(np.eye(4)[labels], labels) == 0
    assert nce(np.full((30, 4), 0.25), labels) == pytest.approx(-math.log(3))
