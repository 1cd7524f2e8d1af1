"""The singular spectrum of what training added to each matrix of a network's body."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bequest.core.questions import Spectrum

NUM_VALUES = 64
"""Singular values kept of a spectrum."""

_PRECISION = 1e-7
"""Share of the largest singular value below which the Gram matrix, in float64, tells no others apart."""


def spectra(source: nn.Module, finished: nn.Module) -> list[Spectrum]:
    """The spectrum of every matrix that a finished body holds under its source's name, and that changed.

    Args:
        source: The body as it was pretrained.
        finished: The body with plain weights.
    """
    found = (
        spectrum(name, before, after, _is_adaptable(source, name)) for name, before, after in _pairs(source, finished)
    )
    return [spectrum for spectrum in found if spectrum is not None]


def num_multiplications(body: nn.Module) -> int:
    """What the spectra of all matrices of a body take, about: of the Gram matrix on the smaller side of each."""
    return sum(math.prod(shape) * min(shape) for _, p in body.named_parameters() if (shape := _shape(p)) is not None)


def spectrum(layer: str, before: Tensor, after: Tensor, adaptable: bool = True) -> Spectrum | None:
    """The spectrum of one matrix's change; None where it changed by no more than rounding.

    Args:
        layer: Its name.
        before: Two dimensions or more, all but the first flattened.
        after: Of the same shape.
        adaptable: Whether a low-rank update can be added there.
    """
    start, change = before.double().flatten(1), (after.double() - before.double()).flatten(1)
    values = singular_values(change)
    values = values[values > max(_rounding(start, before.dtype), _PRECISION * float(values[0]))]
    if not len(values):
        return None
    shares = (values**2).cumsum(0) / (values**2).sum()
    return Spectrum(
        layer=layer,
        rows=change.shape[0],
        columns=change.shape[1],
        adaptable=adaptable,
        relative_norm=_rounded(change.norm() / start.norm()) if start.any() else 0.0,
        rank=len(values),
        effective_rank=_rounded(effective_rank(values)),
        rank_90=_rank_that_holds(shares, 0.9),
        rank_99=_rank_that_holds(shares, 0.99),
        energy=[_rounded(shares[min(rank, len(values)) - 1]) for rank in _powers(min(change.shape))],
        values=[_rounded(value) for value in values[:NUM_VALUES] / values[0]],
    )


def singular_values(matrix: Tensor) -> Tensor:
    """Of a float64 matrix (rows, columns): float64 (the smaller of both,), largest first.

    From the Gram matrix of its smaller side, which takes a fraction of the time of a decomposition; rows of zeros, as
    those of tokens that never occurred, are left out.
    """
    used = matrix[matrix.any(1)]
    used = used.T if used.shape[0] > used.shape[1] else used
    values = torch.linalg.eigvalsh(used @ used.T).clamp(min=0).sqrt().flip(0)
    return torch.cat([values, values.new_zeros(min(matrix.shape) - len(values))])


def effective_rank(values: Tensor) -> float:
    """exp(−Σ pᵢ ln pᵢ) with pᵢ = σᵢ / Σσ, of singular values above 0 (Roy & Vetterli 2007)."""
    shares = values / values.sum()
    return float(torch.exp(-(shares * shares.log()).sum()))


def _pairs(source: nn.Module, finished: nn.Module) -> list[tuple[str, Tensor, Tensor]]:
    """Name, start and end of each matrix of both."""
    start = dict(source.named_parameters())
    return [
        (name, start[name].detach().cpu(), after.detach().cpu())
        for name, after in finished.named_parameters()
        if name in start and after.shape == start[name].shape and _shape(after) is not None
    ]


def _shape(parameter: Tensor) -> tuple[int, int] | None:
    """Rows and columns; None of what is no matrix: vectors, and stacks of one row."""
    if parameter.ndim < 2:
        return None
    shape = (parameter.shape[0], math.prod(parameter.shape[1:]))
    return shape if min(shape) > 1 else None


def _is_adaptable(body: nn.Module, name: str) -> bool:
    layer = body.get_submodule(name.rpartition(".")[0])
    return not isinstance(layer, nn.Embedding) and getattr(layer, "groups", 1) == 1


def _rounding(start: Tensor, dtype: torch.dtype) -> float:
    """Above the largest singular value of what rounding to the nearest number makes of a matrix, several times over.

    An error of at most ε/2 of each entry, evenly spread, has a standard deviation of 0.29 ε times the entries' size; a
    matrix of such errors has the norm (√rows + √columns) times that.
    """
    rows, columns = start.shape
    size = float(start.norm()) / math.sqrt(rows * columns)
    return torch.finfo(dtype).eps * size * (math.sqrt(rows) + math.sqrt(columns))


def _rank_that_holds(shares: Tensor, share: float) -> int:
    # A share that falls short by the rounding of its sum counts as reached.
    return int((shares < share - 1e-12).sum()) + 1


def _powers(most: int) -> list[int]:
    """1, 2, 4, 8, … up to `most`, and the next above it where it is none of them."""
    return [2**i for i in range(math.ceil(math.log2(most)) + 1)]


def _rounded(value: Tensor | float) -> float:
    return float(f"{float(value):.4g}")
