"""What is decided of a network before processes divide it; what they make of it is in test_ranks.py."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from bequest.core.errors import RunError
from bequest.engine import sharding
from bequest.engine.sharding import FLAG, Sharding


class Body(nn.Module):
    """Four blocks, of which the second reads a parameter of the third, and the last is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)) for _ in range(4)])
        self.norm = nn.BatchNorm1d(4)

    def forward(self, inputs: Tensor) -> Tensor:
        a, b, c, d = self.blocks
        hidden = b(a(self.first(inputs))) + self.blocks[2][0].bias
        return self.norm(d(d(c(hidden))))


def test_blocks_are_members_of_lists_that_alone_read_what_they_hold() -> None:
    body = Body()
    body.blocks[0].eval()
    kept = body.norm.running_mean.clone()
    assert sharding._blocks(body, body, (torch.randn(3, 4),)) == ["blocks.0.0", "blocks.1.0", "blocks.0", "blocks.1"]
    assert body.training and not body.blocks[0].training, "modes stay"
    assert torch.equal(body.norm.running_mean, kept), "and statistics"


def test_the_layers_of_a_transformer_are_blocks() -> None:
    body = tiny.text_source().pretrained()
    names = sharding._blocks(body, body, (torch.ones(2, 5, dtype=torch.long), torch.ones(2, 5, dtype=torch.long)))
    assert names and all(".layer." in name for name in names)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({FLAG: "false"}, None),
        ({FLAG: "true"}, Sharding(let_go=True)),
        ({FLAG: "true", "FSDP_RESHARD_AFTER_FORWARD": "FULL_SHARD"}, Sharding(let_go=True)),
        ({FLAG: "true", "FSDP_RESHARD_AFTER_FORWARD": "false"}, Sharding(let_go=False)),
    ],
)
def test_the_launcher_says_whether_there_are_shards(
    variables: dict[str, str], expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Sharding.asked() == expected


def test_offloading_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FLAG, "true")
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "true")
    with pytest.raises(RunError, match=r"--fsdp_offload_params.*not done here"):
        Sharding.asked()


def test_whole_tensors_are_left_as_they_are() -> None:
    layer, tensor = nn.Linear(2, 2), torch.ones(2)
    layer.weight.grad = torch.ones(2, 2)
    assert sharding.whole({"a": [tensor]})["a"][0] is tensor
    assert sharding.like(tensor, layer.weight) is tensor
    assert not sharding.clip(layer.parameters(), 0.1)
    assert torch.equal(layer.weight.grad, torch.ones(2, 2)), "left for the one who clips"
    with sharding.undivided(layer):
        assert type(layer.weight) is nn.Parameter
