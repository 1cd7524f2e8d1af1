"""TransRate: the coding rate that the classes save."""

from __future__ import annotations

import numpy as np

from bequest.scores.design import Array, Design
from bequest.scores.registry import score

_EPSILON = 1e-4


@score(
    "transrate",
    paper='Huang et al. 2022, "Frustratingly Easy Transferability Estimation", ICML',
    needs="features",
)
def transrate(design: Design, labels: Array) -> float:
    r"""How much shorter a code for the features becomes once the classes are known, in nats a sample.

    Z are the N features minus their mean, divided by one number so that their mean squared norm is 1; Z_c are the rows
    of class c, n_c in number, about the same mean:

        R(Z, ε) = ½ log det( I + ZᵀZ / (N ε) )
        score = R(Z, ε) − Σ_c (n_c / N) R(Z_c, ε),   ε = 1e-4

    Deviations:
        The scale is fixed, since ε has no meaning across layers otherwise. Classes count by their share of samples, as
        in the definition of a conditional rate; a plain mean over classes is the same where they are balanced.

    When it misleads:
        With fewer samples than features it is no measure of the classes: it then grows with how evenly the features
        spread, and noise can score above separated classes (30 samples of 3 classes, 50 features: noise 45, classes
        that a linear probe tells apart without a fault 20). It depends on ε. Compare layers of one width, on the same
        samples.

    Args:
        design: The features.
        labels: (samples,).
    """
    spectrum = design.centred
    size = float(spectrum.eigenvalues.sum()) / len(spectrum)
    if size == 0:
        return 0.0
    rate = 0.5 * float(np.sum(np.log1p(spectrum.eigenvalues / (size * len(spectrum) * _EPSILON))))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        gram = spectrum.gram(rows) / (size * len(rows) * _EPSILON)
        factor = np.linalg.cholesky(np.eye(len(gram)) + gram)
        rate -= len(rows) / len(labels) * float(np.sum(np.log(np.diag(factor))))
    return rate
