"""Dropout's masks on a processor, from random bits.

PyTorch draws a number of its own for every element of a mask, which on a processor took a tenth of a transformer's
training step (MiniLM-L6, 16 texts of 128 tokens, one core). 64 random bits are four elements here, each kept by
comparing its 16 bits: an element is kept with a probability that is right to 2⁻¹⁷.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_LANES, _HALF = 4, 1 << 15


class MasksFromBits(TorchDispatchMode):
    """In this context tensors on a processor are filled with 0 and 1 from random bits of PyTorch's own generator.

    Whatever asks for such a mask is served: dropout layers, attention's own dropout, exported graphs of either.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.bernoulli_.float and _is_plain(args[0]) and not kwargs:
            return fill(*args)
        return func(*args, **(kwargs or {}))


def cheap_masks(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which dropout's masks cost little on this kind of device; nothing where they do already."""
    return MasksFromBits() if device.type == "cpu" else nullcontext()


def fill(mask: Tensor, kept: float = 0.5) -> Tensor:
    """Fill a mask, contiguous and on a processor, with 1 where an element is kept and 0 elsewhere; returns it.

    Args:
        mask: Of any shape and type.
        kept: The probability of a 1.
    """
    words = torch.empty(-(-mask.numel() // _LANES), dtype=torch.int64)
    lanes = words.random_(torch.iinfo(torch.int64).min, None).view(torch.int16)[: mask.numel()]
    threshold = round(kept * 2 * _HALF) - _HALF
    if threshold == _HALF:  # beyond the largest of 16 bits
        return mask.fill_(1)
    torch.lt(lanes.view(mask.shape), threshold, out=mask)
    return mask


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) is Tensor and tensor.device.type == "cpu" and tensor.is_contiguous()
