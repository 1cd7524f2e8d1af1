"""Weight selection against brute-force indexing, and against functions that it must keep."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportIndexIssue=false, reportCallIssue=false

from __future__ import annotations

import copy
from collections.abc import Callable
from fractions import Fraction
from typing import Any, get_args

import numpy as np
import pytest
import timm
import torch
import transformers as T
from torch import Tensor, nn

from bequest.core.errors import SourceError
from bequest.nn.weight_selection import Selection, layout, select_weights, selected_indices

SELECTIONS = get_args(Selection)


def uniform(of: int, kept: int) -> list[int]:
    """The rule in exact numbers; Python rounds halves to even, as torch does."""
    return [round(Fraction(i * (of - 1), max(kept - 1, 1))) for i in range(kept)]


def filled(network: nn.Module, seed: int = 0) -> nn.Module:
    """Every weight another number, BatchNorm's statistics too."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return network.eval()


def vit(width: int, heads: int, depth: int = 2, **settings: Any) -> nn.Module:
    sizes = {"img_size": 32, "patch_size": 16, "embed_dim": width, "num_heads": heads, "depth": depth, "num_classes": 0}
    return timm.create_model("vit_tiny_patch16_224", **{**sizes, **settings})


def bert(width: int, heads: int, layers: int = 2, **settings: Any) -> nn.Module:
    sizes = {"vocab_size": 20, "max_position_embeddings": 12, "intermediate_size": 2 * width, **settings}
    config = T.BertConfig(hidden_size=width, num_attention_heads=heads, num_hidden_layers=layers, **sizes)
    return T.BertModel(config, add_pooling_layer=False)


class Convolutions(nn.Module):
    """A stem, residual blocks with a grouped and a depthwise convolution, a map that is flattened into a Linear."""

    def __init__(self, width: int, groups: int, hidden: int, depth: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, hidden, 1, bias=False),
                nn.BatchNorm2d(hidden),
                nn.ReLU(),
                nn.Conv2d(hidden, hidden, 3, padding=1, groups=groups),
                nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden),
                nn.Conv2d(hidden, width, 1),
            )
            for _ in range(depth)
        )
        self.out = nn.Linear(width * 4 * 4, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.out(torch.tanh(x).flatten(1))


class Attention(nn.Module):
    """Residual attention of torch, without normalisation over units; class token and layer scale as bare parameters."""

    def __init__(self, width: int, heads: int, depth: int = 2) -> None:
        super().__init__()
        self.stem = nn.Linear(5, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(nn.MultiheadAttention(width, heads, batch_first=True) for _ in range(depth))
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x) + self.cls_token
        for block in self.blocks:
            x = x + self.gamma * block(x, x, x, need_weights=False)[0]
        return x.mean(1)


@pytest.mark.parametrize(("of", "kept"), [(5, 5), (7, 1), (6, 3), (8, 4), (8, 5), (384, 192), (144, 100), (11, 3)])
def test_units_are_those_of_the_rule(of: int, kept: int):
    larger, smaller = nn.Linear(1, of), nn.Linear(1, kept)
    chosen = {s: selected_indices(larger, smaller, s)["bias"][0].tolist() for s in SELECTIONS}
    assert chosen["uniform"] == uniform(of, kept)
    assert chosen["first"] == list(range(kept))
    for rising in chosen.values():
        assert sorted(set(rising)) == rising and len(rising) == kept and rising[0] >= 0 and rising[-1] < of


@pytest.mark.parametrize("selection", ["uniform", "first"])
def test_values_are_those_at_the_indices(selection: Selection):
    def network(width: int, hidden: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, hidden, (1, 2)))

    larger, smaller = filled(network(7, 11)), network(4, 6)
    larger[1].num_batches_tracked += 5
    before = {name: tensor.clone() for name, tensor in larger.state_dict().items()}
    select_weights(larger, smaller, selection)

    w, h = (uniform(7, 4), uniform(11, 6)) if selection == "uniform" else (range(4), range(6))
    there = {name: tensor.numpy() for name, tensor in before.items()}
    expected = {name: value[w] for name, value in there.items() if name[0] in "01" and value.ndim}
    expected |= {"1.num_batches_tracked": np.array(5), "2.bias": there["2.bias"][h]}
    expected["2.weight"] = there["2.weight"][np.ix_(h, w, range(1), range(2))]
    assert expected.keys() == smaller.state_dict().keys()
    for name, tensor in smaller.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), expected[name], err_msg=name)
    assert all(torch.equal(before[name], tensor) for name, tensor in larger.state_dict().items())


def test_fused_projections_are_selected_one_by_one_and_heads_kept_whole():
    larger, smaller = filled(vit(24, 4, 3)), vit(12, 2)
    select_weights(larger, smaller)
    width = uniform(24, 12)
    rows = [24 * which + 6 * head + unit for which in range(3) for head in uniform(4, 2) for unit in range(6)]
    there, here = larger.blocks[1].attn, smaller.blocks[1].attn
    assert torch.equal(here.qkv.weight, there.qkv.weight[rows][:, width])
    assert torch.equal(here.qkv.bias, there.qkv.bias[rows])
    assert torch.equal(here.proj.weight, there.proj.weight[width][:, rows[:12]])
    assert torch.equal(here.proj.bias, there.proj.bias[width])
    assert torch.equal(smaller.pos_embed, larger.pos_embed[:, :, width])
    assert torch.equal(smaller.patch_embed.proj.weight, larger.patch_embed.proj.weight[width])
    assert torch.equal(smaller.blocks[0].mlp.fc1.weight, larger.blocks[0].mlp.fc1.weight[uniform(96, 48)][:, width])


def test_narrower_heads_keep_units_of_every_head():
    larger, smaller = filled(bert(24, 3, 3)), bert(15, 3)
    select_weights(larger, smaller)
    rows = [8 * head + unit for head in range(3) for unit in uniform(8, 5)]
    there, here = larger.encoder.layer[0].attention, smaller.encoder.layer[0].attention
    for projection in ("query", "key", "value"):
        of, kept = getattr(there.self, projection), getattr(here.self, projection)
        assert torch.equal(kept.weight, of.weight[rows][:, uniform(24, 15)])
        assert torch.equal(kept.bias, of.bias[rows])
    assert torch.equal(here.output.dense.weight, there.output.dense.weight[uniform(24, 15)][:, rows])


@pytest.mark.parametrize(
    ("model", "settings", "weight", "parts"),
    [
        ("GPT2", {"n_embd": 8, "n_head": 2}, "h.0.attn.c_attn.weight", ("8", "3 × 2 × 4")),
        ("GPT2", {"n_embd": 8, "n_head": 2}, "h.0.attn.c_proj.weight", ("2 × 4", "8")),
        ("GPTNeoX", {"hidden_size": 8, "num_attention_heads": 2}, "query_key_value.weight", ("2 × 3 × 4", "8")),
        ("DistilBert", {"dim": 8, "n_heads": 2}, "attention.out_lin.weight", ("8", "2 × 4")),
        ("MPNet", {"hidden_size": 8, "num_attention_heads": 2}, "attn.k.weight", ("2 × 4", "8")),
        ("MPNet", {"hidden_size": 8, "num_attention_heads": 2}, "position_embeddings.weight", ("512", "8")),
        ("ViT", {"hidden_size": 8, "num_attention_heads": 2}, "o_proj.weight", ("8", "2 × 4")),
        (
            "Llama",
            {"hidden_size": 8, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 2},
            "k_proj.weight",
            ("2 × 2", "8"),
        ),
        ("T5Encoder", {"d_model": 8, "num_heads": 2, "d_kv": 6}, "SelfAttention.q.weight", ("2 × 6", "8")),
    ],
)
def test_heads_are_found_in_every_kind_of_attention(model: str, settings: Any, weight: str, parts: tuple[str, ...]):
    config = getattr(T, model.removesuffix("Encoder") + "Config")(vocab_size=10, **settings)
    with torch.device("meta"):
        axes = layout(getattr(T, model + "Model")(config))
    assert next(tuple(map(str, found)) for name, found in axes.items() if name.endswith(weight)) == parts


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("make", [lambda: vit(12, 2), lambda: bert(12, 3), lambda: Convolutions(6, 2, 8)])
def test_equal_sizes_copy_everything(make: Callable[[], nn.Module], selection: Selection):
    larger, smaller = filled(make(), 1), filled(make(), 2)
    select_weights(larger, smaller, selection, seed=3)
    there = larger.state_dict()
    assert all(torch.equal(there[name], tensor) for name, tensor in smaller.state_dict().items())


PAIRS = {
    "convolutions": (lambda: Convolutions(9, 4, 16, 3), lambda: Convolutions(5, 2, 6), (2, 3, 4, 4)),
    "attention": (lambda: Attention(24, 4, 3), lambda: Attention(12, 2), (2, 7, 5)),
    "narrower heads": (lambda: Attention(24, 3), lambda: Attention(15, 3), (2, 7, 5)),
}


def deadened(larger: nn.Module, smaller: nn.Module, chosen: dict[str, tuple[Tensor, ...]]) -> nn.Module:
    """The larger network without all that is left out: reads and writes of other units, and later layers, are 0."""
    dead = copy.deepcopy(larger)
    for name, tensor in dead.state_dict().items():
        if tensor.is_floating_point() and "running" not in name:
            kept = torch.zeros_like(tensor)
            if name in chosen:
                shape = tensor.flatten(len(chosen[name]) - 1).shape
                kept.view(shape)[torch.meshgrid(*chosen[name], indexing="ij")] = 1
            tensor *= kept
    return dead


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("pair", PAIRS)
def test_all_layers_keep_the_same_units(pair: str, selection: Selection):
    """Where the units that are left out are dead, what is left computes what the whole did."""
    make_larger, make_smaller, shape = PAIRS[pair]
    larger, smaller = filled(make_larger()).double(), filled(make_smaller(), 1).double()
    chosen = selected_indices(larger, smaller, selection, seed=1)
    dead = deadened(larger, smaller, chosen)
    for attention in (m for m in dead.modules() if isinstance(m, nn.MultiheadAttention)):
        # Queries and keys of narrower heads are divided by another root.
        ratio = (attention.head_dim / smaller.blocks[0].head_dim) ** 0.5
        attention.in_proj_weight.data[: attention.embed_dim] *= ratio
        attention.in_proj_bias.data[: attention.embed_dim] *= ratio
    select_weights(larger, smaller, selection, seed=1)
    [units] = chosen["out.bias" if pair == "convolutions" else "gamma"]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        same = torch.allclose(smaller(x), dead(x)[:, units], rtol=1e-9, atol=1e-9)
    assert same == (selection != "inconsistent")


def test_random_units_follow_the_seed_alone():
    larger, smaller = bert(24, 4), bert(12, 2)
    state = torch.get_rng_state()
    first, again, other = (selected_indices(larger, smaller, "random", seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    name = "encoder.layer.0.intermediate.dense.weight"
    assert torch.equal(first[name][0], again[name][0]) and torch.equal(first[name][1], again[name][1])
    assert not torch.equal(first[name][0], other[name][0])
    each = selected_indices(larger, smaller, "inconsistent", 0)
    assert not torch.equal(each[name][1], each["encoder.layer.1.intermediate.dense.weight"][1])


@pytest.mark.parametrize(
    ("large", "small"),
    [
        ("tf_efficientnet_lite2", "tf_efficientnet_lite0"),
        ("vit_small_patch16_224", "vit_tiny_patch16_224"),
        ("convnext_tiny", "convnext_femto"),
        ("convnext_nano", "convnext_atto"),
        ("resnet34", "resnet18"),
    ],
)
def test_members_of_timms_families(large: str, small: str):
    with torch.device("meta"):
        networks = [timm.create_model(name, num_classes=0) for name in (large, small)]
    chosen = selected_indices(*networks)
    stored = {n for n, tensor in networks[1].state_dict().items() if tensor.is_floating_point()}
    assert stored <= chosen.keys()


def test_minilm_and_a_member_of_three_layers():
    sizes = {"vocab_size": 30522, "max_position_embeddings": 512}
    with torch.device("meta"):
        networks = bert(384, 12, 6, **sizes), bert(192, 6, 3, **sizes)
    chosen = selected_indices(*networks)
    assert {name.split(".")[2] for name in chosen if name.startswith("encoder.layer")} == {"0", "1", "2"}
    words = chosen["embeddings.word_embeddings.weight"]
    assert torch.equal(words[0], torch.arange(30522)) and words[1].tolist() == uniform(384, 192)


def refused(larger: nn.Module, smaller: nn.Module) -> str:
    before = copy.deepcopy(smaller.state_dict())
    with pytest.raises(SourceError) as caught:
        select_weights(larger, smaller)
    assert all(torch.equal(before[name], tensor) for name, tensor in smaller.state_dict().items())
    return str(caught.value)


def test_what_does_not_fit_is_named():
    assert refused(nn.Linear(4, 3), nn.Linear(5, 2)) == (
        "Linear cannot start from weights of Linear: weight is (2, 5), in the larger network (3, 4); expected no more "
        "in any dimension. Choose a larger network of the same family."
    )
    assert "weight is (4, 3, 5, 5), in the larger network (8, 3, 3, 3); expected equal numbers of places" in refused(
        nn.Conv2d(3, 8, 3), nn.Conv2d(3, 4, 5)
    )
    assert "weight is (9, 4), in the larger network (10, 8); expected equal numbers of places" in refused(
        nn.Embedding(10, 8), nn.Embedding(9, 4)
    )
    assert "pos_embed is (1, 10, 12), in the larger network (1, 5, 24); expected equal numbers of places" in refused(
        vit(24, 2), vit(12, 1, img_size=48)
    )
    assert "weight is (2, 4, 3, 3), in the larger network (3, 4); expected as many dimensions, made of" in refused(
        nn.Linear(4, 3), nn.Conv2d(4, 2, 3)
    )
    assert "bias is (2), but the larger network has no tensor of that name" in refused(
        nn.Linear(4, 3, bias=False), nn.Linear(4, 2)
    )
    assert "bias is (3) in the larger network, but the smaller one has none of that name" in refused(
        nn.Linear(4, 3), nn.Linear(4, 2, bias=False)
    )
    deeper = refused(bert(24, 2, 1), bert(12, 2, 2))
    assert "encoder.layer.1.attention.output.LayerNorm.bias is (12), but the larger network has no tensor" in deeper
    assert "; and 13 more. Choose" in deeper
    assert "qkv.bias is (3 × 4 × 3), in the larger network (3 × 2 × 12); expected no more" in refused(
        vit(24, 2), vit(12, 4)
    )


def test_groups_that_do_not_fit_are_named():
    def grouped(channels: int, *groups: int) -> nn.Module:
        return nn.Sequential(*(nn.Conv2d(channels, channels, 3, groups=g) for g in groups))

    assert refused(grouped(16, 2), grouped(8, 4)) == (
        "The convolution 0 has 2 groups of 8 channels in the larger network, 4 of 2 in the smaller one; expected no "
        "more of either, and the same in all layers of 16 channels. Choose a larger network of the same family."
    )
    assert "The convolution 1 has 4 groups of 4 channels" in refused(grouped(16, 2, 4), grouped(8, 2, 4))
