"""NOLA's body: low-rank layers whose factors are combinations of random matrices that are never trained or stored.

    A = A₀ + Σ_i α_i A_i,   B = Σ_j β_j B_j,   A_i, B_j ~ U(−1, 1) / √k

Koohpayegani et al. 2024, arXiv:2310.02556, section 3. All factors of one shape draw on one basis. The coefficients of
all layers of a shape, one row a layer, times that basis are all factors of the shape: one matrix product, once a
forward pass, where a basis for each layer would be drawn or read anew for each of them.

Random numbers are made of the raw output of NumPy's PCG64, which is the same on every machine and in every version, and
of exact arithmetic: a file of coefficients and a seed mean the same weights everywhere. No global generator is touched.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from bequest.nn.lowrank import add_low_rank, merge_low_rank

_FACTORS = {"A": "alpha", "B": "beta"}
"""From a factor's name in a low-rank layer to that of its coefficients."""

_LEAST_SAVING = 8
"""A factor has at most one coefficient for so many of its numbers; a narrow layer would be better off without NOLA."""


class Nola(nn.Module):
    """A body with low-rank layers that get their factors from shared bases at the beginning of each forward pass.

    Each of the layers has coefficients `alpha` and `beta`, which start at zero: then B is zero, and the body computes
    what it did. Its own A and B are A₀ and zero, and stay so. The bases are buffers that are in no state dict.

    Args:
        body: Its named layers are wrapped in place, so that its function stays the same.
        names: Of layers that can carry a low-rank update.
        rank: Of the updates.
        alpha: α; the updates are scaled by α / rank.
        num_basis: Random matrices in a basis, for a wide factor; a narrow one has an eighth as many as it has numbers.
        seed: Of all bases, and of A₀.
        dropout: On the updates' inputs.
    """

    def __init__(
        self,
        body: nn.Module,
        names: Sequence[str],
        *,
        rank: int,
        alpha: float,
        num_basis: int,
        seed: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.body, self.names = body, tuple(names)
        with torch.random.fork_rng(devices=[]):
            add_low_rank(body, self.names, rank, alpha, dropout)
        with torch.no_grad():
            for name in self.names:
                start: Tensor = body.get_submodule(name).A  # pyright: ignore[reportAssignmentType]
                bound = 1 / math.sqrt(start[0].numel())  # Kaiming-uniform with a = √5
                start.copy_(uniform(tuple(start.shape), f"{seed} A0 {name}") * bound)
        for factor, coefficients in _FACTORS.items():
            for shape, members in self.shapes(factor).items():
                one = getattr(body.get_submodule(members[0]), factor)
                basis = make_basis(factor, shape, num_basis, seed).to(one.device, one.dtype)
                self.register_buffer(_buffer(factor, shape), basis, persistent=False)
                for name in members:
                    layer = body.get_submodule(name)
                    layer.register_parameter(coefficients, nn.Parameter(one.new_zeros(len(basis))))
                    getattr(layer, factor).requires_grad_(False)

    def forward(self, *inputs: Tensor) -> Tensor:
        """As the body's, with the factors in place."""
        return functional_call(self.body, self.factors(), inputs)

    def factors(self) -> dict[str, Tensor]:
        """A and B of every layer by their names in the body."""
        found: dict[str, Tensor] = {}
        for factor, coefficients in _FACTORS.items():
            for shape, members in self.shapes(factor).items():
                layers: list[Any] = [self.body.get_submodule(name) for name in members]
                basis: Tensor = getattr(self, _buffer(factor, shape))
                # (layers, k) @ (k, numel); unbound rather than indexed, so that the backward pass is one stack.
                rows = (torch.stack([getattr(layer, coefficients) for layer in layers]) @ basis).unbind()
                for name, layer, row in zip(members, layers, rows, strict=True):
                    found[f"{name}.{factor}"] = getattr(layer, factor) + row.view(shape)
        return found

    def shapes(self, factor: str) -> dict[tuple[int, ...], list[str]]:
        """Names of the layers by the shape of a factor, `A` or `B`."""
        found: dict[tuple[int, ...], list[str]] = {}
        for name in self.names:
            shape = tuple(getattr(self.body.get_submodule(name), factor).shape)
            found.setdefault(shape, []).append(name)
        return found

    def merged(self) -> nn.Module:
        """The plain body with every update added to its weight."""
        with torch.no_grad():
            for path, values in self.factors().items():
                self.body.get_parameter(path).copy_(values)
        merge_low_rank(self.body)
        return self.body


def make_basis(factor: str, shape: tuple[int, ...], num_basis: int, seed: int) -> Tensor:
    """The random matrices that all factors of a shape are made of, one a row: float32 (k, numbers of a factor).

    They depend on the arguments alone, not on what else a network holds.

    Args:
        factor: `A` or `B`.
        shape: Of the factor.
        num_basis: k for a wide factor; at most an eighth of a factor's numbers.
        seed: Of all bases.
    """
    size = math.prod(shape)
    count = max(1, min(num_basis, size // _LEAST_SAVING))
    return uniform((count, size), f"{seed} {factor} {shape}") * (1 / math.sqrt(count))


def uniform(shape: tuple[int, ...], key: str) -> Tensor:
    """Numbers from U(−1, 1), of 24 bits each and so exact in float32, that depend on shape and key alone."""
    seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=16).digest(), "little")
    bits = np.random.PCG64(seed).random_raw(math.prod(shape)) >> np.uint64(40)
    return torch.from_numpy((bits.astype(np.float32) / np.float32(2**23) - np.float32(1)).reshape(shape))


def _buffer(factor: str, shape: tuple[int, ...]) -> str:
    return f"basis_{factor}_" + "x".join(map(str, shape))
