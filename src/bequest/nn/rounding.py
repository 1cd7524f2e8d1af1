"""Tensors rounded to few bits for storage, each to multiples of a step of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

BITS = (8, 4)
"""To how many bits numbers can be rounded."""

_VALUES, _STEPS = "rounded.values", "rounded.steps"


@dataclass(frozen=True)
class Rounded:
    """A `Coding` that keeps some tensors as whole numbers, all in one tensor, and one step each; others as they are.

    A tensor's step is its largest magnitude / (2^(bits − 1) − 1). Of 4 bits each, two numbers lie in a byte.

    Attributes:
        shapes: Of the tensors that are rounded, by name; in their order.
        bits: Of a number, 8 or 4.
    """

    shapes: Mapping[str, tuple[int, ...]]
    bits: int

    def encode(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors as they are stored."""
        kept = {name: tensor for name, tensor in tensors.items() if name not in self.shapes}
        most = 2 ** (self.bits - 1) - 1
        steps = torch.stack([tensors[name].abs().max() / most for name in self.shapes])
        # A tensor of zeros has a step of 0, and whole numbers that are 0 too.
        scaled = [
            tensors[name].flatten() / (step if step > 0 else 1) for name, step in zip(self.shapes, steps, strict=True)
        ]
        whole = torch.cat(scaled).round().to(torch.int8)
        return {**kept, _VALUES: whole if self.bits == 8 else _pack(whole), _STEPS: steps}

    def decode(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors again, rounded."""
        found = {name: tensor for name, tensor in tensors.items() if name not in (_VALUES, _STEPS)}
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        whole = tensors[_VALUES] if self.bits == 8 else _unpack(tensors[_VALUES])[: sum(sizes)]
        parts = zip(self.shapes.items(), whole.split(sizes), tensors[_STEPS], strict=True)
        return {**found, **{name: (part * step).view(shape) for (name, shape), part, step in parts}}


def _pack(whole: Tensor) -> Tensor:
    """Numbers from −8 to 7, two a byte: uint8 (half as many, rounded up)."""
    even = torch.nn.functional.pad(whole, (0, len(whole) % 2)).view(-1, 2)
    low, high = ((even[:, i] + 8).to(torch.uint8) for i in range(2))
    return low | high << 4


def _unpack(packed: Tensor) -> Tensor:
    return torch.stack([packed & 15, packed >> 4], dim=1).flatten().to(torch.int8) - 8
