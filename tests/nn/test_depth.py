"""`bequest.nn.depth`: layers in order of depth, over the architectures that users have."""

# Types of modules' parts and of transformers' configurations say less than tests know.
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportAssignmentType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
import transformers
from torch import nn

from bequest.core.errors import MethodError
from bequest.core.plan import Recipe
from bequest.nn.depth import find_name, from_depth, groups_by_depth, layers
from bequest.nn.network import Network
from bequest.nn.trace import first_call, trace

TEXT: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
IMAGE: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
IDS = (torch.tensor([[5, 6, 7, 8]]), torch.ones(1, 4, dtype=torch.int64))
PIXELS = (torch.zeros(1, 3, 32, 32),)

T = transformers
TRANSFORMERS: dict[str, tuple[Callable[[], nn.Module], tuple[torch.Tensor, ...], int]] = {
    "BERT": (lambda: T.BertModel(T.BertConfig(**TEXT), add_pooling_layer=False), IDS, 1 + 3),
    "RoBERTa": (lambda: T.RobertaModel(T.RobertaConfig(**TEXT), add_pooling_layer=False), IDS, 1 + 3),
    "DistilBERT": (
        lambda: T.DistilBertModel(T.DistilBertConfig(vocab_size=50, dim=16, n_layers=3, n_heads=2, hidden_dim=32)),
        IDS,
        1 + 3,
    ),
    "DeBERTa": (
        lambda: T.DebertaV2Model(
            T.DebertaV2Config(**TEXT, relative_attention=True, pos_att_type=["c2p", "p2c"], norm_rel_ebd="layer_norm")
        ),
        IDS,
        2 + 3,
    ),
    "Llama": (lambda: T.LlamaModel(T.LlamaConfig(**TEXT)), IDS, 1 + 3),
    "GPT-2": (
        lambda: T.GPT2Model(
            T.GPT2Config(vocab_size=50, n_embd=16, n_layer=3, n_head=2, bos_token_id=1, eos_token_id=1)
        ),
        IDS[:1],
        2 + 3,
    ),
    "ViT": (
        lambda: T.ViTModel(T.ViTConfig(**IMAGE, image_size=32, patch_size=8), add_pooling_layer=False),
        PIXELS,
        1 + 3,
    ),
    "ResNet": (
        lambda: T.ResNetModel(
            T.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[2, 2], layer_type="bottleneck")
        ),
        PIXELS,
        1 + 4,
    ),
    "ConvNeXt": (
        lambda: T.ConvNextModel(T.ConvNextConfig(num_stages=2, hidden_sizes=[8, 16], depths=[2, 2])),
        PIXELS,
        1 + 4 + 1,
    ),
}
TIMM = {
    "resnet18": 1 + 8,
    "vit_tiny_patch16_224": 1 + 12,
    "convnext_atto": 1 + 12 + 3,
    "tf_efficientnet_lite0": 1 + 16 + 1,
    "swin_tiny_patch4_window7_224": 1 + 12 + 3,
    "mobilenetv3_large_100": 1 + 15 + 1 + 1,
    "regnety_002": 1 + 13,
    "nf_regnet_b0": 1 + 16 + 1,
    "densenet121": 1 + 58 + 3,
}
TORCHVISION = {
    "resnet18": 1 + 8,
    "vit_b_16": 1 + 12,
    "convnext_tiny": 1 + 18 + 3,
    "efficientnet_b0": 1 + 16 + 1,
    "swin_t": 1 + 12 + 3,
    "mobilenet_v3_small": 1 + 11 + 1 + 1,
    "vgg11": 8 + 2,
}


def check(body: nn.Module, inputs: tuple[torch.Tensor, ...], count: int) -> None:
    body.eval()
    found, ordered = layers(body), layers(body, inputs)
    for some in (found, ordered):
        owned = [name for layer in some for name in layer.parameters]
        assert sorted(owned) == sorted(name for name, _ in body.named_parameters())
    assert len(found) == count
    assert all(layer.name in dict(body.named_modules()) for layer in found)
    calls = trace(body, inputs)
    executed = [layer.name for layer in sorted(found, key=lambda layer: first_call(calls, layer.name))]
    assert [layer.name for layer in found] == executed
    assert [layer.name for layer in ordered] == executed
    direct = {name for name, _ in body.named_parameters(recurse=False)}
    assert direct <= set(found[0].parameters)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name: str):
    make, inputs, count = TRANSFORMERS[name]
    check(make(), inputs, count)


@pytest.mark.parametrize("name", TIMM)
def test_timm(name: str):
    with torch.device("meta"):
        check(timm.create_model(name, num_classes=0), (torch.zeros(1, 3, 224, 224),), TIMM[name])


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name: str):
    with torch.device("meta"):
        body = torchvision.models.get_model(name)
        head = next(n for n in ("fc", "classifier", "heads", "head") if hasattr(body, n))
        last = [n for n, m in body.get_submodule(head).named_modules() if isinstance(m, nn.Linear)][-1]
        body.set_submodule(f"{head}.{last}".rstrip("."), nn.Identity())
        check(body, (torch.zeros(1, 3, 224, 224),), TORCHVISION[name])


def test_names_of_a_residual_network():
    with torch.device("meta"):
        found = layers(timm.create_model("resnet18", num_classes=0))
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    assert [layer.name for layer in found] == ["conv1", *blocks]
    assert found[0].parameters == ("conv1.weight", "bn1.weight", "bn1.bias")


class Wrapped(nn.Module):
    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


def test_plain_sequences_and_wrappers():
    mlp = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 3))
    assert [x.name for x in layers(mlp)] == ["0", "3"]
    assert [x.name for x in layers(Wrapped(net=mlp))] == ["net.0", "net.3"]
    assert [x.name for x in layers(Wrapped(net=Wrapped(net=mlp)))] == ["net.net.0", "net.net.3"]
    assert [x.name for x in layers(Wrapped(first=mlp, second=nn.Linear(3, 1)))] == ["first.0", "first.3", "second"]


@pytest.mark.parametrize("body", [nn.Linear(2, 3), nn.LayerNorm(3), nn.Sequential(nn.LayerNorm(3)), nn.Identity()])
def test_bodies_that_are_one_layer_or_none(body: nn.Module):
    owned = [name for layer in layers(body) for name in layer.parameters]
    assert owned == [name for name, _ in body.named_parameters()]


class Backwards(nn.Module):
    """Registered last to first, with a table that is read without a call."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(3, 3)
        self.first = nn.Linear(2, 3)
        self.table = nn.Bilinear(1, 1, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x) + self.table.bias)


def test_a_batch_gives_the_order_of_execution():
    assert [x.name for x in layers(Backwards())] == ["second", "first", "table"]
    assert [x.name for x in layers(Backwards(), (torch.zeros(1, 2),))] == ["table", "first", "second"]


@pytest.mark.parametrize(("depth", "left"), [("0", 4), (0.5, 2), ("0.67", 1), ("1", 0), ("2", 2), ("last", 1)])
def test_from_depth(depth: Any, left: int):
    parts = nn.Sequential(*(Wrapped(a=nn.Linear(2, 2), b=nn.Linear(2, 2)) for _ in range(3)))
    body = Wrapped(blocks=parts, last=nn.Linear(2, 2))
    if depth == "2":
        depth = "blocks.2"
    assert [x.name for x in from_depth(body, depth)] == ["blocks.0", "blocks.1", "blocks.2", "last"][4 - left :]
    assert from_depth(layers(body), depth) == from_depth(body, depth)


def test_wrong_depths():
    body = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    with pytest.raises(MethodError, match=r"The depth is 1\.5, expected a fraction from 0 to 1"):
        from_depth(body, 1.5)
    with pytest.raises(MethodError, match=r"There is no layer 'four'\. There are: 0, 2\. `bequest ls layers"):
        from_depth(body, "four")
    with pytest.raises(MethodError, match="The depth is nan"):
        from_depth(body, "nan")


def test_the_end_of_a_name_is_enough_if_it_is_the_only_one():
    names = ["a.layer.1", "a.layer.11", "b.layer.1", "layer"]
    assert find_name("layer.11", names) == "a.layer.11"
    assert find_name("layer", names) == "layer"
    with pytest.raises(KeyError, match=r"'layer\.1' fits 2 layers: a\.layer\.1, b\.layer\.1"):
        find_name("layer.1", names)
    with pytest.raises(KeyError, match=r"Did you mean 'a\.layer\.11'"):
        find_name("a.layer.12", ["a.layer.11"])
    with pytest.raises(KeyError, match=r"Did you mean 'layer\.11' or 'b\.layer\.1' or 'a\.layer\.1'\?"):
        find_name("layer.12", names)


def test_groups_cover_what_is_trained_and_nothing_else():
    network = Network(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 3)), nn.Linear(3, 2))
    recipe = Recipe(learning_rate=1.0, head_learning_rate=5.0, weight_decay=0.1, layer_decay=0.5)
    trained = layers(network.body)
    groups = groups_by_depth(network, trained, recipe)
    rates = {name: (g.learning_rate, g.weight_decay) for g in groups for name in g.names}
    assert rates == {
        "body.0.weight": (0.5, 0.1),
        "body.0.bias": (0.5, 0.0),
        "body.1.weight": (0.5, 0.0),
        "body.1.bias": (0.5, 0.0),
        "body.2.weight": (1.0, 0.1),
        "body.2.bias": (1.0, 0.0),
        "head.weight": (5.0, 0.1),
        "head.bias": (5.0, 0.0),
    }
    last = groups_by_depth(network, trained[1:], recipe)
    assert {n for g in last for n in g.names} == {"body.2.weight", "body.2.bias", "head.weight", "head.bias"}


def test_a_number_is_a_name_where_it_is_no_fraction() -> None:
    body = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    assert [layer.name for layer in from_depth(body, "2")] == ["2", "3"]
    assert [layer.name for layer in from_depth(body, "0.5")] == ["2", "3"]
    with pytest.raises(MethodError, match=r"The depth is 9\.0, expected a fraction from 0 to 1, or a layer's name"):
        from_depth(body, "9")


def test_batch_norm_is_left_out_where_the_recipe_freezes_it() -> None:
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4))
    network = Network(body, nn.Linear(4, 2))

    def trained(how: str) -> set[str]:
        recipe = Recipe(learning_rate=1.0, head_learning_rate=1.0, batch_norm=how)
        return {n for group in groups_by_depth(network, layers(body), recipe) for n in group.names}

    everything = {name for name, _ in network.named_parameters()}
    assert trained("trained") == trained("affine") == everything
    assert trained("frozen") == everything - {"body.1.weight", "body.1.bias"}
