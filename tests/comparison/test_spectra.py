"""Spectra of changes whose singular values are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bequest.comparison.spectra import effective_rank, num_multiplications, singular_values, spectra, spectrum


def start(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("count", [1, 2, 7])
def test_equal_singular_values_count(count: int) -> None:
    assert effective_rank(torch.ones(count).double()) == pytest.approx(count)


def test_numbers_by_hand() -> None:
    # W has the norm 10; ΔW has the singular values 3 and 1: entropy of (3/4, 1/4), energies 9/10 and 1/10.
    before = torch.zeros(5, 4, dtype=torch.float64)
    before[4, 3] = 10.0
    after = before.clone()
    after[0, 1], after[2, 0] = 3.0, -1.0
    found = spectrum("layer", before, after)
    assert found is not None
    assert (found.rows, found.columns, found.rank) == (5, 4, 2)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert found.effective_rank == pytest.approx(math.exp(entropy), rel=1e-3)
    assert (found.rank_90, found.rank_99) == (1, 2)
    assert found.energy == [0.9, 1.0, 1.0]
    assert found.values == [1.0, 0.3333]
    assert found.relative_norm == pytest.approx(10**0.5 / 10, rel=1e-3)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (5, 5)])
def test_singular_values_are_the_decompositions(shape: tuple[int, int]) -> None:
    matrix = start(*shape).double()
    matrix[[1, 3]] = 0.0
    torch.testing.assert_close(singular_values(matrix), torch.linalg.svdvals(matrix), rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("size", [1e-3, 1e-5])
def test_what_rounding_adds_is_left_out(size: float) -> None:
    before = start(40, 60)
    update = size * (start(40, 2) @ start(2, 60))
    found = spectrum("layer", before, before + update)
    assert found is not None and found.rank == 2
    assert torch.linalg.matrix_rank((before + update - before).double()) > 2, "rounding made more"


def test_no_change_and_rounding_alone_are_no_spectrum() -> None:
    before = start(40, 60)
    assert spectrum("layer", before, before.clone()) is None
    up_or_down = torch.where(
        torch.rand(40, 60, generator=torch.Generator().manual_seed(1)) < 0.5, torch.inf, -torch.inf
    )
    nudged = torch.nextafter(before, up_or_down)
    assert spectrum("layer", before, torch.where(start(60, 40).T > 0, nudged, before)) is None


def test_at_most_64_values_are_kept_and_energy_goes_to_all() -> None:
    before = start(100, 120)
    found = spectrum("layer", before, before + 0.1 * start(120, 100).T)
    assert found is not None
    assert len(found.values) == 64 and found.rank == 100
    assert len(found.energy) == 8 and found.energy[-1] == 1.0, "1, 2, …, 64, and all"
    assert found.energy == sorted(found.energy)


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 6)
        self.depthwise = nn.Conv2d(6, 6, 3, groups=6)
        self.pointwise = nn.Conv2d(6, 4, (2, 3))
        self.still = nn.Linear(4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, 6))


def test_every_matrix_that_changed_is_found() -> None:
    torch.manual_seed(0)
    source, finished = Body(), Body()
    finished.load_state_dict(source.state_dict())
    with torch.no_grad():
        for name, parameter in finished.named_parameters():
            if "still" not in name:
                parameter += torch.randn_like(parameter)
    found = {s.layer: s for s in spectra(source, finished)}
    assert {name: (s.rows, s.columns, s.adaptable) for name, s in found.items()} == {
        "words.weight": (9, 6, False),
        "depthwise.weight": (6, 9, False),
        "pointwise.weight": (4, 36, True),
    }
    # Of the four matrices: 9 × 6 × 6, 6 × 9 × 6, 4 × 36 × 4, 4 × 4 × 4.
    assert num_multiplications(source) == 324 + 324 + 576 + 64


def test_parameters_under_other_names_are_passed_by() -> None:
    source, other = nn.Sequential(nn.Linear(3, 3)), nn.Sequential(nn.Sequential(nn.Linear(3, 3)))
    assert spectra(source, other) == []
