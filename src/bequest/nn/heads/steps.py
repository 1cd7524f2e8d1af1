"""Fixed steps before a classifier: normalise, standardise, select."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bequest.nn.heads import kind


@kind("normalise")
class Normalise(nn.Module):
    """Every run of features divided by its own L2 norm; a run of zeros stays zeros.

    Args:
        widths: Features in each run (a layer's, say), in order.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = list(widths)

    def forward(self, features: Tensor) -> Tensor:
        """Features (batch, sum of widths) → the same shape."""
        runs = features.split(self.widths, dim=-1)
        return torch.cat([nn.functional.normalize(run, dim=-1) for run in runs], dim=-1)

    def describe(self) -> dict[str, Any]:
        """The arguments that make one of the same shape."""
        return {"widths": self.widths}


@kind("standardise")
class Standardise(nn.Module):
    """(x − mean) / scale, feature by feature.

    Attributes:
        mean: (width,).
        scale: (width,), none of them 0.

    Args:
        width: Features.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def forward(self, features: Tensor) -> Tensor:
        """Features (batch, width) → the same shape."""
        return (features - self.mean) / self.scale

    def describe(self) -> dict[str, Any]:
        """The arguments that make one of the same shape."""
        return {"width": len(self.mean)}


@kind("select")
class Select(nn.Module):
    """Some of the features.

    Attributes:
        index: int64 (count,): their positions.

    Args:
        count: How many.
    """

    index: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("index", torch.arange(count))

    def forward(self, features: Tensor) -> Tensor:
        """Features (batch, width) → (batch, count)."""
        return features[..., self.index]

    def describe(self) -> dict[str, Any]:
        """The arguments that make one of the same shape."""
        return {"count": len(self.index)}
