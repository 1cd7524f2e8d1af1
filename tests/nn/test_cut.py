"""The cut against the whole network: outputs, gradients, buffers, and the fewest bytes by brute force."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from bequest.nn.cut import CutError, analyse, cut
from bequest.nn.lowrank import add_low_rank, low_rank_layers
from bequest.nn.network import Network, require_grad_only, set_modes
from bequest.nn.trace import called_before_trained


class Residual(nn.Module):
    """Normalisation with statistics, dropout, and an in-place activation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        y += x
        return self.drop(self.act(y))


class Masked(nn.Module):
    """An encoder of tokens whose mask is made on the way, with a dropout of no layer's own before the blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.drop = nn.Dropout(0.5)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, 0.2, batch_first=True) for _ in range(3))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.drop(self.embed(ids))
        for block in self.blocks:
            x = block(x, src_key_padding_mask=mask == 0)
        weights = mask[:, :, None].to(x.dtype)
        return (x * weights).sum(1) / weights.sum(1)


def conv_network() -> tuple[Network, tuple[Tensor, ...]]:
    body = nn.Sequential(nn.Conv2d(3, 4, 3), Residual(4), Residual(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Network(body, nn.Linear(4, 3)), (torch.randn(5, 3, 8, 8),)


def text_network() -> tuple[Network, tuple[Tensor, ...]]:
    mask = torch.ones(4, 7, dtype=torch.long)
    mask[1, 4:] = mask[2, 2:] = 0
    return Network(Masked(), nn.Linear(8, 3)), (torch.randint(0, 20, (4, 7)), mask)


def from_timm(name: str, **settings: Any) -> Callable[[], tuple[Network, tuple[Tensor, ...]]]:
    def make() -> tuple[Network, tuple[Tensor, ...]]:
        body = timm.create_model(name, num_classes=0, **settings)
        return Network(body, nn.Linear(body.num_features, 3)), (torch.randn(3, 3, 64, 64),)

    return make


CASES = {
    "conv": (conv_network, ["body.2.", "head."]),
    "conv, normalisation of the first block": (conv_network, ["body.1.norm", "head."]),
    "text": (text_network, ["body.blocks.2", "head."]),
    "text, head alone": (text_network, ["head."]),
    "resnet": (from_timm("resnet10t"), ["body.layer4", "head."]),
    "vit": (from_timm("vit_tiny_patch16_224", img_size=64, depth=3, drop_path_rate=0.2), ["body.blocks.2", "head."]),
    "efficientnet": (
        from_timm("tf_efficientnet_lite0", drop_path_rate=0.2),
        ["body.blocks.6", "body.conv_head", "head."],
    ),
}


def prepared(make: Callable[[], Any], trained: list[str]) -> tuple[Network, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    network, inputs = make()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
    require_grad_only(network, [n for n, _ in network.named_parameters() if n.startswith(tuple(trained))])
    return network, inputs


@pytest.mark.parametrize("case", CASES)
def test_the_halves_compute_what_the_whole_computes(case: str) -> None:
    network, inputs = prepared(*CASES[case])
    quiet = called_before_trained(network, inputs)
    graphs = analyse(network, inputs, ragged=case.startswith("text"), quiet=quiet)
    halves = cut(network, graphs)
    assert 0 < halves.share < 1
    more = tuple(torch.cat([t, t[:2]]) for t in inputs)  # another number of samples than was exported
    kept = halves.prefix(*more)
    for tensor, described in zip(kept, halves.kept, strict=True):
        assert (
            tensor.dtype == described.dtype
            and tensor.shape[1 + described.ragged :] == described.shape[described.ragged :]
        )
    given = (*kept, *(more[i] for i in halves.inputs))
    network.eval()
    # Attention has a fused path without gradients.
    torch.testing.assert_close(halves.scoring(*given), network(*more), rtol=1e-5, atol=1e-6)

    set_modes(network, quiet)
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    results = []
    for forward, arguments in ((network, more), (halves.training, given)):
        network.load_state_dict(buffers, strict=False)
        network.zero_grad()
        torch.manual_seed(1)
        outputs = forward(*(t.clone() for t in arguments))
        outputs.square().sum().backward()
        gradients = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
        moved = {n: b.clone() for n, b in network.named_buffers()}
        results.append((outputs.detach(), gradients, moved))
    (whole, gradients, moved), (half, same_gradients, same_moved) = results
    torch.testing.assert_close(half, whole, rtol=1e-5, atol=1e-6)
    assert set(gradients) == set(same_gradients) == {n for n, p in network.named_parameters() if p.requires_grad}
    for name, gradient in gradients.items():
        torch.testing.assert_close(same_gradients[name], gradient, rtol=1e-4, atol=1e-5)
    for name, buffer in moved.items():
        torch.testing.assert_close(same_moved[name], buffer, rtol=1e-5, atol=1e-6)
    trained = {name.rpartition(".")[0] for name in gradients}
    for name in moved:
        assert torch.equal(moved[name], buffers[name]) == (name.rpartition(".")[0] not in trained)


def test_dropout_below_the_cut_is_off() -> None:
    network, inputs = prepared(text_network, ["body.blocks.2", "head."])
    quiet = called_before_trained(network, inputs)
    assert "body.drop" in quiet
    set_modes(network, quiet)
    assert not network.body.drop.training and not network.body.blocks[1].dropout.training
    assert network.body.blocks[2].dropout.training


def test_dropout_behind_a_trained_weight_that_is_read_and_not_called_stays_on() -> None:
    network, inputs = prepared(text_network, ["head."])
    for block in (0, 1):
        add_low_rank(network.body, (f"blocks.{block}.self_attn.in_proj",), 2, 4.0)
    layers = [f"body.{name}" for name in low_rank_layers(network.body)]
    require_grad_only(network, [f"{name}.{factor}" for name in layers[1:] for factor in ("A", "B")])
    quiet = called_before_trained(network, inputs)
    assert {"body.drop", "body.blocks.0.dropout1"} <= quiet
    assert "body.blocks.1.dropout1" not in quiet


def test_a_constant_that_depends_on_the_mode_is_that_of_each_mode() -> None:
    class Scaled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) * (torch.tensor(2.0) if self.training else torch.tensor(3.0))

    def make() -> tuple[Network, tuple[Tensor, ...]]:
        return Network(nn.Sequential(nn.Linear(5, 16), nn.Linear(16, 8)), Scaled(8, 3)), (torch.randn(4, 5),)

    network, inputs = prepared(make, ["head."])
    halves = cut(network, analyse(network, inputs, ragged=False))
    kept = halves.prefix(*inputs)
    for half, mode in ((halves.training, True), (halves.scoring, False)):
        network.train(mode)
        torch.testing.assert_close(half(*kept), network(*inputs))


def test_frozen_normalisation_keeps_its_statistics_in_both_modes() -> None:
    network, inputs = prepared(conv_network, ["body.2.conv", "head."])
    graphs = analyse(network, inputs, ragged=False)
    halves = cut(network, graphs)
    before = {n: b.clone() for n, b in network.named_buffers() if n.startswith("body.1")}
    halves.training(*halves.prefix(*inputs), *(inputs[i] for i in halves.inputs))
    assert before and all(torch.equal(b, network.get_buffer(n)) for n, b in before.items())


class Branches(nn.Module):
    """Frozen layers of several widths that two trained layers read."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise((6, *widths)))
        self.first = nn.Linear(widths[1], 2)
        self.last = nn.Linear(widths[-1], 2)

    def forward(self, x: Tensor) -> Tensor:
        outputs = [x]
        for layer in self.layers:
            outputs.append(torch.tanh(layer(outputs[-1])))
        return self.first(outputs[2]) + self.last(outputs[-1].relu())


@pytest.mark.parametrize("widths", [(3, 4, 5), (9, 2, 7, 1), (4, 4, 4, 4)])
def test_nothing_frozen_is_left_to_compute_and_the_fewest_numbers_are_kept(widths: tuple[int, ...]) -> None:
    """Every product below the trained layers is spared: both branches must be kept, each once."""
    network, inputs = prepared(lambda: (Network(Branches(widths), nn.Linear(2, 2)), (torch.randn(4, 6),)), ["body.f"])
    network.body.last.requires_grad_(True)
    network.head.requires_grad_(True)
    halves = cut(network, analyse(network, inputs, ragged=False))
    assert sorted(kept.shape for kept in halves.kept) == sorted([(widths[1],), (widths[-1],)])
    assert not halves.inputs


@pytest.mark.parametrize(
    ("trained", "expected"),
    [(["body.0", "head."], "no frozen layer lies below"), (["body.0", "body.1", "body.2", "head."], "no frozen layer")],
)
def test_nothing_to_gain_is_said(trained: list[str], expected: str) -> None:
    network, inputs = prepared(conv_network, trained)
    with pytest.raises(CutError, match=expected):
        analyse(network, inputs, ragged=False)


def test_what_cannot_be_exported_is_said() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) if float(x.sum()) > 0 else x

    network, inputs = prepared(lambda: (Network(Branching(), nn.Linear(4, 2)), (torch.rand(3, 4),)), ["head."])
    with pytest.raises(CutError, match=r"torch\.export cannot take it"):
        analyse(network, inputs, ragged=False)


def test_dropout_before_everything_that_is_trained_stays_on_where_nothing_is_frozen() -> None:
    body = nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 6), nn.Dropout(0.5), nn.Linear(6, 6))
    network, inputs = Network(body, nn.Linear(6, 2)), (torch.randn(4, 6),)
    assert called_before_trained(network, inputs) == frozenset()
    network.body[1].requires_grad_(False)
    assert called_before_trained(network, inputs) == {"body.0", "body.2"}
