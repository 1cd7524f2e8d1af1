"""Heads: find the one a network has, take it off, make new ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bequest.nn.heads import kinds
from bequest.nn.heads.mlp import MLP
from bequest.nn.trace import trace

HEAD_NAMES = ("fc", "classifier", "heads", "head", "score")
"""Where torchvision and transformers keep their heads."""


def new_head(
    kind: str, width: int, num_outputs: int, *, hidden: Sequence[int] = (), dropout: float = 0.1, bias: bool = True
) -> nn.Module:
    """A randomly initialised head.

    The linear head starts with small weights (normal, 0.01) and no bias, so that the first outputs do not
    drown what the body knows.

    Args:
        kind: `linear`, or `mlp` with hidden layers.
        width: Of the embedding.
        num_outputs: Classes.
        hidden: Widths of an MLP's hidden layers; one as wide as the embedding where empty.
        dropout: Of an MLP.
        bias: Whether a linear head has one.

    Raises:
        ValueError: The kind is unknown, a width is below 1, or hidden layers are asked of a linear head.
    """
    if min((width, num_outputs, *hidden)) < 1:
        raise ValueError(f"the head's widths are {(width, *hidden, num_outputs)}, expected 1 or more each")
    if kind == "mlp":
        return MLP(width, num_outputs, hidden, dropout)
    if kind != "linear" or hidden:
        raise ValueError(f"a head of kind {kind!r} with hidden layers {tuple(hidden)}; expected linear without, or mlp")
    head = nn.Linear(width, num_outputs, bias=bias)
    nn.init.normal_(head.weight, std=0.01)
    if head.bias is not None:
        nn.init.zeros_(head.bias)
    return head


def describe_head(head: nn.Module) -> dict[str, Any]:
    """What `build_head` needs to make a head of the same shape: plain data.

    A `Sequential` is described step by step, a `Linear` by its widths, a module of `bequest.nn.heads` by itself; an
    `Identity` is no head, where the body ends in the source's own.

    Raises:
        TypeError: The head is of a kind that cannot be described.
    """
    if type(head) is nn.Sequential:
        return {"kind": "steps", "steps": [describe_head(step) for step in head]}
    if isinstance(head, nn.Linear):
        widths = {"width": head.in_features, "num_outputs": head.out_features}
        return {"kind": "linear", **widths, "bias": head.bias is not None}
    if isinstance(head, nn.Identity):
        return {"kind": "none"}
    for kind, made in kinds().items():
        if type(head) is made:
            return {"kind": kind, **made.describe(head)}
    raise TypeError(f"a head of type {type(head).__name__} cannot be described")


def build_head(description: dict[str, Any]) -> nn.Module:
    """An unfitted head of the described shape.

    Raises:
        ValueError: The kind is unknown.
    """
    kind, arguments = description["kind"], {k: v for k, v in description.items() if k != "kind"}
    if kind == "none":
        return nn.Identity()
    if kind == "steps":
        return nn.Sequential(*map(build_head, arguments["steps"]))
    if kind == "linear":
        return new_head(kind, **arguments)
    if kind not in kinds():
        raise ValueError(f"a head of kind {kind!r}; expected steps, linear, none, {', '.join(kinds())}")
    return kinds()[kind](**arguments)


def count_described(description: dict[str, Any]) -> int:
    """How many numbers a described head holds, its buffers included, found without room for them."""
    with torch.device("meta"):
        return sum(tensor.numel() for tensor in build_head(description).state_dict().values())


def find_head(module: nn.Module, inputs: tuple[Tensor, ...] | None = None) -> str | None:
    """Name of a network's head; None where it has no Linear.

    Args:
        module: In eval mode.
        inputs: A batch, from which the last Linear that a forward pass calls is found where the structure does not
            say; None for the last that is registered.

    Returns:
        The last Linear in what timm's `get_classifier` gives, or in the child that torchvision and transformers name
        as their head; else the last Linear.
    """
    named = {m: n for n, m in module.named_modules()}
    classifier = getattr(module, "get_classifier", None)
    candidates = [classifier() if callable(classifier) else None]
    candidates += [getattr(module, name, None) for name in HEAD_NAMES]
    for candidate in candidates:
        found = last_linear(candidate) if isinstance(candidate, nn.Module) else None
        if found is not None and found[1] in named:
            return named[found[1]]
    linear = {n for n, m in module.named_modules() if isinstance(m, nn.Linear)}
    if inputs is not None:
        return next((n for n in reversed(trace(module, inputs)) if n in linear), None)
    found = last_linear(module)
    return found[0] if found else None


def last_linear(module: nn.Module) -> tuple[str, nn.Linear] | None:
    """Name and module of the last Linear in order of registration; None where there is none."""
    found = [(n, m) for n, m in module.named_modules() if isinstance(m, nn.Linear)]
    return found[-1] if found else None
