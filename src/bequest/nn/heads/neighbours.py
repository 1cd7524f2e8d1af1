"""k nearest neighbours as a module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bequest.nn.heads import kind
from bequest.nn.heads.forest import log_shares

_BLOCK = 1024
"""Fitted samples that every batch is compared with at a time."""


@kind("neighbours")
class Neighbours(nn.Module):
    """Logarithm of each class's share among the k nearest fitted samples, a share of none being a tiny one.

    Distances are Euclidean, in float64. Of samples at the same distance those that were fitted first count.

    Attributes:
        samples: float32 (samples, width): those fitted on.
        labels: int64 (samples,): their classes.

    Args:
        num_samples: Fitted samples.
        width: Features.
        num_outputs: Classes.
        neighbours: k, at most the number of samples.
    """

    samples: Tensor
    labels: Tensor

    def __init__(self, num_samples: int, width: int, num_outputs: int, neighbours: int) -> None:
        super().__init__()
        self.num_outputs, self.neighbours = num_outputs, neighbours
        self.register_buffer("samples", torch.zeros(num_samples, width))
        self.register_buffer("labels", torch.zeros(num_samples, dtype=torch.int64))

    def forward(self, features: Tensor) -> Tensor:
        """Features (batch, width) → logits (batch, classes)."""
        features = features.double()
        distances = features.new_empty(features.shape[0], 0)
        classes = self.labels.new_empty(features.shape[0], 0)
        for samples, labels in zip(self.samples.split(_BLOCK), self.labels.split(_BLOCK), strict=True):
            distances = torch.cat([distances, _distances(features, samples.double())], 1)
            classes = torch.cat([classes, labels.expand(features.shape[0], -1)], 1)
            distances, order = distances.sort(dim=1, stable=True)
            distances = distances[:, : self.neighbours]
            classes = classes.gather(1, order[:, : self.neighbours])
        shares = nn.functional.one_hot(classes, self.num_outputs).float().mean(1)
        return log_shares(shares)

    def describe(self) -> dict[str, Any]:
        """The arguments that make one of the same shape."""
        num_samples, width = self.samples.shape
        sizes = {"num_samples": num_samples, "width": width, "num_outputs": self.num_outputs}
        return {**sizes, "neighbours": self.neighbours}


def _distances(features: Tensor, samples: Tensor) -> Tensor:
    """Squared distances less the features' own norms, which order no neighbours: (batch, samples)."""
    return samples.square().sum(1) - 2 * features @ samples.T
