"""Features and labels for the tests of scores."""

from __future__ import annotations

import numpy as np

from bequest.scores.design import Array


def problem(samples: int, width: int, num_classes: int = 3, seed: int = 0) -> tuple[Array, Array]:
    """Features with an offset, and labels of which the features say something."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(num_classes), rng.integers(0, num_classes, samples - num_classes)])
    centres = rng.normal(size=(num_classes, width))
    return 2.0 + centres[labels] + 2.5 * rng.normal(size=(samples, width)), labels


def probabilities(samples: int, num_source: int, seed: int = 0) -> Array:
    values = np.exp(np.random.default_rng(seed).normal(size=(samples, num_source)))
    return values / values.sum(1, keepdims=True)
