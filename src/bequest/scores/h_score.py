"""The H-score with a shrunk covariance."""

from __future__ import annotations

import numpy as np

from bequest.scores.design import Array, Design, Spectrum, one_hot
from bequest.scores.registry import score


@score(
    "h_score",
    paper='Ibrahim et al. 2021, "Newer is not always better: Rethinking transferability metrics, their peculiarities, '
    'stability and performance"; Bao et al. 2019, "An Information-Theoretic Approach to Transferability in Task '
    'Transfer Learning", ICIP',
    needs="features",
)
def h_score(design: Design, labels: Array) -> float:
    r"""How much of the features' spread lies between the classes.

    Σ is the features' covariance, Σ_B that of their class means; α is the shrinkage of Ledoit and Wolf (2004), which
    keeps the inverse stable where samples are few:

        score = tr( Σ_α⁻¹ · (1 − α) Σ_B ),   Σ_α = (1 − α) Σ + α (tr Σ / D) I

    Both covariances divide by the number of samples. It lies between 0 and the number of classes minus 1, and is 0
    for constant features.

    When it misleads:
        It rewards linear separation alone. Its upper end depends on the number of classes: compare it within a task
        only. The shrinkage depends on the width, so that layers of very different widths are not quite on the same
        footing. On Aircraft, the H-score's rank correlation with fine-tuned accuracy was 0.66, the best of four scores.

    Args:
        design: The features.
        labels: (samples,).
    """
    spectrum = design.centred
    classes = one_hot(labels)
    counts = classes.sum(0)
    means = spectrum.products(classes) / counts
    between = (means**2) @ (counts / len(spectrum))
    variances = spectrum.eigenvalues / len(spectrum)
    alpha = shrinkage(spectrum)
    return float(np.sum((1 - alpha) * between / ((1 - alpha) * variances + alpha * variances.sum() / spectrum.width)))


def shrinkage(spectrum: Spectrum) -> float:
    r"""The share of the spherical matrix in the covariance estimate of Ledoit and Wolf (2004), from 0 to 1.

        m = tr Σ / D,   d² = ‖Σ − m I‖²,   b² = min(d², (1/N²) Σ_i ‖x_i x_iᵀ − Σ‖²),   α = b² / d²

    Args:
        spectrum: Of centred features.
    """
    variances, n = spectrum.eigenvalues / len(spectrum), len(spectrum)
    squared = float(np.sum(variances**2))
    distance = squared - float(variances.sum()) ** 2 / spectrum.width
    if distance <= np.finfo(float).eps * squared:
        return 0.0
    fourth = sum(float(np.sum(np.sum(block**2, 1) ** 2)) for block in spectrum.blocks()) / n
    return min((fourth - squared) / n / distance, 1.0)
