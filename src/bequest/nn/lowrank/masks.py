"""Dropout's masks, from a table: nothing is drawn for a mask but its place, which is all that a backward pass keeps.

To draw a mask costs more than the low-rank products that it is for. So independent draws are made once, and a mask is
a window on them at a random place: its own elements are independent, and masks at different places have nothing to do
with each other element by element.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.library import custom_op

_SIZE = 1 << 22
_PLACES = 1 << 20


def random_place() -> Tensor:
    """Where the next mask begins, an int64 scalar by torch's own generator."""
    return torch.randint(_PLACES, ())


def mask(like: Tensor, p: float, place: Tensor) -> Tensor:
    """A mask for a matrix: 0 with probability p, else 1 / (1 − p); not to be written to.

    Args:
        like: (rows, width).
        p: Below 1.
        place: From `random_place`.
    """
    return _window(like.detach(), p, place)


@custom_op("bequest::dropout_mask", mutates_args=())
def _window(like: Tensor, p: float, place: Tensor) -> Tensor:
    rows, width = like.shape
    # Rows of a matrix larger than the table overlap, each shifted against the one before.
    stride = min(width, (_SIZE - _PLACES - width) // max(1, rows))
    if stride < 1:
        raise ValueError(f"dropout has no mask for a matrix of {rows:,} × {width:,}; expected fewer rows")
    return _table(p, like.dtype, like.device).as_strided((rows, width), (stride, 1), int(place))


@_window.register_fake
def _(like: Tensor, p: float, place: Tensor) -> Tensor:
    return like.new_empty(like.shape)


@lru_cache(maxsize=2)
def _table(p: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(_SIZE, generator=generator)
    return ((drawn >= p).to(torch.float64) / (1 - p)).to(device, dtype)
