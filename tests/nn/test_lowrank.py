from __future__ import annotations

import pytest
import torch
from torch import nn

from bequest.nn.lowrank import LowRankConv2d, LowRankLinear, add_low_rank, merge_low_rank, targets

CONVOLUTIONS = [
    nn.Conv2d(3, 5, 3, padding=1, dtype=torch.float64),
    nn.Conv2d(3, 5, 1, bias=False, dtype=torch.float64),
    nn.Conv2d(3, 5, (3, 2), stride=2, dilation=2, dtype=torch.float64),
    nn.Conv2d(3, 5, 3, padding="same", padding_mode="reflect", dtype=torch.float64),
]


def filled(layer: nn.Module) -> nn.Module:
    nn.init.normal_(layer.B)
    return layer


def test_linear_is_the_papers_equation() -> None:
    torch.manual_seed(0)
    base = nn.Linear(6, 4, dtype=torch.float64)
    layer = filled(LowRankLinear(base, rank=2, alpha=3.0))
    x = torch.randn(5, 7, 6, dtype=torch.float64)
    expected = x @ (base.weight + 3.0 / 2 * layer.B @ layer.A).T + base.bias
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("base", CONVOLUTIONS, ids=str)
def test_convolution_is_low_rank_in_its_channels(base: nn.Conv2d) -> None:
    torch.manual_seed(0)
    layer = filled(LowRankConv2d(base, rank=2, alpha=4.0))
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    kernel = base.weight + 4.0 / 2 * (layer.B.flatten(1) @ layer.A.flatten(1)).reshape(base.weight.shape)
    expected = torch.func.functional_call(base, {"weight": kernel}, (x,))
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("base", [nn.Linear(6, 4, dtype=torch.float64), CONVOLUTIONS[0]], ids=str)
def test_merging_changes_nothing_and_leaves_the_plain_layer(base: nn.Module) -> None:
    net = nn.Sequential(base)
    x = torch.randn(2, 6, dtype=torch.float64) if isinstance(base, nn.Linear) else torch.randn(2, 3, 5, 5).double()
    add_low_rank(net, ("0",), rank=2, alpha=2.0)
    torch.testing.assert_close(net(x), base(x), rtol=0, atol=0)  # B is zero
    filled(net[0])
    expected = net(x)
    merge_low_rank(net)
    assert net[0] is base
    torch.testing.assert_close(net(x), expected)


class CentredConv2d(nn.Conv2d):
    """Standardises its kernel in each call, as BiT's do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias)


def test_a_kernel_that_is_changed_before_it_is_used() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(CentredConv2d(3, 5, 3, dtype=torch.float64))
    base, x = net[0], torch.randn(2, 3, 6, 6, dtype=torch.float64)
    plain = net(x)
    add_low_rank(net, targets(net), rank=2, alpha=2.0)
    torch.testing.assert_close(net(x), plain, rtol=0, atol=0)  # B is zero
    adapted = filled(net[0])(x)
    assert not torch.allclose(adapted, plain)
    adapted.sum().backward()
    assert net[0].A.grad.abs().sum() > 0 and net[0].B.grad.abs().sum() > 0
    merge_low_rank(net)
    assert net[0] is base
    torch.testing.assert_close(net(x), adapted)


@pytest.mark.parametrize("name", ["resnetv2_50x1_bit", "nf_regnet_b0", "tf_efficientnet_lite0"])
def test_convolutions_of_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=0).eval().requires_grad_(False)
    x = torch.randn(2, 3, 64, 64)
    plain, names = net(x), targets(net)
    add_low_rank(net, names, rank=2, alpha=2.0)
    torch.testing.assert_close(net(x), plain)
    for layer in names:
        nn.init.normal_(net.get_submodule(layer).B, std=0.02)
    adapted = net(x)
    assert not torch.allclose(plain, adapted, rtol=1e-2)
    merge_low_rank(net)
    torch.testing.assert_close(net(x), adapted, rtol=1e-3, atol=1e-4)


def test_gradients() -> None:
    torch.manual_seed(0)
    layer = filled(LowRankLinear(nn.Linear(3, 4, dtype=torch.float64), rank=2, alpha=1.0))
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: layer(v), (x,))
    layer.base.requires_grad_(False)
    layer(x).sum().backward()
    assert layer.A.grad is not None and layer.B.grad is not None and layer.base.weight.grad is None


def test_targets_leave_grouped_convolutions_out() -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8), nn.Linear(8, 2))
    assert targets(net) == ("1", "3")


def test_targets_leave_kernels_out_that_are_no_parameters() -> None:
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 8, 3)), nn.Conv2d(8, 8, 1))
    assert targets(net) == ("1",)


def test_every_embedded_source_has_targets() -> None:
    from bequest import sources

    for name in sources.names():
        assert len(targets(sources.get(name).body)) > 10, name


def test_other_layers_are_refused() -> None:
    with pytest.raises(TypeError, match="0 is a BatchNorm2d"):
        add_low_rank(nn.Sequential(nn.BatchNorm2d(3)), ("0",), 2, 1.0)


def test_conv1d_of_transformers_keeps_its_layout() -> None:
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    net = nn.Sequential(Conv1D(4, 6).double())
    assert targets(net) == ("0",)
    base, x = net[0], torch.randn(3, 6, dtype=torch.float64)
    add_low_rank(net, ("0",), rank=2, alpha=3.0)
    filled(net[0])
    expected = x @ (base.weight + 1.5 * (net[0].B @ net[0].A).T) + base.bias
    torch.testing.assert_close(net(x), expected)
    merge_low_rank(net)
    assert net[0] is base
    torch.testing.assert_close(net(x), expected)


def test_updates_count_where_a_layers_weight_is_read_instead_of_called() -> None:
    """The fast path of TransformerEncoderLayer in eval mode hands the weights of its layers to one fused kernel."""
    torch.manual_seed(0)
    net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval().requires_grad_(False)
    x = torch.randn(2, 3, 8)
    plain = net(x)
    add_low_rank(net, targets(net), rank=2, alpha=8.0)
    for name in ("linear1", "linear2"):
        filled(net.get_submodule(name))
    with torch.inference_mode():
        adapted = net(x)
    assert not torch.allclose(plain, adapted, atol=1e-3)
    merge_low_rank(net)
    torch.testing.assert_close(net(x), adapted, rtol=1e-4, atol=1e-5)
