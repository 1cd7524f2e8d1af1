"""NCE: the negative conditional entropy of the labels given the source's."""

from __future__ import annotations

import numpy as np

from bequest.scores.design import Array, one_hot
from bequest.scores.registry import score


@score(
    "nce",
    paper='Tran et al. 2019, "Transferability and Hardness of Supervised Classification Tasks", ICCV',
    needs="probabilities",
)
def nce(probabilities: Array, labels: Array) -> float:
    r"""How much of the labels is left unknown by the source's most probable class: the negative conditional entropy.

    z_i is the class to which the source gives the highest probability:

        score = −H(Y | Z) = Σ_{y, z} P(y, z) log P(y | z),   P(y, z) = share of samples with y_i = y and z_i = z

    It is 0 at best, in nats.

    When it misleads:
        A source that gives each sample a class of its own scores 0 and has said nothing: use it with many more samples
        than source classes. It needs a source with a classifier. On Aircraft, its rank correlation with fine-tuned
        accuracy was 0.

    Args:
        probabilities: (samples, source classes).
        labels: (samples,).
    """
    counts = one_hot(labels).T @ one_hot(probabilities.argmax(1))
    share = counts / counts.sum(0)
    return float(np.sum(counts * np.log(np.where(counts > 0, share, 1.0))) / len(labels))
