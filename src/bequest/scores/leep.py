"""LEEP: the likelihood of a classifier made of the source's own predictions."""

from __future__ import annotations

import numpy as np

from bequest.scores.design import Array, one_hot
from bequest.scores.registry import score


@score(
    "leep",
    paper='Nguyen et al. 2020, "LEEP: A New Measure to Evaluate Transferability of Learned Representations", ICML',
    needs="probabilities",
)
def leep(probabilities: Array, labels: Array) -> float:
    r"""How well the source's own classes, as its head predicts them, tell the task's classes.

    θ(x)_z is the probability that the source gives to its class z. The task's class y follows from it by counting, and
    the score is the mean log-likelihood of the labels under that classifier:

        P(y, z) = (1/N) Σ_{i: y_i = y} θ(x_i)_z,   P(y | z) = P(y, z) / P(z)
        score = (1/N) Σ_i log Σ_z P(y_i | z) θ(x_i)_z

    It is 0 at best.

    When it misleads:
        It needs a source with a classifier, and knows nothing of the features below it. With few samples and many
        source classes the counts overfit. It changes with the temperature of the source's softmax. On Aircraft, its
        rank correlation with fine-tuned accuracy was −0.26.

    Args:
        probabilities: (samples, source classes).
        labels: (samples,).
    """
    theta, classes = probabilities.astype(np.float64), one_hot(labels)
    joint = classes.T @ theta
    total = joint.sum(0)
    conditional = np.divide(joint, total, out=np.zeros_like(joint), where=total > 0)
    return float(np.mean(np.log(np.sum((theta @ conditional.T) * classes, 1))))
