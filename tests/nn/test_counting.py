"""What share of a pass is frozen, against products counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bequest.nn.counting import frozen_share, without_fused_layers


def stack() -> nn.Sequential:
    return nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5)).requires_grad_(
        False
    )


@pytest.mark.parametrize(
    ("trained", "share"),
    [
        ("0.weight", 0.0),
        ("0.bias", 0.0),
        ("2.weight", 200 / 950),
        ("4.bias", 800 / 950),
        ("", 1.0),
    ],
)
def test_what_lies_above_a_trained_parameter_is_not_frozen(trained: str, share: float) -> None:
    network = stack()
    if trained:
        network.get_parameter(trained).requires_grad_(True)
    assert frozen_share(network, (torch.randn(3, 10),)) == pytest.approx(share)


def test_a_product_of_frozen_things_beside_the_trained_branch_is_frozen() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen, self.trained = nn.Linear(4, 4, bias=False).requires_grad_(False), nn.Linear(4, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.frozen(x) + self.trained(x)

    assert frozen_share(Beside(), (torch.randn(2, 4),)) == pytest.approx(0.5)


def test_layers_that_torch_fuses_are_counted_one_by_one() -> None:
    layers = [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2)]
    network = nn.Sequential(*layers).eval().requires_grad_(False)
    layers[1].requires_grad_(True)
    assert frozen_share(network, (torch.randn(2, 5, 8),)) == pytest.approx(0.5, abs=0.01)
    assert torch.backends.mha.get_fastpath_enabled()


def test_attention_as_processors_fuse_it_is_counted() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(nn.functional.scaled_dot_product_attention(x, x, x))

    # Two products of 16 × 8 × 16 numbers in the one, one of 16 × 8 × 8 in the other.
    assert frozen_share(Attention(), (torch.randn(2, 1, 16, 8),)) == pytest.approx(0.8)


def test_an_operation_that_cannot_be_counted_calls_for_a_closer_look() -> None:
    class Distances(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.cdist(x, x[:4]))

    x = torch.randn(4, 3)
    assert frozen_share(Distances(), (x,)) == 0.0
    assert frozen_share(Distances(), (x,), {"_cdist_forward", "_euclidean_dist", "cdist"}) == 1.0


def test_the_fused_path_comes_back_after_an_error() -> None:
    with pytest.raises(ValueError, match="stop"), without_fused_layers():
        assert not torch.backends.mha.get_fastpath_enabled()
        raise ValueError("stop")
    assert torch.backends.mha.get_fastpath_enabled()
