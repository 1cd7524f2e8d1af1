"""From a layer's output to one vector a sample."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

TextPooling = Literal["mean", "cls", "last"]
TEXT_POOLINGS: tuple[str, ...] = get_args(TextPooling)


def pool_tokens(hidden: Tensor, pooling: str, mask: Tensor | None = None, skip: int = 0) -> Tensor:
    """Tokens (batch, tokens, width) → (batch, width).

    Args:
        hidden: The tokens.
        pooling: `mean`, `cls` (the first token) or `last` (the last that the mask keeps).
        mask: (batch, tokens), 1 where a token counts, padded on the right; None where all do.
        skip: Tokens at the front that the mean leaves out (class token, registers).
    """
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "last":
        if mask is None:
            return hidden[:, -1]
        last = (mask.sum(1) - 1).clamp(min=0)
        return hidden[torch.arange(hidden.shape[0], device=hidden.device), last]
    if mask is None:
        return hidden[:, skip:].mean(1)
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
