from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from bequest.core.errors import MethodError
from bequest.nn.cut import analyse, cut
from bequest.nn.lowrank import (
    LowRankConv2d,
    LowRankEmbedding,
    LowRankLinear,
    add_low_rank,
    by_pattern,
    low_rank_layers,
    merge_low_rank,
    start_from_principal,
    targets,
)
from bequest.nn.lowrank.masks import mask, random_place
from bequest.nn.lowrank.product import low_rank_linear, low_rank_linear_dropout
from bequest.nn.network import Network, require_grad_only, set_modes

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


def operands(rows: int, width_in: int, width_out: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = [(2, rows // 2, width_in), (width_out, width_in), (width_out,), (2, width_in), (width_out, 2)]
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize("rows", [2, 64], ids=["two products", "one with the sum of the weights"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_gradients(rows: int, dropout: float) -> None:
    x, weight, bias, A, B = operands(rows, 5, 7)
    given = [t.requires_grad_() for t in (x, bias, A, B)]
    place = random_place()

    def ours(x: Any, bias: Any, A: Any, B: Any) -> Any:
        if dropout:
            return low_rank_linear_dropout(x, weight, bias, A, B, 1.5, dropout, place)[0]
        return low_rank_linear(x, weight, bias, A, B, 1.5)

    def plain(x: Any, bias: Any, A: Any, B: Any) -> Any:
        kept = mask(x.flatten(0, 1), dropout, place).view(x.shape) if dropout else 1
        return x @ weight.T + bias + 1.5 * (x * kept) @ A.T @ B.T

    assert torch.autograd.gradcheck(ours, given)
    torch.testing.assert_close(ours(*given), plain(*given))
    expected = torch.autograd.grad(plain(*given).square().sum(), given)
    torch.testing.assert_close(torch.autograd.grad(ours(*given).square().sum(), given), expected)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_operations_keep_the_rules_of_torch(dropout: float) -> None:
    x, weight, bias, A, B = operands(6, 5, 7)
    given = (x.requires_grad_(), weight, bias, A.requires_grad_(), B.requires_grad_(), 1.5)
    if dropout:
        torch.library.opcheck(low_rank_linear_dropout, (*given, dropout, torch.tensor(3)))
    else:
        torch.library.opcheck(low_rank_linear, given)


def test_the_frozen_weight_gets_no_gradient() -> None:
    layer = filled(LowRankLinear(nn.Linear(3, 4), rank=2, alpha=1.0))
    layer(torch.randn(5, 3)).sum().backward()
    assert layer.A.grad is not None and layer.B.grad is not None
    assert layer.base.weight.grad is None and not layer.base.weight.requires_grad


def saved_bytes(layer: nn.Module, x: torch.Tensor) -> int:
    owned = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    saved = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in owned:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    return sum(saved.values())


def test_inputs_are_all_that_is_kept_for_the_backward_pass() -> None:
    x = torch.randn(32, 24, requires_grad=True)
    size = x.numel() * 4
    assert saved_bytes(LowRankLinear(nn.Linear(24, 24), 2, 1.0), x) == size
    # With dropout also D(x)·Aᵀ, two numbers a row, and where the mask begins.
    assert saved_bytes(LowRankLinear(nn.Linear(24, 24), 2, 1.0, dropout=0.1), x) == size + 32 * 2 * 4 + 8


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_under_autocast_and_over_16_bit_weights(dropout: float, stored: torch.dtype) -> None:
    """An update a thousand times smaller than the weight is not swallowed by its 8 bits."""
    torch.manual_seed(0)
    base = nn.Linear(64, 32, dtype=stored)
    layer = LowRankLinear(base, rank=4, alpha=4.0, dropout=dropout)
    nn.init.normal_(layer.A, std=0.05)
    nn.init.normal_(layer.B, std=2e-4)
    assert layer.A.dtype == layer.B.dtype == torch.float32
    x = torch.randn(256, 64, dtype=stored, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(1)
        outputs = layer(x)
    assert outputs.dtype == torch.bfloat16
    outputs.float().square().sum().backward()
    kept = 1.0
    if dropout:
        torch.manual_seed(1)
        kept = mask(x.float(), dropout, random_place())
    exact = [t.detach().double().requires_grad_() for t in (x, layer.A, layer.B)]
    expected = exact[0] @ base.weight.double().T + base.bias.double() + (exact[0] * kept) @ exact[1].T @ exact[2].T
    expected.square().sum().backward()
    torch.testing.assert_close(outputs.double(), expected, rtol=2e-2, atol=2e-2)
    for ours, wanted in zip((x, layer.A, layer.B), exact, strict=True):
        assert ours.grad.dtype == ours.dtype
        error = (ours.grad.double() - wanted.grad).norm() / wanted.grad.norm()
        assert error < 1e-2


def test_dropout_is_unbiased_its_elements_independent_and_off_in_eval_mode() -> None:
    torch.manual_seed(0)
    like, p = torch.empty(512, 96), 0.1
    masks = torch.stack([mask(like, p, random_place()) for _ in range(40)])
    assert masks.unique().tolist() == pytest.approx([0, 1 / 0.9])
    assert float(masks.mean()) == pytest.approx(1, abs=2e-3)
    dropped = (masks == 0).double()
    assert float((dropped[:, 1:] * dropped[:, :-1]).mean()) == pytest.approx(p * p, rel=0.05)
    assert float((dropped[:, :, 1:] * dropped[:, :, :-1]).mean()) == pytest.approx(p * p, rel=0.05)
    assert float((dropped[1:] * dropped[:-1]).mean()) == pytest.approx(p * p, rel=0.05)
    assert torch.equal(mask(like, p, torch.tensor(9)), mask(like, p, torch.tensor(9)))

    layer, x = filled(LowRankLinear(nn.Linear(96, 8), 4, 4.0, dropout=0.5)), torch.randn(64, 96)
    with torch.no_grad():
        assert not torch.equal(layer(x), layer(x))
        mean = torch.stack([layer(x) for _ in range(4000)]).mean(0)
        layer.eval()
        torch.testing.assert_close(mean, layer(x), rtol=0.1, atol=1.0)
        assert torch.equal(layer(x), layer(x))


def test_a_matrix_larger_than_the_table_has_a_mask_too() -> None:
    dropped = mask(torch.empty(5000, 4096), 0.5, torch.tensor(7)) == 0
    assert float(dropped.double().mean()) == pytest.approx(0.5, abs=2e-3)
    assert not torch.equal(dropped[0], dropped[1])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_cut_trains_with_the_same_operations(dropout: float) -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))
    network, x = Network(body, nn.Linear(4, 3)), torch.randn(5, 6)
    add_low_rank(body, ("2", "4"), 2, 4.0, dropout)
    for layer in low_rank_layers(body).values():
        filled(layer)
    trained = [n for n, _ in network.named_parameters() if n.endswith((".A", ".B")) or n.startswith("head.")]
    require_grad_only(network, trained)
    halves = cut(network, analyse(network, (x,), ragged=False))
    assert 0 < halves.share < 1 and halves.kept[0].shape == (8,)
    name = "low_rank_linear_dropout" if dropout else "low_rank_linear"
    assert [str(n.target) for n in halves.training.graph.nodes if "low_rank" in str(n.target)] == [
        f"bequest.{name}.default"
    ] * 2
    set_modes(network)
    results = []
    for forward, given in ((network, (x,)), (halves.training, halves.prefix(x))):
        network.zero_grad()
        torch.manual_seed(3)
        outputs = forward(*given)
        outputs.square().sum().backward()
        results.append([outputs.detach(), *(network.get_parameter(n).grad for n in trained)])
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


def test_targets_leave_grouped_convolutions_out() -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8), nn.Linear(8, 2))
    assert targets(net) == ("1", "3")


def test_targets_leave_kernels_out_that_are_no_parameters() -> None:
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 8, 3)), nn.Conv2d(8, 8, 1))
    assert targets(net) == ("1",)


def test_every_embedded_source_has_targets() -> None:
    from bequest import sources

    # smollm2's weights are a package of their own, which the extras do not install.
    for name in set(sources.names()) - {"smollm2"}:
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


class Encoder(nn.Module):
    """torch's own encoder, whose layers hand their weights to fused kernels in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(x)


@pytest.mark.parametrize("only", ["", "in_proj", "out_proj", "linear1", "linear2"])
def test_updates_count_where_a_layers_weight_is_read_instead_of_called(only: str) -> None:
    """The fast path of TransformerEncoder in eval mode never calls the layers whose weights it reads."""
    torch.manual_seed(0)
    net = Encoder().double().eval().requires_grad_(False)
    x, state = torch.randn(2, 3, 8, dtype=torch.float64), {n: t.clone() for n, t in net.state_dict().items()}
    plain = net(x)
    names = targets(net, only)
    assert len(names) == (8 if not only else 2)
    add_low_rank(net, names, rank=2, alpha=8.0)
    torch.testing.assert_close(net(x), plain, rtol=1e-5, atol=1e-6)
    for layer in low_rank_layers(net).values():
        filled(layer)
    trained = net.train()(x)
    assert not torch.allclose(plain, trained, atol=1e-2)
    net.eval()
    with torch.inference_mode():
        torch.testing.assert_close(net(x), trained, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(net(x), trained, rtol=1e-4, atol=1e-5)
    trained.square().sum().backward()
    assert all(layer.A.grad.abs().sum() > 0 for layer in low_rank_layers(net).values())

    merge = merge_low_rank(net)
    assert type(net.encoder.layers[0].self_attn) is nn.MultiheadAttention
    assert set(net.state_dict()) == set(state)
    torch.testing.assert_close(net(x), trained, rtol=1e-4, atol=1e-5)
    merge.undo()
    torch.testing.assert_close(net(x), trained, rtol=1e-4, atol=1e-5)
    assert len(low_rank_layers(net)) == len(names)


def test_code_around_a_layer_may_read_what_it_is() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Conv2d(4, 5, 3, stride=2), nn.Embedding(7, 3))
    add_low_rank(net, targets(net, "*"), 2, 1.0)
    assert (net[0].in_features, net[1].stride, net[2].num_embeddings) == (3, (2, 2), 7)
    with pytest.raises(AttributeError, match="no attribute 'widht'"):
        _ = net[0].widht


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("magnitude", [False, True])
def test_a_merge_is_undone_to_the_bit(dtype: torch.dtype, magnitude: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(96, 96), nn.Conv2d(8, 8, 3), nn.Embedding(40, 16)).to(dtype)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    add_low_rank(net, targets(net, "*"), 4, 8.0, magnitude=magnitude)
    for layer in low_rank_layers(net).values():
        nn.init.normal_(layer.A, std=0.05)
        nn.init.normal_(layer.B, std=0.05)
    wrapped = {n: t.clone() for n, t in net.state_dict().items()}
    merge = merge_low_rank(net)
    merged = net.state_dict()
    assert set(merged) == set(before) and all(t.dtype == dtype for t in merged.values())
    for name in ("0.weight", "1.weight", "2.weight"):
        assert not torch.equal(merged[name], before[name])
    merge.undo()
    again = net.state_dict()
    assert set(again) == set(wrapped) and all(torch.equal(again[n], wrapped[n]) for n in wrapped)
    for name in ("0", "1", "2"):
        assert torch.equal(net.get_submodule(name).base.weight, before[f"{name}.weight"])


def test_merging_leaves_a_tied_weight_alone() -> None:
    net = nn.ModuleDict({"embed": nn.Embedding(9, 4), "project": nn.Linear(4, 9, bias=False)})
    net["project"].weight = net["embed"].weight
    before = net["embed"].weight.clone()
    add_low_rank(net, ("project",), 2, 4.0)
    filled(net["project"])
    merge_low_rank(net)
    assert torch.equal(net["embed"].weight, before) and not torch.equal(net["project"].weight, before)


def test_a_layer_in_two_places_is_wrapped_in_both() -> None:
    shared = nn.Linear(4, 4)
    net = nn.Sequential(shared, nn.Tanh(), shared)
    add_low_rank(net, targets(net), 2, 4.0)
    assert net[0] is net[2] and isinstance(net[0], LowRankLinear)
    x, layer = torch.randn(3, 4), filled(net[0])
    expected, weight = net(x), layer.weight.detach()
    merge_low_rank(net)
    assert net[0] is net[2] is shared and torch.equal(shared.weight, weight)
    torch.testing.assert_close(net(x), expected)


def test_embedding_moves_only_tokens_that_were_seen() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(10, 6, padding_idx=0))
    assert targets(net) == () and targets(net, "0") == ("0",)
    base, before = net[0], net[0].weight.clone()
    add_low_rank(net, ("0",), rank=2, alpha=2.0)
    ids = torch.tensor([[1, 4, 0]])
    assert isinstance(net[0], LowRankEmbedding) and torch.equal(net(ids), base(ids))
    optimizer = torch.optim.SGD([net[0].A, net[0].B], lr=0.1)
    net(ids).square().sum().backward()
    optimizer.step()
    expected = net(ids)
    merge_low_rank(net)
    torch.testing.assert_close(net(ids), expected)
    moved = (net[0].weight != before).any(1)
    assert moved.nonzero().flatten().tolist() == [1, 4]


def test_a_grouped_convolution_by_name() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 8, 3, groups=4, dtype=torch.float64))
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    assert targets(net) == () and targets(net, "0") == ("0",)
    add_low_rank(net, ("0",), 2, 3.0)
    layer = filled(net[0])
    kernel = layer.base.weight + 1.5 * (layer.B.flatten(1) @ layer.A.flatten(1)).view(8, 1, 3, 3)
    expected = nn.functional.conv2d(x, kernel, layer.base.bias, groups=4)
    torch.testing.assert_close(net(x), expected)
    merge_low_rank(net)
    torch.testing.assert_close(net(x), expected)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_dora_is_the_papers_equation(index: int) -> None:
    torch.manual_seed(0)
    base = [nn.Linear(6, 4), nn.Conv2d(3, 5, 3), nn.Embedding(9, 4)][index].double()
    x = [torch.randn(3, 6), torch.randn(2, 3, 6, 6), torch.randint(9, (2, 3))][index]
    x = x if index == 2 else x.double()
    net = nn.Sequential(base)
    plain = net(x)
    add_low_rank(net, ("0",), 2, 4.0, magnitude=True)
    torch.testing.assert_close(net(x), plain)  # the magnitude is that of W
    layer = filled(net[0])
    nn.init.normal_(layer.A)
    nn.init.uniform_(layer.magnitude, 0.5, 2.0)
    update = 2 * layer.B.flatten(1) @ layer.A.flatten(1)
    total = (base.weight.T if index == 2 else base.weight.flatten(1)) + update
    total = layer.magnitude[:, None] * total / total.norm(dim=1, keepdim=True)
    weight = total.T if index == 2 else total.view(base.weight.shape)
    expected = torch.func.functional_call(base, {"weight": weight}, (x,))
    outputs = net(x)
    torch.testing.assert_close(outputs, expected)
    outputs.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in (layer.A, layer.B, layer.magnitude))
    merge_low_rank(net)
    torch.testing.assert_close(net(x), expected)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_pissa_trains_the_principal_directions(index: int) -> None:
    torch.manual_seed(0)
    base = [nn.Linear(6, 4), nn.Conv2d(3, 5, 3), nn.Embedding(9, 4)][index].double()
    x = [torch.randn(3, 6), torch.randn(2, 3, 6, 6), torch.randint(9, (2, 3))][index]
    x = x if index == 2 else x.double()
    net, weight = nn.Sequential(base), base.weight.detach().clone()
    plain = net(x)
    add_low_rank(net, ("0",), 2, 6.0)
    start_from_principal(net)
    torch.testing.assert_close(net(x), plain)
    matrix = weight.T if index == 2 else weight.flatten(1)
    U, S, V = torch.linalg.svd(matrix, full_matrices=False)
    taken = net[0].scale * net[0].B.flatten(1) @ net[0].A.flatten(1)
    torch.testing.assert_close(taken, U[:, :2] * S[:2] @ V[:2])
    left = net[0].base.weight.T if index == 2 else net[0].base.weight.flatten(1)
    torch.testing.assert_close(torch.linalg.svdvals(left), torch.cat([S[2:], S.new_zeros(2)]))
    torch.testing.assert_close(net[0].A.flatten(1).norm(dim=1), net[0].B.flatten(1).norm(dim=0))
    merge_low_rank(net)
    torch.testing.assert_close(net[0].weight, weight)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.value, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.LayerNorm(4)


def test_patterns_are_names_ends_and_modules() -> None:
    net = nn.ModuleDict({"layer": nn.ModuleList(Block() for _ in range(11)), "query": nn.Linear(4, 4)})
    assert targets(net, "layer.1") == ("layer.1.query", "layer.1.value")
    assert len(targets(net, "query")) == 12 and len(targets(net, "*.query")) == 12
    assert len(targets(net, "layer.*.value, layer.0.query")) == 12
    names = targets(net)
    ranks = dict(zip(names, by_pattern("query=16, layer.3=2", names, 8, int), strict=True))
    assert (ranks["query"], ranks["layer.0.query"], ranks["layer.3.query"], ranks["layer.0.value"]) == (16, 16, 2, 8)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("query,vallue", "'vallue' fits no layer. Did you mean 'value'"),  # misspelt among valid ones
        ("*.query,layer.7.query", "'layer.7.query' fits no layer. Did you mean 'layer.1.query' or 'layer.0.query'"),
        ("query,norm", "'norm' fits layer.0.norm, a LayerNorm, which has no layer that can carry"),
        (" , ", "The targets are ' , ', expected patterns"),
    ],
)
def test_a_pattern_that_fits_nothing_is_an_error(patterns: str, expected: str) -> None:
    with pytest.raises(MethodError) as error:
        targets(nn.ModuleDict({"layer": nn.ModuleList(Block() for _ in range(2))}), patterns)
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("query=16,vallue=4", "'vallue' fits none of the adapted layers. Did you mean 'value'"),
        ("query=none", "'query=none' is no pattern with a whole number of 1 or more"),
        ("query=0", "'query=0' is no pattern with a whole number of 1 or more"),
        ("16", "'16' is no pattern with a whole number of 1 or more"),
    ],
)
def test_a_rank_for_nothing_is_an_error(setting: str, expected: str) -> None:
    with pytest.raises(MethodError) as error:
        by_pattern(setting, ("a.query", "a.value"), 8, int)
    assert expected in str(error.value)
