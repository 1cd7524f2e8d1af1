"""Penalties on weights, added to the loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bequest.nn.network import Network


@dataclass(frozen=True)
class StartingPoint:
    """α/2 · ‖w − w⁰‖² over the body and β/2 · ‖v‖² over the head (Li et al. 2018, arXiv:1802.01483).

    Attributes:
        start: w⁰ by the body's parameter names.
        alpha: α, on the body.
        beta: β, on the head.
    """

    start: Mapping[str, Tensor]
    alpha: float
    beta: float

    def __call__(self, network: Network) -> Tensor:
        """The penalty, a scalar, over what is trained."""
        body = ((name, w) for name, w in network.body.named_parameters() if w.requires_grad)
        moved = _squared_norm(w - self.start[name].to(w.device) for name, w in body)
        size = _squared_norm(v for v in network.head.parameters() if v.requires_grad)
        return self.alpha / 2 * moved + self.beta / 2 * size


def _squared_norm(tensors: Iterable[Tensor]) -> Tensor:
    return sum((t.square().sum() for t in tensors), torch.zeros(()))
