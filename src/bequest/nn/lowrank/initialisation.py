"""PiSSA: updates that start from a weight's principal directions (Meng et al. 2024, arXiv:2404.02948).

    W = U·S·Vᵀ;   B = U_r·(S_r / s)^½,   A = (S_r / s)^½·V_rᵀ;   frozen: W − s·B·A

The first r singular values and vectors are trained, the rest is frozen; the sum is W as before.
"""

from __future__ import annotations

import torch
from torch import nn

from bequest.nn.lowrank.layers import LowRankEmbedding, LowRankLinear
from bequest.nn.lowrank.surgery import LowRank, low_rank_layers


def start_from_principal(body: nn.Module) -> None:
    """Give every low-rank layer of a network PiSSA's start, in place; its frozen weight loses what A and B take."""
    for layer in low_rank_layers(body).values():
        _start(layer)


@torch.no_grad()
def _start(layer: LowRank) -> None:
    flipped = isinstance(layer, LowRankEmbedding) or (isinstance(layer, LowRankLinear) and layer.transposed)
    old = layer.base.get_parameter("weight")
    weight = old.to(layer.A.dtype).flatten(1)
    U, S, V = torch.linalg.svd(weight.T if flipped else weight, full_matrices=False)
    rank = layer.A.shape[0]
    held = min(rank, len(S))  # a rank above the matrix's own leaves the rest of A and B at zero
    root = (S[:held] / layer.scale).sqrt()
    layer.A.zero_().flatten(1)[:held] = root[:, None] * V[:held]
    layer.B.zero_().flatten(1)[:, :held] = U[:, :held] * root
    taken = layer.scale * (layer.B.flatten(1) @ layer.A.flatten(1))
    left = weight - (taken.T if flipped else taken)
    layer.base.weight = nn.Parameter(left.view(old.shape).to(old.dtype), requires_grad=False)
