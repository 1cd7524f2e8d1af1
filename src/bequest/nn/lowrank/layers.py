"""The wrappers: a frozen layer and its trainable update, for each kind of layer.

A starts Kaiming-uniform (a = √5) and B at zero; an embedding's A at zero and B normal, so that tokens that training
never sees keep their vectors. Factors are float32 even where W has 16 bits, which would swallow small steps.

With a magnitude (DoRA, Liu et al. 2024, arXiv:2402.09353) W + s·B·A gives the direction of each output's weights and a
trainable m, ‖W‖ at the start, their length: m · (W + s·B·A) / ‖W + s·B·A‖, the norm without gradient (section 4.3).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bequest.nn.lowrank.masks import random_place
from bequest.nn.lowrank.product import low_rank_linear, low_rank_linear_dropout


def _read_through(self: nn.Module, name: str) -> Any:
    """An attribute of the frozen layer: code around a layer may ask for its widths or its stride."""
    try:
        return nn.Module.__getattr__(self, name)
    except AttributeError:
        # What the class defines failed by itself, and must not fall back to the frozen layer's.
        if name == "base" or hasattr(type(self), name):
            raise
        return getattr(self.base, name)


class LowRankLinear(nn.Module):
    """A frozen Linear, or Conv1D of transformers, with a trainable low-rank update.

    Attributes:
        base: The frozen layer.
        A: (rank, in).
        B: (out, rank).
        magnitude: (out,), or None.
        scale: s = α / rank.
        dropout: On the update's input; where the weight is read instead of the layer called, there is none.
    """

    def __init__(
        self, base: nn.Module, rank: int, alpha: float, dropout: float = 0.0, *, magnitude: bool = False
    ) -> None:
        super().__init__()
        self.base, self.scale = base.requires_grad_(False), alpha / rank
        self.dropout = nn.Dropout(dropout)
        # Conv1D keeps its weight as (in, out).
        self.transposed = not isinstance(base, nn.Linear)
        width_out, width_in = self._frozen.shape
        self.A, self.B = _factors(self._frozen, (rank, width_in), (width_out, rank))
        self.magnitude = nn.Parameter(_norm(self._frozen)) if magnitude else None

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out)."""
        if self.magnitude is None:
            return self._product(x, self.bias)
        outputs = self._product(x, None) * _gain(self.magnitude, self._sum()).to(x.dtype)
        return outputs if self.bias is None else outputs + self.bias

    __getattr__ = _read_through

    def _product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if not (self.dropout.training and self.dropout.p):
            return low_rank_linear(x, self._frozen, bias, self.A, self.B, self.scale)
        p, place = self.dropout.p, random_place()
        return low_rank_linear_dropout(x, self._frozen, bias, self.A, self.B, self.scale, p, place)[0]

    @property
    def _frozen(self) -> Tensor:
        weight: Tensor = self.base.weight  # pyright: ignore[reportAssignmentType]
        return weight.T if self.transposed else weight

    def _sum(self) -> Tensor:
        return self._frozen + self.scale * (self.B @ self.A)

    @property
    def weight(self) -> Tensor:
        """The frozen weight and its update in the base's layout, for code that reads a weight instead of calling."""
        weight = _sized(self._sum(), self.magnitude).to(self._frozen.dtype)
        return weight.T if self.transposed else weight

    @property
    def bias(self) -> Tensor | None:
        """The base's."""
        return self.base.bias  # pyright: ignore[reportReturnType]

    def merged(self) -> nn.Module:
        """The base layer with the update in its weight, a new parameter."""
        return _with_weight(self.base, self.weight)


class LowRankConv2d(nn.Module):
    """A frozen Conv2d with a trainable low-rank update: a convolution to `rank` channels, then 1×1.

    A subclass with a forward pass of its own may do anything with its kernel (those of BiT and NFNet standardise it),
    so that no update can run beside it; nor beside a grouped one, whose channels a 1×1 convolution would mix. There
    the sum of kernel and update takes the kernel's place, without dropout.

    Attributes:
        base: The frozen layer.
        A: (rank, in / groups, height, width) of the kernel.
        B: (out, rank, 1, 1).
        magnitude: (out,), or None.
        scale: s = α / rank.
        dropout: On the update's input.
        beside: Whether the update runs beside the layer, rather than in its kernel.
    """

    def __init__(
        self, base: nn.Conv2d, rank: int, alpha: float, dropout: float = 0.0, *, magnitude: bool = False
    ) -> None:
        super().__init__()
        self.base, self.scale = base.requires_grad_(False), alpha / rank
        self.dropout = nn.Dropout(dropout)
        self.A, self.B = _factors(base.weight, (rank, *base.weight.shape[1:]), (base.out_channels, rank, 1, 1))
        self.magnitude = nn.Parameter(_norm(base.weight)) if magnitude else None
        self.beside = type(base).forward is nn.Conv2d.forward and base.groups == 1 and not magnitude

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in, height, width) → (batch, out, height', width')."""
        if self.beside:
            return self.base(x) + self._update(self.dropout(x))
        return torch.func.functional_call(self.base, {"weight": self.weight}, (x,))

    __getattr__ = _read_through

    def _update(self, x: Tensor) -> Tensor:
        # With A in place of the weight, the base's own forward pads and strides as it always does; A's channels are
        # then mixed by the 1×1 convolution B.
        A, B = self.A.to(self.base.weight.dtype), (self.B * self.scale).to(self.base.weight.dtype)
        bias = {} if self.base.bias is None else {"bias": A.new_zeros(A.shape[0])}
        return F.conv2d(torch.func.functional_call(self.base, {"weight": A, **bias}, (x,)), B)

    @property
    def weight(self) -> Tensor:
        """The kernel with the update added, for code that reads a layer's weight instead of calling it."""
        total = self.base.weight + self.scale * torch.einsum("orhw,rikl->oikl", self.B, self.A)
        return _sized(total, self.magnitude).to(self.base.weight.dtype)

    @property
    def bias(self) -> Tensor | None:
        """The base's."""
        return self.base.bias

    def merged(self) -> nn.Module:
        """The base layer with the update in its kernel, a new parameter."""
        return _with_weight(self.base, self.weight)


class LowRankEmbedding(nn.Module):
    """A frozen Embedding with a trainable low-rank update of its table.

    Attributes:
        base: The frozen layer.
        A: (rank, tokens).
        B: (width, rank).
        magnitude: (width,), or None.
        scale: s = α / rank.
        dropout: None: there is nothing to drop of a token's number.
    """

    def __init__(
        self, base: nn.Embedding, rank: int, alpha: float, dropout: float = 0.0, *, magnitude: bool = False
    ) -> None:
        super().__init__()
        self.base, self.scale = base.requires_grad_(False), alpha / rank
        self.dropout = nn.Dropout(0.0)
        tokens, width = base.weight.shape
        self.A, self.B = _factors(base.weight, (rank, tokens), (width, rank))
        nn.init.zeros_(self.A)
        nn.init.normal_(self.B)
        self.magnitude = nn.Parameter(_norm(base.weight.T)) if magnitude else None

    def forward(self, ids: Tensor) -> Tensor:
        """(…) → (…, width)."""
        reduced = F.embedding(ids, self.A.T, self.base.padding_idx)
        outputs = self.base(ids) + F.linear(reduced, self.B * self.scale).to(self.base.weight.dtype)
        return outputs if self.magnitude is None else outputs * _gain(self.magnitude, self._sum()).to(outputs.dtype)

    __getattr__ = _read_through

    def _sum(self) -> Tensor:
        return self.base.weight.T + self.scale * (self.B @ self.A)

    @property
    def weight(self) -> Tensor:
        """The table with the update added, for code that reads a layer's weight instead of calling it."""
        return _sized(self._sum(), self.magnitude).T.to(self.base.weight.dtype)

    def merged(self) -> nn.Module:
        """The base layer with the update in its table, a new parameter."""
        return _with_weight(self.base, self.weight)


def _factors(like: Tensor, shape_A: tuple[int, ...], shape_B: tuple[int, ...]) -> tuple[nn.Parameter, nn.Parameter]:
    dtype = torch.promote_types(like.dtype, torch.float32)
    A = nn.Parameter(torch.empty(shape_A, dtype=dtype, device=like.device))
    nn.init.kaiming_uniform_(A, a=math.sqrt(5))
    return A, nn.Parameter(torch.zeros(shape_B, dtype=dtype, device=like.device))


def _norm(weight: Tensor) -> Tensor:
    """Of each output's weights, the first dimension: (out,)."""
    weight = weight.detach()
    return weight.to(torch.promote_types(weight.dtype, torch.float32)).flatten(1).norm(dim=1)


def _gain(magnitude: Tensor, total: Tensor) -> Tensor:
    """What each output is multiplied by for its weights to have their magnitude; 0 has no direction and stays 0."""
    return magnitude / _norm(total).clamp_min(torch.finfo(magnitude.dtype).tiny)


def _sized(total: Tensor, magnitude: Tensor | None) -> Tensor:
    """A sum of weight and update, its outputs' weights with their magnitude."""
    return total if magnitude is None else total * _gain(magnitude, total).view(-1, *[1] * (total.ndim - 1))


def _with_weight(base: nn.Module, weight: Tensor) -> nn.Module:
    # A new parameter, never the old one written to: that may be tied to another layer's, and undoing a merge needs it.
    base.weight = nn.Parameter(weight.detach().contiguous(), requires_grad=False)
    return base
