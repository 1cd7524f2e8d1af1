"""Leave-one-out accuracy of a ridge classifier, from one decomposition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bequest.scores.design import Array, Design, one_hot
from bequest.scores.registry import score

PENALTIES = tuple(float(p) for p in np.logspace(1, -6, 15))
"""Shares of the features' total variance, from strong to weak."""


@dataclass(frozen=True)
class LeaveOneOut:
    """What ridge regression gives on samples that it was not fitted on.

    Attributes:
        accuracy: Share of the samples.
        penalty: With which it is reached, a share of the features' total variance; the strongest of equals.
    """

    accuracy: float
    penalty: float


@score(
    "ridge_loo",
    paper='Allen 1974, "The Relationship Between Variable Selection and Data Augmentation and a Method for '
    'Prediction", Technometrics; Rifkin and Lippert 2007, "Notes on Regularized Least Squares"',
    needs="features",
)
def ridge_loo(design: Design, labels: Array) -> float:
    r"""The accuracy of a linear probe on samples left out one at a time, without fitting more than once.

    Ridge regression with an intercept predicts +1 for a sample's class and −1 for the others; the largest output is
    the class. The prediction for a sample that the fit has not seen follows from the one that has seen it, exactly,
    since the intercept is not penalised:

        H = 11ᵀ/N + X (XᵀX + pI)⁻¹ Xᵀ,   X centred,   ŷ = H y
        left out:  (ŷ_i − h_ii y_i) / (1 − h_ii)

    One eigendecomposition gives all of them for every penalty p = ν · tr(XᵀX), ν from 10 to 1e-6 in 15 steps. The score
    is the accuracy at the best one.

    When it misleads:
        The best of 15 penalties is a little too good where samples are few. Near duplicates of a sample among the
        others answer for it: drop them first. Where features say nothing, classes of equal size give 0 instead of
        chance, since without one sample its class is the smallest. It judges frozen features.

    Args:
        design: The features.
        labels: (samples,).
    """
    return leave_one_out(design, labels).accuracy


def leave_one_out(design: Design, labels: Array, penalties: Sequence[float] = PENALTIES) -> LeaveOneOut:
    """The best penalty and its accuracy on samples left out.

    Args:
        design: The features.
        labels: (samples,).
        penalties: Shares of the features' total variance; of equals the first wins.
    """
    accuracies = [float(np.mean(right)) for right in _right(design, labels, penalties)]
    best = int(np.argmax(accuracies))
    return LeaveOneOut(accuracies[best], penalties[best])


def _right(design: Design, labels: Array, penalties: Sequence[float]) -> Array:
    """Whether each sample is classified right when it is left out: (penalties, samples)."""
    spectrum = design.centred
    targets = 2 * one_hot(labels) - 1
    mean, truth = targets.mean(0), targets.argmax(1)
    products = spectrum.products(targets)
    weights = 1 / (spectrum.eigenvalues + np.array(penalties)[:, None] * spectrum.eigenvalues.sum())
    right, start = np.zeros((len(penalties), len(targets)), dtype=bool), 0
    for block in spectrum.components():
        stop = start + len(block)
        own = 1 / len(targets) + block**2 @ weights.T
        for i, weight in enumerate(weights):
            fitted = mean + block @ (weight[:, None] * products)
            # Divided by 1 − h_ii, which is positive, the row's largest output would be the same.
            left_out = fitted - own[:, i : i + 1] * targets[start:stop]
            right[i, start:stop] = left_out.argmax(1) == truth[start:stop]
        start = stop
    return right
