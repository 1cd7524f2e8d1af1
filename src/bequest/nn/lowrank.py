"""The low-rank layers of LoRA: W + s·B·A with W frozen.

Hu et al. 2022, arXiv:2106.09685, section 4.1: A starts Kaiming-uniform (a = √5), B at zero, s = α/r.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LowRankLinear(nn.Module):
    """A frozen Linear, or Conv1D of transformers, with a trainable low-rank update.

    Attributes:
        base: The frozen layer.
        A: (rank, in).
        B: (out, rank).
        scale: s = α / rank.
        dropout: On the update's input.
    """

    def __init__(self, base: nn.Module, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.base, self.scale = base, alpha / rank
        self.dropout = nn.Dropout(dropout)
        weight: Tensor = base.weight  # pyright: ignore[reportAssignmentType]
        # Conv1D keeps its weight as (in, out).
        self.transposed = not isinstance(base, nn.Linear)
        width_in, width_out = weight.shape if self.transposed else weight.shape[::-1]
        self.A = nn.Parameter(torch.empty(rank, width_in, dtype=weight.dtype, device=weight.device))
        self.B = nn.Parameter(torch.zeros(width_out, rank, dtype=weight.dtype, device=weight.device))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out)."""
        return self.base(x) + F.linear(F.linear(self.dropout(x), self.A), self.B * self.scale)

    @property
    def weight(self) -> Tensor:
        """W + s·B·A in the base's layout, for code that reads a layer's weight instead of calling it."""
        update = self.scale * (self.B @ self.A)
        return self.base.weight + (update.T if self.transposed else update)  # pyright: ignore[reportOperatorIssue]

    @property
    def bias(self) -> Tensor | None:
        """The base's."""
        return self.base.bias  # pyright: ignore[reportReturnType]

    def merged(self) -> nn.Module:
        """The base layer with the update added to its weight."""
        with torch.no_grad():
            self.base.weight.copy_(self.weight)  # pyright: ignore[reportCallIssue]
        return self.base


class LowRankConv2d(nn.Module):
    """A frozen ungrouped Conv2d with a trainable low-rank update: a convolution to `rank` channels, then 1×1.

    A subclass with a forward pass of its own may do anything with its kernel (those of BiT and NFNet standardise it),
    so that no update can run beside it: there the sum of kernel and update takes the kernel's place, without dropout.

    Attributes:
        base: The frozen layer.
        A: (rank, in, height, width) of the kernel.
        B: (out, rank, 1, 1).
        scale: s = α / rank.
        dropout: On the update's input.
        beside: Whether the update runs beside the layer, rather than in its kernel.
    """

    def __init__(self, base: nn.Conv2d, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.base, self.scale = base, alpha / rank
        self.dropout = nn.Dropout(dropout)
        like = {"dtype": base.weight.dtype, "device": base.weight.device}
        self.A = nn.Parameter(torch.empty(rank, base.in_channels, *base.kernel_size, **like))
        self.B = nn.Parameter(torch.zeros(base.out_channels, rank, 1, 1, **like))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.beside = type(base).forward is nn.Conv2d.forward

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in, height, width) → (batch, out, height', width')."""
        if self.beside:
            return self.base(x) + self._update(self.dropout(x))
        return torch.func.functional_call(self.base, {"weight": self.weight}, (x,))

    def _update(self, x: Tensor) -> Tensor:
        # With A in place of the weight, the base's own forward pads and strides as it always does; A's channels are
        # then mixed by the 1×1 convolution B.
        bias = {} if self.base.bias is None else {"bias": self.A.new_zeros(self.A.shape[0])}
        reduced = torch.func.functional_call(self.base, {"weight": self.A, **bias}, (x,))
        return F.conv2d(reduced, self.B * self.scale)

    @property
    def weight(self) -> Tensor:
        """The kernel with the update added, for code that reads a layer's weight instead of calling it."""
        return self.base.weight + self.scale * torch.einsum("orhw,rikl->oikl", self.B, self.A)

    @property
    def bias(self) -> Tensor | None:
        """The base's."""
        return self.base.bias

    def merged(self) -> nn.Conv2d:
        """The base layer with the update added to its kernel."""
        with torch.no_grad():
            self.base.weight.copy_(self.weight)
        return self.base


LowRank = LowRankLinear | LowRankConv2d


def targets(body: nn.Module) -> tuple[str, ...]:
    """Names of the layers that can carry a low-rank update: every Linear, Conv1D and ungrouped Conv2d."""
    return tuple(name for name, module in body.named_modules() if _is_linear(module) or _is_ungrouped(module))


def _is_linear(module: nn.Module) -> bool:
    # By name, so that transformers need not be imported for networks that are not from it.
    return type(module) is nn.Linear or type(module).__name__ == "Conv1D"


def _is_ungrouped(module: nn.Module) -> bool:
    # A kernel that is computed from others (weight normalisation) is no parameter, and cannot be merged into.
    own = "weight" in dict(module.named_parameters(recurse=False))
    return isinstance(module, nn.Conv2d) and module.groups == 1 and own


def add_low_rank(body: nn.Module, names: tuple[str, ...], rank: int, alpha: float, dropout: float = 0.0) -> None:
    """Wrap the named layers in place; the body computes the same as before, since B is zero."""
    for name in names:
        layer = body.get_submodule(name)
        if _is_linear(layer):
            body.set_submodule(name, LowRankLinear(layer, rank, alpha, dropout))
        elif isinstance(layer, nn.Conv2d) and _is_ungrouped(layer):
            body.set_submodule(name, LowRankConv2d(layer, rank, alpha, dropout))
        else:
            raise TypeError(f"{name} is a {type(layer).__name__}; a low-rank update needs a Linear or a Conv2d")


def merge_low_rank(body: nn.Module) -> None:
    """Replace every low-rank layer by its plain layer with the update added."""
    for name, module in list(body.named_modules()):
        if isinstance(module, (LowRankLinear, LowRankConv2d)):
            body.set_submodule(name, module.merged())
