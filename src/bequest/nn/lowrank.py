"""The low-rank layers of LoRA: W + s·B·A with W frozen.

Hu et al. 2022, arXiv:2106.09685, section 4.1: A starts Kaiming-uniform (a = √5), B at zero, s = α/r.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LowRankLinear(nn.Module):
    """A frozen Linear with a trainable low-rank update.

    Attributes:
        base: The frozen layer.
        A: (rank, in).
        B: (out, rank).
        scale: s = α / rank.
        dropout: On the update's input.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.base, self.scale = base, alpha / rank
        self.dropout = nn.Dropout(dropout)
        weight = base.weight
        self.A = nn.Parameter(torch.empty(rank, base.in_features, dtype=weight.dtype, device=weight.device))
        self.B = nn.Parameter(torch.zeros(base.out_features, rank, dtype=weight.dtype, device=weight.device))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out)."""
        return self.base(x) + F.linear(F.linear(self.dropout(x), self.A), self.B * self.scale)

    def merged(self) -> nn.Linear:
        """The base layer with the update added to its weight."""
        with torch.no_grad():
            self.base.weight += self.scale * (self.B @ self.A)
        return self.base


class LowRankConv2d(nn.Module):
    """A frozen ungrouped Conv2d with a trainable low-rank update: a convolution to `rank` channels, then 1×1.

    Attributes:
        base: The frozen layer.
        A: (rank, in, height, width) of the kernel.
        B: (out, rank, 1, 1).
        scale: s = α / rank.
        dropout: On the update's input.
    """

    def __init__(self, base: nn.Conv2d, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.base, self.scale = base, alpha / rank
        self.dropout = nn.Dropout(dropout)
        like = {"dtype": base.weight.dtype, "device": base.weight.device}
        self.A = nn.Parameter(torch.empty(rank, base.in_channels, *base.kernel_size, **like))
        self.B = nn.Parameter(torch.zeros(base.out_channels, rank, 1, 1, **like))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in, height, width) → (batch, out, height', width')."""
        return self.base(x) + self._update(self.dropout(x))

    def _update(self, x: Tensor) -> Tensor:
        # With A in place of the weight, the base's own forward pads and strides as it always does, also in
        # subclasses ('same' padding); A's channels are then mixed by the 1×1 convolution B.
        reduced = torch.func.functional_call(self.base, {"weight": self.A, **_zero_bias(self.base, self.A)}, (x,))
        return F.conv2d(reduced, self.B * self.scale)

    def merged(self) -> nn.Conv2d:
        """The base layer with the update added to its kernel."""
        with torch.no_grad():
            self.base.weight += self.scale * torch.einsum("orhw,rikl->oikl", self.B, self.A)
        return self.base


def _zero_bias(base: nn.Conv2d, A: Tensor) -> dict[str, Tensor]:
    return {} if base.bias is None else {"bias": A.new_zeros(A.shape[0])}


LowRank = LowRankLinear | LowRankConv2d


def targets(body: nn.Module) -> tuple[str, ...]:
    """Names of the layers that can carry a low-rank update: every Linear, every ungrouped Conv2d."""
    return tuple(
        name
        for name, module in body.named_modules()
        if type(module) is nn.Linear or (isinstance(module, nn.Conv2d) and module.groups == 1)
    )


def add_low_rank(body: nn.Module, names: tuple[str, ...], rank: int, alpha: float, dropout: float = 0.0) -> None:
    """Wrap the named layers in place; the body computes the same as before, since B is zero."""
    for name in names:
        layer = body.get_submodule(name)
        if isinstance(layer, nn.Linear):
            body.set_submodule(name, LowRankLinear(layer, rank, alpha, dropout))
        elif isinstance(layer, nn.Conv2d) and layer.groups == 1:
            body.set_submodule(name, LowRankConv2d(layer, rank, alpha, dropout))
        else:
            raise TypeError(f"{name} is a {type(layer).__name__}; a low-rank update needs a Linear or a Conv2d")


def merge_low_rank(body: nn.Module) -> None:
    """Replace every low-rank layer by its plain layer with the update added."""
    for name, module in list(body.named_modules()):
        if isinstance(module, (LowRankLinear, LowRankConv2d)):
            body.set_submodule(name, module.merged())
