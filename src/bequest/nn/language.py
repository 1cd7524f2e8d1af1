"""Causal language models: what each token says of the next one, without the logits of all tokens at once.

A batch of b samples of t tokens with a vocabulary of v has b·t·v logits: 400 MB at 16 × 128 × 49,152. Only those of
tokens that are to be predicted are computed, some at a time, and again in the backward pass rather than kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

IGNORED = -100
"""In the place of a target: nothing is to be predicted there."""

_LOGITS = 2**23
"""Logits that are computed at a time."""


class Vocabulary(nn.Module):
    """A language model's own last layer, from hidden states to the negative log-likelihood of what came next.

    Attributes:
        weight: (tokens of the vocabulary, width); may be the input embedding's own parameter.
        bias: (tokens of the vocabulary,) or None.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Hidden states (batch, tokens, width) and what comes next (batch, tokens) → (batch, 2).

        Of each sample the negative log-likelihood of all its targets, and their number, float32.
        """
        losses = token_losses(hidden, self.weight, self.bias, targets)
        return torch.stack([losses.sum(1), (targets != IGNORED).sum(1).to(losses.dtype)], 1)


class LanguageModel(nn.Module):
    """A causal transformer and its own last layer: token ids, and which token comes next, → (batch, 2).

    No mask is needed: samples are padded at their ends, where no earlier token looks.

    Attributes:
        model: The transformers model without its last layer.
        vocabulary: That layer.
    """

    def __init__(self, model: nn.Module, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.model = model
        self.vocabulary = vocabulary

    def forward(self, input_ids: Tensor, targets: Tensor) -> Tensor:
        """Ids (batch, tokens) and the next token of each, or IGNORED, → what `Vocabulary` gives."""
        return self.vocabulary(self.model(input_ids=input_ids).last_hidden_state, targets)


def _forward(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    losses = torch.zeros(targets.numel(), dtype=_exact(weight), device=hidden.device)
    for rows, states, wanted in _chunks(hidden, weight, targets):
        losses[rows] = F.cross_entropy(_logits(states, weight, bias), wanted, reduction="none")
    return losses.view(targets.shape)


token_losses = torch.library.custom_op(
    "bequest::token_losses",
    _forward,
    mutates_args=(),
    schema="(Tensor hidden, Tensor weight, Tensor? bias, Tensor targets) -> Tensor",
)
"""Hidden states (batch, tokens, width), weight (vocabulary, width), bias, targets (batch, tokens) → the negative
log-likelihood of each target (batch, tokens), 0 where there is none; an operation of its own, which export leaves
whole."""


@token_losses.register_fake
def _(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    return torch.empty_like(targets, dtype=_exact(weight))


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    hidden, weight, bias, targets = ctx.saved_tensors
    into = _Gradients(hidden, weight, bias, ctx.needs_input_grad)
    for rows, states, wanted in _chunks(hidden, weight, targets):
        errors = _logits(states, weight, bias).softmax(1)
        errors[torch.arange(len(wanted), device=wanted.device), wanted] -= 1
        into.add(rows, states, errors * gradient.flatten()[rows, None])
    return *into.gradients, None


class _Gradients:
    """The wanted gradients of hidden states, weight and bias, from those of the logits of some tokens at a time.

    Attributes:
        gradients: None in the place of each that is not wanted.
    """

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted: Sequence[bool]) -> None:
        self.weight = weight
        tensors = zip((hidden, weight, bias), wanted[:3], strict=True)
        self.gradients = tuple(
            torch.zeros_like(t, memory_format=torch.contiguous_format) if t is not None and asked else None
            for t, asked in tensors
        )

    def add(self, rows: Tensor, states: Tensor, errors: Tensor) -> None:
        """Add those of the logits (rows, vocabulary) of some rows of the hidden states."""
        to_hidden, to_weight, to_bias = self.gradients
        errors = errors.to(self.weight.dtype)
        if to_hidden is not None:
            to_hidden.view(-1, to_hidden.shape[-1])[rows] = (errors @ self.weight).to(to_hidden.dtype)
        if to_weight is not None:
            to_weight.addmm_(errors.T, states)
        if to_bias is not None:
            to_bias += errors.sum(0)


token_losses.register_autograd(_backward, setup_context=_keep)


@register_flop_formula(torch.ops.bequest.token_losses)
def _flops(hidden: Any, weight: Any, bias: Any, targets: Any, *_: Any, **__: Any) -> int:
    return 2 * targets[0] * targets[1] * weight[0] * weight[1]


class _SoftTokenLosses(torch.autograd.Function):
    """Its gradients are computed from the logits again, some tokens at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        values: Tensor,
        classes: Tensor,
        temperature: float,
    ) -> Tensor:
        ctx.temperature = temperature
        ctx.save_for_backward(hidden, weight, bias, targets, values, classes)
        losses = torch.zeros(targets.numel(), dtype=_exact(weight), device=hidden.device)
        for rows, states, _ in _chunks(hidden, weight, targets):
            logits = _logits(states, weight, bias) / temperature
            probable, chosen, rest = _soft_targets(values, classes, rows, logits, temperature)
            picked = logits.gather(1, chosen)
            met = (probable * picked).sum(1) + rest[:, 0] * (logits.sum(1) - picked.sum(1))
            losses[rows] = logits.logsumexp(1) - met
        return losses.view(targets.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, values, classes = ctx.saved_tensors
        into = _Gradients(hidden, weight, bias, ctx.needs_input_grad)
        for rows, states, _ in _chunks(hidden, weight, targets):
            errors = (_logits(states, weight, bias) / ctx.temperature).softmax(1)
            probable, chosen, rest = _soft_targets(values, classes, rows, errors, ctx.temperature)
            errors -= rest
            errors.scatter_add_(1, chosen, rest - probable)
            into.add(rows, states, errors * (gradients[0].flatten()[rows, None] / ctx.temperature))
        return *into.gradients, None, None, None, None


def soft_token_losses(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    values: Tensor,
    classes: Tensor,
    temperature: float,
) -> Tensor:
    """The cross-entropy of each token's softened prediction with a teacher's (batch, tokens), 0 where there is none.

        L = −Σ_c σ(z_T, ρ)_c log σ(z_S, ρ)_c

    as in `bequest.nn.losses.soft_cross_entropy`, without its factor ρ² and its mean.

    Args:
        hidden: The student's hidden states (batch, tokens, width).
        weight: Of its last layer (vocabulary, width).
        bias: (vocabulary,) or None.
        targets: The next token of each, or IGNORED (batch, tokens).
        values: The teacher's largest logits and the one that all others share (batch, tokens, k + 1), as
            `bequest.nn.losses.top_classes` gives them.
        classes: Of the largest, int64 (batch, tokens, k).
        temperature: ρ, above 0.
    """
    return _SoftTokenLosses.apply(hidden, weight, bias, targets, values, classes, temperature)  # pyright: ignore[reportReturnType]


def _soft_targets(
    values: Tensor, classes: Tensor, rows: Tensor, like: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Of some tokens the teacher's largest probabilities (rows, k), whose they are, and each other's (rows, 1)."""
    chosen = classes.reshape(-1, classes.shape[-1])[rows]
    logits = values.reshape(-1, values.shape[-1])[rows].to(like.dtype) / temperature
    num_others = like.shape[1] - chosen.shape[1]
    # All others together, so that nothing overflows.
    logits = torch.cat([logits[:, :-1], logits[:, -1:] + torch.log(like.new_tensor(float(num_others)))], 1)
    shares = logits.softmax(1)
    return shares[:, :-1], chosen, shares[:, -1:] / num_others


def _chunks(hidden: Tensor, weight: Tensor, targets: Tensor) -> Any:
    """Positions that have targets, some at a time, with their hidden states and targets."""
    states, flat = hidden.reshape(-1, hidden.shape[-1]), targets.flatten()
    for rows in (flat != IGNORED).nonzero().squeeze(1).split(max(1, _LOGITS // len(weight))):
        yield rows, states[rows].to(weight.dtype), flat[rows]


def _logits(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(states, weight, bias).to(_exact(weight))


def _exact(weight: Tensor) -> torch.dtype:
    """At least float32: sums of exponentials need it."""
    return torch.promote_types(weight.dtype, torch.float32)
