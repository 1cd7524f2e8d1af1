"""`bequest.nn.head`: heads are made, described, made again, and found."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from bequest.nn.head import build_head, describe_head, find_head, last_linear, new_head
from bequest.nn.heads.mlp import MLP
from bequest.nn.heads.steps import Normalise, Select, Standardise


@pytest.mark.parametrize(
    "head",
    [
        new_head("linear", 5, 3),
        new_head("linear", 5, 3, bias=False),
        new_head("mlp", 5, 3),
        new_head("mlp", 5, 3, hidden=(7, 4), dropout=0.3),
        nn.Sequential(Normalise([2, 3]), Select(4), Standardise(4), new_head("linear", 4, 3)),
    ],
    ids=["linear", "no bias", "mlp", "three layers", "steps"],
)
def test_a_head_is_made_again_from_its_description(head: nn.Module):
    description = json.loads(json.dumps(describe_head(head)))
    again = build_head(description)
    again.load_state_dict(head.state_dict())
    x = torch.randn(4, 5)
    assert torch.equal(again.eval()(x), head.eval()(x))
    assert describe_head(again) == description


def test_the_linear_head_starts_small_and_unbiased():
    head = new_head("linear", 512, 64)
    assert isinstance(head, nn.Linear)
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not head.bias.any()


def test_an_mlp_is_what_its_docstring_says():
    head = new_head("mlp", 4, 2, hidden=(3,)).eval()
    assert isinstance(head, MLP)
    x = torch.randn(6, 4)
    hidden = nn.functional.gelu(nn.functional.linear(x, *head.hidden[0].parameters()))
    assert torch.equal(head(x), nn.functional.linear(hidden, *head.output.parameters()))
    assert [tuple(p.shape) for p in new_head("mlp", 4, 2).parameters()] == [(4, 4), (4,), (2, 4), (2,)]


@pytest.mark.parametrize(("kind", "hidden"), [("linear", (3,)), ("tree", ()), ("mlp", (0,))])
def test_what_no_head_can_be_is_refused(kind: str, hidden: tuple[int, ...]):
    with pytest.raises(ValueError, match="expected"):
        new_head(kind, 4, 2, hidden=hidden)


def test_steps_do_what_they_are_called():
    x = torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.0, 2.0, 1.0, 0.0]])
    assert Normalise([2, 2])(x).tolist() == pytest.approx(np.array([[0.6, 0.8, 0, 0], [0, 1, 1, 0]]))
    select, standardise = Select(2), Standardise(4)
    select.index.copy_(torch.tensor([3, 1]))
    standardise.mean.fill_(1)
    standardise.scale.fill_(2)
    assert select(x).tolist() == [[0, 4], [0, 2]]
    assert torch.equal(standardise(x), (x - 1) / 2)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind 'tree'; expected steps, linear"):
        build_head({"kind": "tree"})


def test_an_unknown_head_cannot_be_described():
    with pytest.raises(TypeError, match="Conv2d cannot be described"):
        describe_head(nn.Conv2d(1, 1, 1))


class Misordered(nn.Module):
    """Its first layer is registered last."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 2)
        self.into = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.into(x))


def test_without_structure_the_forward_pass_tells_the_head():
    module = Misordered()
    assert find_head(module) == "into"
    assert find_head(module, (torch.randn(2, 3),)) == "out"
    assert not module.out._forward_hooks


@pytest.mark.parametrize("name", ["fc", "classifier", "heads", "head", "score"])
def test_a_head_with_a_known_name_is_found_wherever_it_stands(name: str):
    module = nn.Module()
    setattr(module, name, nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
    module.later = nn.Linear(3, 3)
    assert find_head(module) == f"{name}.2"


def test_nothing_linear_is_no_head():
    assert find_head(nn.Conv2d(1, 1, 1)) is None
    assert last_linear(nn.ReLU()) is None
