"""Bodies that end at a layer: they compute that layer's output, pooled, and nothing after it."""

# Types of modules' parts and of transformers' configurations say less than tests know.
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportAssignmentType=false

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as T
from torch import nn

from bequest import sources
from bequest.core.errors import SourceError
from bequest.nn.trace import trace
from bequest.sources.cut import CutBody, Skip, cut_source
from bequest.sources.source import Source

TEXT: dict[str, Any] = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}
GPT2: dict[str, Any] = {"vocab_size": 20, "bos_token_id": 1, "eos_token_id": 1}


def run(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    with torch.no_grad():
        return module.eval()(*inputs)


def spatial(x: torch.Tensor, _: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return x.mean((2, 3))


def spatial_last(x: torch.Tensor, _: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return x.mean((1, 2))


def first(x: torch.Tensor, _: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return x[:, 0]


def masked_mean(x: torch.Tensor, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    weights = inputs[1].unsqueeze(-1).float()
    return (x * weights).sum(1) / weights.sum(1)


def last(x: torch.Tensor, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return x[torch.arange(len(x)), inputs[1].sum(1) - 1]


IMAGES: list[tuple[str, int | None, str, Callable[..., torch.Tensor], float]] = [
    ("timm:resnet18", 64, "layer3", spatial, 0.26),
    ("timm:resnet18", 64, "layer2.0", spatial, 0.04),
    ("timm:tf_efficientnet_lite0", 64, "blocks.4", spatial, 0.25),
    ("timm:mobilenetv3_small_050", 64, "blocks.3", spatial, 0.2),
    ("timm:convnext_atto", 64, "stages.2", spatial, 0.45),
    ("timm:vit_tiny_patch16_224", 64, "blocks.5", first, 0.53),
    ("timm:swin_tiny_patch4_window7_224", None, "layers.1", spatial_last, 0.1),
    ("torchvision:resnet18", 64, "layer2", spatial, 0.1),
    ("torchvision:swin_t", 64, "features.3", spatial_last, 0.1),
    ("torchvision:convnext_tiny", 64, "features.3", spatial, 0.1),
]


def check(whole: Source, at: str, pool: Callable[..., torch.Tensor], share: float) -> Source:
    cut = cut_source(whole, at)
    inputs = cut.example()
    assert inputs
    body = cut.body
    assert isinstance(body, CutBody)
    output = trace(whole.body, inputs, keep=body.cut.at)[body.cut.at].output
    output = output[0] if isinstance(output, tuple) else output
    embedding = run(body, inputs)
    assert embedding.shape == (len(inputs[0]), cut.width)
    assert torch.allclose(embedding, pool(output, inputs), atol=1e-5)

    sizes = [sum(p.numel() for p in b.parameters()) for b in (body, whole.body)]
    assert sizes[0] < share * sizes[1]
    assert cut.fingerprint != whole.fingerprint
    assert torch.equal(run(copy.deepcopy(body), inputs), embedding)
    assert isinstance(cut.network().head, nn.Identity)
    twin = cut.scratch(1)
    assert [tuple(p.shape) for p in twin.parameters()] == [tuple(p.shape) for p in cut.network().parameters()]

    trained = cut.network().requires_grad_(True)
    trained(*inputs).sum().backward()
    assert all(p.grad is not None for p in trained.parameters())
    return cut


@pytest.mark.parametrize(("name", "size", "at", "pool", "share"), IMAGES)
def test_image_networks(name: str, size: int | None, at: str, pool: Callable[..., torch.Tensor], share: float):
    cut = check(sources.get(name, image_size=size, pretrained=False), at, pool, share)
    assert cut.name == f"{name} (untrained) up to {at}"
    again = sources.from_description(
        cut.name,
        {"network": json.loads(json.dumps(cut.description)), "preprocess": cut.preprocess.describe()},
        Path("."),
    )
    network = again.scratch(0)
    network.load_state_dict(cut.network().state_dict())
    assert again.width == cut.width
    assert torch.equal(run(network.body, cut.example() or ()), run(cut.body, cut.example() or ()))


MODELS: dict[str, tuple[Callable[[], Any], str, Callable[..., torch.Tensor]]] = {
    "BERT": (lambda: T.BertModel(T.BertConfig(**TEXT)), "layer.1", first),
    "a classifier's BERT": (lambda: T.BertForSequenceClassification(T.BertConfig(**TEXT)), "layer.1", first),
    "DistilBERT": (
        lambda: T.DistilBertModel(T.DistilBertConfig(vocab_size=20, dim=16, n_layers=3, n_heads=2, hidden_dim=32)),
        "layer.1",
        first,
    ),
    "Llama": (lambda: T.LlamaModel(T.LlamaConfig(**TEXT)), "layers.1", last),
    "Qwen2": (lambda: T.Qwen2Model(T.Qwen2Config(**TEXT, num_key_value_heads=2)), "layers.1", last),
    "GPT-2": (
        lambda: T.GPT2Model(
            T.GPT2Config(vocab_size=20, n_embd=16, n_layer=3, n_head=2, bos_token_id=1, eos_token_id=1)
        ),
        "h.1",
        last,
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_text_models(name: str, save: Any):
    make, at, pool = MODELS[name]
    cut = check(sources.get(f"hf:{save(make())}"), at, pool, 0.95)
    assert cut.preprocess.modality == "text"


def test_text_models_pool_as_they_are_told(save: Any):
    whole = f"hf:{save(MODELS['BERT'][0]())}"
    cut = sources.get(whole, cut_at="layer.1", pooling="mean")
    inputs = cut.example()
    assert inputs
    hidden = trace(sources.get(whole).body, inputs, keep="encoder.encoder.layer.1")["encoder.encoder.layer.1"].output
    hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    assert torch.allclose(run(cut.body, inputs), masked_mean(hidden, inputs), atol=1e-6)


def test_it_can_be_exported():
    cut = sources.get("timm:resnet18", image_size=64, cut_at="layer2", pretrained=False)
    inputs = cut.example()
    assert inputs
    exported = torch.export.export(cut.network().body, inputs)
    assert torch.allclose(exported.module()(*inputs), run(cut.body, inputs))
    assert not any("layer3" in name for name in exported.state_dict)


def test_plain_modules_are_cut_with_a_batch():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    x = torch.randn(7, 4)
    whole = sources.from_module(module, example=x)
    cut = cut_source(whole, "1")
    assert cut.width == 6 and not cut.description
    assert torch.equal(run(cut.body, (x,)), run(module[:2], (x,)))
    assert len(list(cut.body.parameters())) == 2
    with pytest.raises(SourceError, match=r"a batch is needed\. Give one: from_module\(\.\.\., example=batch\)"):
        cut_source(sources.from_module(module), "1")


class Sequence1d(nn.Module):
    """Convolutions over time: (batch, channels, time)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(3, 8, 3)
        self.second = nn.Conv1d(8, 8, 3)
        self.fc = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.second(self.first(x)).mean(2))


def test_channels_of_sequences_are_told_from_time():
    x = torch.randn(3, 3, 20)
    cut = cut_source(sources.from_module(Sequence1d(), example=x), "first")
    assert cut.width == 8
    assert torch.allclose(run(cut.body, (x,)), run(cut.body.get_submodule("body.first"), (x,)).mean(2), atol=1e-6)


class Attentive(nn.Module):
    """Its loop reads an attribute of its blocks, and adds what the last one gives."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(3))
        self.fc = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for number in range(3):
            x = self.blocks[number](x) if self.blocks[number].norm_first is False else x
        return self.fc(x.mean(1))


def test_a_body_that_needs_its_later_layers_keeps_them():
    x = torch.randn(3, 5, 8)
    whole = sources.from_module(Attentive(), example=x)
    cut = cut_source(whole, "blocks.0")
    assert cut.body.cut.removed == ()
    assert torch.allclose(run(cut.body, (x,)), run(whole.body.blocks[0], (x,)).mean(1), atol=1e-6)


def test_skip_gives_back_its_first_input():
    assert Skip()(1, 2, key=3) == 1
    assert Skip()(hidden=4) == 4


def test_cuts_can_be_cut(save: Any):
    whole = sources.get(f"hf:{save(MODELS['BERT'][0]())}", cut_at="layer.1")
    twice = cut_source(whole, "layer.0")
    assert [c["at"] for c in twice.description["cuts"]] == ["encoder.encoder.layer.1", "body.encoder.encoder.layer.0"]
    once = sources.get(f"hf:{save(MODELS['BERT'][0]())}", cut_at="layer.0")
    assert len(list(twice.body.parameters())) == len(list(once.body.parameters()))


@pytest.mark.parametrize(
    ("at", "told"),
    [
        ("layer9", r"There is no layer 'layer9'\. Did you mean 'layer4'.*`bequest ls layers SOURCE` lists them"),
        ("conv1.weight", "There is no layer"),
        ("x", r"There is no layer 'x'\. The steps of depth are: conv1, layer1\.0, .*layer4\.1\. `bequest ls layers"),
        ("bn1.nothing", "There is no layer"),
        ("0.conv1", "'0.conv1' fits 4 layers: layer1.0.conv1"),
    ],
)
def test_wrong_names(at: str, told: str):
    with pytest.raises(SourceError, match=told):
        sources.get("timm:resnet18", image_size=64, cut_at=at, pretrained=False)


def test_layers_that_are_no_place_to_cut():
    vit = sources.get("timm:vit_tiny_patch16_224", image_size=64, pretrained=False)
    with pytest.raises(SourceError, match=r"pooling is 'most', expected mean, cls, last"):
        cut_source(vit, "blocks.1", "most")
    swin = sources.get("timm:swin_tiny_patch4_window7_224", pretrained=False)
    with pytest.raises(SourceError, match=r"layers\.0\.blocks\.0\.attn' gives \(192, 49, 96\) for a batch of 3"):
        cut_source(swin, "layers.0.blocks.0.attn")
    lists = sources.from_module(Attentive(), example=torch.randn(2, 3, 8))
    with pytest.raises(SourceError, match=r"'blocks' is never called as a whole.*blocks\.0"):
        cut_source(lists, "blocks")
