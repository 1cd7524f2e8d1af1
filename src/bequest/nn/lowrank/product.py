"""The product x·(W + s·B·A)ᵀ of a low-rank layer, with gradients for what is trained alone: as a rule x, A and B.

Both are operations of torch's own kind, so that an exported graph holds them whole and trains with the same backward
pass. They keep x and the parameters for it; with dropout also the r-wide product, and never a mask.

In full precision and with many rows in x, W + s·B·A is formed first, in the forward pass and again in the backward
pass: two more passes over a matrix spare one over the outputs and one over the inputs' gradient (RunLoRA, Cherniuk et
al. 2023, arXiv:2312.03415, chooses the order by shapes too). Rounded to 16 bits, W would swallow a small update: there
the two products are added.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.library import custom_op
from torch.utils.flop_counter import register_flop_formula

from bequest.nn.lowrank.masks import mask


@custom_op("bequest::low_rank_linear", mutates_args=())
def low_rank_linear(x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, scale: float) -> Tensor:
    """x·(W + s·B·A)ᵀ + bias.

    Args:
        x: (…, in).
        weight: W (out, in), as a rule frozen.
        bias: (out,) or None.
        A: (rank, in).
        B: (out, rank).
        scale: s.
    """
    rows, weight, bias, A, B = _prepared(x, weight, bias, A, B)
    with _plain(x):
        if _merges(rows, weight):
            outputs = F.linear(rows, torch.addmm(weight, B, A, alpha=scale), bias)
        else:
            outputs = F.linear(rows, weight, bias).addmm_(rows @ A.t(), B.t(), alpha=scale)
    return outputs.view(*x.shape[:-1], -1)


@low_rank_linear.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, scale: float) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0], dtype=_dtype(x))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, A, B, ctx.scale = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, weight, A, B)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, *factors = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    with _plain(x):
        rows, weight, _, A, B = _prepared(x, factors[0], None, *factors[1:], dtype=gradient.dtype)
        outer = gradient.reshape(-1, gradient.shape[-1])
        reduced = outer @ (B * ctx.scale)
        inner = None
        if wanted[0]:
            if _merges(rows, weight):
                inner = outer @ torch.addmm(weight, B, A, alpha=ctx.scale)
            else:
                inner = (outer @ weight).addmm_(reduced, A)
            inner = inner.view(x.shape).to(x.dtype)
        to_A = (reduced.t() @ rows).to(factors[1].dtype) if wanted[3] else None
        to_B = ((rows @ A.t()).mul_(ctx.scale).t() @ outer).t().to(factors[2].dtype) if wanted[4] else None
        to_weight = (outer.t() @ rows).to(factors[0].dtype) if wanted[1] else None
        to_bias = outer.sum(0) if ctx.has_bias and wanted[2] else None
    return inner, to_weight, to_bias, to_A, to_B, None


low_rank_linear.register_autograd(_backward, setup_context=_keep)


@custom_op("bequest::low_rank_linear_dropout", mutates_args=())
def low_rank_linear_dropout(
    x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, scale: float, p: float, place: Tensor
) -> tuple[Tensor, Tensor]:
    """x·Wᵀ + bias + s·D(x)·Aᵀ·Bᵀ, where D is dropout of probability p by the mask at a place; and D(x)·Aᵀ."""
    rows, weight, bias, A, B = _prepared(x, weight, bias, A, B)
    with _plain(x):
        reduced = (rows * mask(rows, p, place)) @ A.t()
        outputs = F.linear(rows, weight, bias).addmm_(reduced, B.t(), alpha=scale)
    return outputs.view(*x.shape[:-1], -1), reduced


@low_rank_linear_dropout.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, scale: float, p: float, place: Tensor
) -> tuple[Tensor, Tensor]:
    outputs = x.new_empty(*x.shape[:-1], weight.shape[0], dtype=_dtype(x))
    return outputs, x.new_empty(math.prod(x.shape[:-1]), A.shape[0], dtype=_dtype(x))


def _keep_with_dropout(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, A, B, ctx.scale, ctx.p, place = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, weight, A, B, place, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward_with_dropout(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    x, *factors, place, reduced = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    with _plain(x):
        rows, weight, _, A, B = _prepared(x, factors[0], None, *factors[1:], dtype=gradient.dtype)
        outer = gradient.reshape(-1, gradient.shape[-1])
        back = outer @ (B * ctx.scale)
        to_B = (reduced.t() @ outer).mul_(ctx.scale).t().to(factors[2].dtype) if wanted[4] else None
        kept = mask(rows, ctx.p, place)
        to_A = (back.t() @ (rows * kept)).to(factors[1].dtype) if wanted[3] else None
        inner = (back @ A).mul_(kept).addmm_(outer, weight).view(x.shape).to(x.dtype) if wanted[0] else None
        to_weight = (outer.t() @ rows).to(factors[0].dtype) if wanted[1] else None
        to_bias = outer.sum(0) if ctx.has_bias and wanted[2] else None
    return inner, to_weight, to_bias, to_A, to_B, None, None, None


low_rank_linear_dropout.register_autograd(_backward_with_dropout, setup_context=_keep_with_dropout)


def _merges(rows: Tensor, weight: Tensor) -> bool:
    """Whether to form W + s·B·A: two passes over W spare one over (rows, out) and one over (rows, in)."""
    return rows.dtype.itemsize >= 4 and rows.shape[0] * sum(weight.shape) > 4 * weight.numel()


def _dtype(x: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _prepared(x: Tensor, *tensors: Any, dtype: torch.dtype | None = None) -> tuple[Any, ...]:
    dtype = dtype or _dtype(x)
    return tuple(t if t is None else t.to(dtype) for t in (x.reshape(-1, x.shape[-1]), *tensors))


def _plain(x: Tensor) -> Any:
    return torch.autocast(x.device.type, enabled=False)


@register_flop_formula((torch.ops.bequest.low_rank_linear, torch.ops.bequest.low_rank_linear_dropout))
def _flops(x: Any, weight: Any, bias: Any, A: Any, B: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    rows = 1
    for side in x[:-1]:
        rows *= side
    return 2 * rows * (weight[0] * weight[1] + A[0] * A[1] + B[0] * B[1])
