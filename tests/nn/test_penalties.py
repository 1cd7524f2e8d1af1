from __future__ import annotations

import torch
from torch import nn

from bequest.nn.network import Network
from bequest.nn.penalties import StartingPoint

ALPHA, BETA = 0.3, 0.7


def case() -> tuple[Network, StartingPoint]:
    torch.manual_seed(0)
    network = Network(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), nn.Linear(4, 2)).double()
    start = {name: p.detach() + torch.randn_like(p) for name, p in network.body.named_parameters()}
    return network, StartingPoint(start, ALPHA, BETA)


def test_value_and_gradient_are_the_papers() -> None:
    network, penalty = case()
    value = penalty(network)
    value.backward()
    moved = sum(float((p - penalty.start[n]).pow(2).sum()) for n, p in network.body.named_parameters())
    size = sum(float(p.pow(2).sum()) for p in network.head.parameters())
    torch.testing.assert_close(value.detach(), torch.tensor(ALPHA / 2 * moved + BETA / 2 * size, dtype=torch.float64))
    for name, p in network.body.named_parameters():
        torch.testing.assert_close(p.grad, ALPHA * (p - penalty.start[name]).detach(), rtol=1e-12, atol=1e-12)
    for p in network.head.parameters():
        torch.testing.assert_close(p.grad, BETA * p.detach(), rtol=1e-12, atol=1e-12)


def test_gradient_is_that_of_finite_differences() -> None:
    network, penalty = case()

    class Penalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self) -> torch.Tensor:
            return penalty(self.network)

    names, tensors = zip(*Penalised().named_parameters(), strict=True)

    def of(*values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(Penalised(), dict(zip(names, values, strict=True)), ())

    assert torch.autograd.gradcheck(of, tensors)


def test_only_what_is_trained_counts() -> None:
    network, penalty = case()
    whole = penalty(network).detach()
    network.body[0].requires_grad_(False)
    frozen = sum(float((p - penalty.start[f"0.{n}"]).pow(2).sum()) for n, p in network.body[0].named_parameters())
    torch.testing.assert_close(penalty(network).detach(), whole - ALPHA / 2 * frozen)
