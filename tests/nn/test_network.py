"""`bequest.nn.network`: fingerprints, modes, what training may change."""

# Types of modules' parts and of transformers' configurations say less than tests know.
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportAssignmentType=false

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bequest.nn.network import Network, batch_norms, fingerprint, require_grad_only, set_modes, trainable_state


def small() -> Network:
    body = nn.Sequential(
        nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)),
        nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)),
    )
    return Network(body, nn.Linear(4, 2))


def test_head_follows_body():
    network = small().eval()
    x = torch.randn(5, 3)
    assert torch.equal(network(x), network.head(network.body(x)))


def test_equal_networks_have_equal_fingerprints():
    network = small()
    assert fingerprint(network) == fingerprint(copy.deepcopy(network))
    assert fingerprint(network) == fingerprint(copy.deepcopy(network).eval().requires_grad_(False))


def smallest_step(network: Network) -> None:
    with torch.no_grad():
        weight = network.body[0][0].weight
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))


def buffer(network: Network) -> None:
    network.body[1][1].running_var.add_(1e-3)


def dtype(network: Network) -> None:
    network.to(torch.float64)


def activation(network: Network) -> None:
    network.body[0][2] = nn.ReLU()


@pytest.mark.parametrize("change", [smallest_step, buffer, dtype, activation])
def test_any_change_changes_the_fingerprint(change):
    network = small()
    before = fingerprint(network)
    change(network)
    assert fingerprint(network) != before


def test_fingerprint_reads_tensors_that_are_not_in_plain_order_and_empty_ones():
    module = nn.Linear(3, 2, bias=False)
    plain = fingerprint(module)
    module.weight = nn.Parameter(module.weight.detach().t().contiguous().t())
    assert not module.weight.is_contiguous()
    assert fingerprint(module) == plain
    module.register_buffer("none", torch.empty(0))
    module.register_buffer("number", torch.tensor(3))
    assert fingerprint(module) != plain
    assert fingerprint(module.to(torch.bfloat16))


def test_modes_follow_what_is_trained():
    network = small().train()
    require_grad_only(network, ["body.1.0.weight", "body.1.1.weight", "head.weight"])
    set_modes(network)
    below, above = network.body
    assert not any(m.training for m in below.modules())
    assert above[0].training and above[1].training and above[2].training
    assert network.head.training

    before = [b.clone() for b in below.buffers()]
    network(torch.randn(8, 3))
    assert all(torch.equal(a, b) for a, b in zip(before, below.buffers(), strict=True))


def test_a_frozen_norm_beside_a_trained_layer_keeps_its_statistics():
    network = small().train()
    require_grad_only(network, ["body.1.0.weight"])
    set_modes(network)
    assert network.body[1][0].training and not network.body[1][1].training
    assert network.body[1][2].training
    assert not network.head.training


def test_a_norm_whose_statistics_are_to_stay_trains_its_scale_in_eval_mode():
    network = small().train()
    require_grad_only(network, ["body.1.0.weight", "body.1.1.weight", "body.1.1.bias"])
    set_modes(network, batch_norms(network))
    assert network.body[1][0].training and not network.body[1][1].training
    assert set(trainable_state(network)) == {"body.1.0.weight", "body.1.1.weight", "body.1.1.bias"}


def test_nothing_trained_is_all_eval():
    network = small().train().requires_grad_(False)
    set_modes(network)
    assert not any(m.training for m in network.modules())


def test_trainable_state_is_exactly_what_a_step_changes():
    network = small()
    require_grad_only(network, [n for n, _ in network.named_parameters() if n.startswith(("body.1", "head"))])
    set_modes(network)
    names = set(trainable_state(network))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1.0)
    network(torch.randn(8, 3)).square().sum().backward()
    optimizer.step()
    changed = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert changed <= names
    assert names - changed <= {"body.1.0.bias"}, "BatchNorm takes the bias before it away again"


def test_trainable_state_leaves_out_what_no_file_holds():
    module = nn.Module()
    module.register_buffer("kept", torch.ones(1))
    module.register_buffer("made", torch.ones(1), persistent=False)
    module.weight = nn.Parameter(torch.ones(1))
    network = Network(module, nn.Identity())
    set_modes(network)
    assert set(trainable_state(network)) == {"body.weight", "body.kept"}


def test_what_is_written_to_counts_as_moving() -> None:
    network = Network(nn.Linear(3, 3), nn.Linear(3, 2)).requires_grad_(False)
    network.head.requires_grad_(True)
    assert set(trainable_state(network, ("body.weight",))) == {"body.weight", "head.weight", "head.bias"}
