"""LEEP against its definition, in loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scoring import probabilities

from bequest.scores.leep import leep


def test_it_is_the_definition() -> None:
    theta, labels = probabilities(40, 5), np.random.default_rng(0).integers(0, 3, 40)
    joint = [[sum(theta[i, z] for i in range(40) if labels[i] == y) / 40 for z in range(5)] for y in range(3)]
    total = [sum(joint[y][z] for y in range(3)) for z in range(5)]
    expected = sum(
        math.log(sum(joint[labels[i]][z] / total[z] * theta[i, z] for z in range(5))) / 40 for i in range(40)
    )
    assert leep(theta, labels) == pytest.approx(expected, rel=1e-12)


def test_best_and_a_source_that_knows_nothing() -> None:
    labels = np.arange(30) % 3
    assert leep(np.eye(4)[labels], labels) == 0  # the source's class 3 is never seen
    assert leep(np.full((30, 4), 0.25), labels) == pytest.approx(-math.log(3))
