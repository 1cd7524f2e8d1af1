# Types of modules' parts say less than tests know.
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bequest.core.errors import SourceError
from bequest.nn.adapters import Adapters
from bequest.nn.lowrank import add_low_rank
from bequest.nn.network import Network

LAYERS = {"one": ("0", "2"), "two": ("2",)}


@pytest.fixture
def plain() -> Network:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8))
    return Network(body, nn.Linear(8, 3)).eval().requires_grad_(False)


def adapted(plain: Network, name: str) -> Network:
    """A copy with low-rank layers whose updates are random, and a head of another size for each name."""
    torch.manual_seed(len(name) + ord(name[0]))
    network = copy.deepcopy(plain)
    add_low_rank(network.body, LAYERS[name], 2, 3.0)
    for layer in LAYERS[name]:
        nn.init.normal_(network.body.get_submodule(layer).B)
    network.head = nn.Linear(8, 2 + len(LAYERS[name]))
    return network.eval()


def test_outputs_are_those_of_the_adapter_in_use_and_weights_stay(plain: Network) -> None:
    x = torch.randn(5, 2, 5, 5)
    alone = {name: adapted(plain, name) for name in LAYERS}
    wanted = {name: network(x) for name, network in alone.items()}
    own, before = plain(x), copy.deepcopy(plain.state_dict())
    adapters = Adapters(plain)
    for name, network in alone.items():
        adapters.add(name, network)
    assert adapters.names == ("one", "two") and adapters.active is None
    for name in ("one", "two", "one", "one", "two"):
        adapters.use(name)
        assert adapters.active == name
        assert torch.equal(adapters.network(x), wanted[name])
    adapters.off()
    adapters.off()
    assert adapters.active is None
    assert torch.equal(adapters.network(x), own)
    after = plain.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)


def test_the_networks_weights_are_held_once(plain: Network) -> None:
    adapters = Adapters(plain)
    weight = plain.body.get_submodule("2").weight
    for name, network in {name: adapted(plain, name) for name in LAYERS}.items():
        adapters.add(name, network)
        adapters.use(name)
        assert plain.body.get_submodule("2").base.weight is weight


def test_names(plain: Network) -> None:
    adapters = Adapters(plain)
    adapters.add("one", adapted(plain, "one"))
    with pytest.raises(SourceError, match=r"There is no adapter 'on'. Did you mean 'one'"):
        adapters.use("on")
    with pytest.raises(SourceError, match="'one' cannot be added: there is one of that name already: one"):
        adapters.add("one", adapted(plain, "two"))


def test_what_is_no_adapter_of_this_network(plain: Network) -> None:
    adapters = Adapters(plain)
    with pytest.raises(SourceError, match="'two' cannot be added: it has none; expected a new name and low-rank"):
        adapters.add("two", copy.deepcopy(plain))
    for tensor in ("2.base.weight", "0.bias", "3.running_mean"):
        network = adapted(plain, "two")
        network.body.state_dict()[tensor][0] += 1
        told = tensor.replace(".base", "")
        with pytest.raises(SourceError, match=f"'two' cannot be added: {told} is another than in the network"):
            adapters.add("two", network)
    assert adapters.names == ()
