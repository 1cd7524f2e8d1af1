"""`hf:FOLDER`: text encoders, language models and image networks that `save_pretrained` wrote."""

# Types of modules' parts and of transformers' configurations say less than tests know.
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportAssignmentType=false

from __future__ import annotations

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
from bequest.sources.checks import explained
from bequest.sources.source import Source

SIZES: dict[str, Any] = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
TEXT: dict[str, Any] = {
    **SIZES,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "num_labels": 3,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
DISTIL = T.DistilBertConfig(vocab_size=20, dim=16, n_layers=2, n_heads=2, hidden_dim=32, num_labels=3, pad_token_id=0)
GPT2: dict[str, Any] = {"vocab_size": 20, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40, "bos_token_id": 1}
T5: dict[str, Any] = {
    "vocab_size": 20,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
    "pad_token_id": 0,
}
DEBERTA: dict[str, Any] = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "norm_rel_ebd": "layer_norm"}

BODIES: dict[str, tuple[Callable[[], Any], str]] = {
    "BERT": (lambda: T.BertModel(T.BertConfig(**TEXT)), "cls"),
    "BERT with its language model's head": (lambda: T.BertForMaskedLM(T.BertConfig(**TEXT)), "cls"),
    "RoBERTa": (lambda: T.RobertaModel(T.RobertaConfig(**TEXT)), "cls"),
    "DistilBERT": (lambda: T.DistilBertModel(DISTIL), "cls"),
    "DeBERTa": (lambda: T.DebertaV2Model(T.DebertaV2Config(**TEXT, **DEBERTA)), "cls"),
    "ELECTRA": (lambda: T.ElectraModel(T.ElectraConfig(**TEXT, embedding_size=16)), "cls"),
    "MPNet": (lambda: T.MPNetModel(T.MPNetConfig(**TEXT)), "cls"),
    "ALBERT": (lambda: T.AlbertModel(T.AlbertConfig(**TEXT, embedding_size=16)), "cls"),
    "Llama": (lambda: T.LlamaModel(T.LlamaConfig(**TEXT)), "last"),
    "Llama with its head": (lambda: T.LlamaForCausalLM(T.LlamaConfig(**TEXT)), "last"),
    "Qwen2": (lambda: T.Qwen2Model(T.Qwen2Config(**TEXT, num_key_value_heads=2)), "last"),
    "GPT-2": (lambda: T.GPT2Model(T.GPT2Config(**GPT2, eos_token_id=1)), "last"),
    "T5": (lambda: T.T5Model(T.T5Config(**T5, decoder_start_token_id=0)), "mean"),
}
CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "BERT": lambda: T.BertForSequenceClassification(T.BertConfig(**TEXT)),
    "RoBERTa": lambda: T.RobertaForSequenceClassification(T.RobertaConfig(**TEXT)),
    "DistilBERT": lambda: T.DistilBertForSequenceClassification(DISTIL),
    "DeBERTa": lambda: T.DebertaV2ForSequenceClassification(T.DebertaV2Config(**TEXT)),
    "Llama": lambda: T.LlamaForSequenceClassification(T.LlamaConfig(**TEXT)),
    "GPT-2": lambda: T.GPT2ForSequenceClassification(
        T.GPT2Config(**GPT2, eos_token_id=1, pad_token_id=0, num_labels=3)
    ),
}
VIT: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 3,
}
SWIN: dict[str, Any] = {
    "image_size": 32,
    "embed_dim": 8,
    "depths": [1, 2],
    "num_heads": [2, 2],
    "window_size": 4,
    "num_labels": 3,
}
IMAGES: dict[str, Callable[[], Any]] = {
    "ViT": lambda: T.ViTForImageClassification(T.ViTConfig(**VIT)),
    "DINOv2": lambda: T.Dinov2ForImageClassification(T.Dinov2Config(**VIT)),
    "ResNet": lambda: T.ResNetForImageClassification(
        T.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], num_labels=3)
    ),
    "ConvNeXt": lambda: T.ConvNextForImageClassification(
        T.ConvNextConfig(num_stages=2, hidden_sizes=[8, 16], depths=[1, 2], num_labels=3)
    ),
    "Swin": lambda: T.SwinForImageClassification(
        T.SwinConfig(
            image_size=32, patch_size=4, embed_dim=8, depths=[1, 2], num_heads=[2, 2], window_size=4, num_labels=3
        )
    ),
}
PROCESSOR: dict[str, Any] = {
    "size": {"height": 32, "width": 32},
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
}


def run(network: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    with torch.no_grad():
        return network.eval()(*inputs)


def check_source(source: Source) -> tuple[torch.Tensor, ...]:
    """What holds for every source; returns a batch."""
    inputs = source.example()
    assert inputs is not None
    embedding = run(source.body, inputs)
    assert embedding.shape == (len(inputs[0]), source.width)
    assert [n for layer in source.layers for n in layer.parameters]
    assert source.fingerprint == sources.get(source.request["name"]).fingerprint
    twin = source.scratch(3)
    assert [tuple(p.shape) for p in twin.parameters()] == [tuple(p.shape) for p in source.network().parameters()]
    assert torch.equal(run(twin, inputs), run(source.scratch(3), inputs))
    assert not torch.equal(run(source.scratch(4).body, inputs), run(twin.body, inputs))
    again = sources.from_description(
        source.name,
        {"network": json.loads(json.dumps(source.description)), "preprocess": source.preprocess.describe()},
        Path(source.request["name"].removeprefix("hf:")),
    )
    network = again.scratch(0)
    network.body.load_state_dict(source.body.state_dict())
    assert torch.equal(run(network.body, inputs), embedding)
    trained = source.network()
    (trained.requires_grad_(True)(*inputs).sum()).backward()
    # Only training from masked images reads DINOv2's mask token.
    without = [n for n, p in trained.body.named_parameters() if p.grad is None and not n.endswith("mask_token")]
    assert not without, f"no gradient reaches {without}"
    return inputs


@pytest.mark.parametrize("name", BODIES)
def test_text_bodies(name: str, save: Any):
    make, pooling = BODIES[name]
    model = make().eval()
    source = sources.get(f"hf:{save(model)}")
    ids, mask = check_source(source)
    assert isinstance(source.network().head, nn.Identity)

    base = model.base_model if hasattr(model, "lm_head") or hasattr(model, "cls") else model
    encoder = base.get_encoder() if name == "T5" else base
    hidden = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    last = mask.sum(1) - 1
    weights = mask.unsqueeze(-1).float()
    expected = {
        "cls": hidden[:, 0],
        "last": hidden[torch.arange(len(ids)), last],
        "mean": (hidden * weights).sum(1) / weights.sum(1),
    }
    assert torch.allclose(run(source.body, (ids, mask)), expected[pooling], atol=1e-6)


@pytest.mark.parametrize("name", BODIES)
def test_padding_changes_nothing(name: str, save: Any):
    source = sources.get(f"hf:{save(BODIES[name][0]())}")
    short, long = (source.preprocess.encode(t) for t in ("soup bread", "ball goal team match referee salt"))
    together = run(source.body, source.preprocess.collate([short, long]))
    alone = run(source.body, source.preprocess.collate([short]))
    assert torch.allclose(together[:1], alone, atol=1e-5)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_text_classifiers_keep_their_head(name: str, save: Any):
    model = CLASSIFIERS[name]().eval()
    source = sources.get(f"hf:{save(model)}")
    inputs = check_source(source)
    network = source.network()
    assert isinstance(network.head, nn.Linear) and network.head.out_features == 3
    theirs = model(input_ids=inputs[0], attention_mask=inputs[1]).logits
    assert torch.allclose(run(network, inputs), theirs, atol=1e-6)


@pytest.mark.parametrize("name", IMAGES)
def test_image_classifiers(name: str, save: Any):
    model = IMAGES[name]().eval()
    source = sources.get(f"hf:{save(model, tokenizer=False, preprocessor_config=PROCESSOR)}")
    inputs = check_source(source)
    network = source.network()
    assert isinstance(network.head, nn.Linear) and network.head.out_features == 3
    assert torch.allclose(run(network, inputs), model(pixel_values=inputs[0]).logits, atol=1e-5)


@pytest.mark.parametrize("name", IMAGES)
def test_image_bodies_pool_as_their_classifiers_do(name: str, save: Any):
    model = IMAGES[name]().eval()
    whole = sources.get(f"hf:{save(model, 'whole', tokenizer=False, preprocessor_config=PROCESSOR)}")
    bare = sources.get(f"hf:{save(model.base_model, 'bare', tokenizer=False, preprocessor_config=PROCESSOR)}")
    assert isinstance(bare.network().head, nn.Identity)
    inputs = bare.example()
    assert inputs
    assert torch.equal(run(bare.body, inputs), run(whole.body, inputs))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"size": {"height": 32, "width": 32}}, {"size": 32, "resize": 32, "squash": True}),
        ({"size": 32}, {"size": 32, "resize": 32, "squash": True}),
        ({"size": 40, "do_center_crop": True, "crop_size": 32}, {"size": 32, "resize": 40}),
        (
            {"size": {"shortest_edge": 36}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}},
            {"size": 32, "resize": 36},
        ),
        ({"size": {"shortest_edge": 32}, "crop_pct": 0.875}, {"size": 32, "resize": 36}),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, {"size": 384, "resize": 384, "squash": True}),
        ({"size": 32, "resample": 3}, {"size": 32, "resize": 32, "squash": True, "interpolation": "bicubic"}),
        (
            {"size": 32, "do_normalize": False},
            {"size": 32, "resize": 32, "squash": True, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)},
        ),
    ],
)
def test_image_processors(settings: dict[str, Any], expected: dict[str, Any], save: Any):
    model = IMAGES["ResNet"]()
    written = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "resample": 2, **settings}
    source = sources.get(f"hf:{save(model, tokenizer=False, preprocessor_config=written)}")
    usual = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "interpolation": "bilinear"}
    described = source.preprocess.describe()
    assert {k: described[k] for k in {**usual, **expected}} == {**usual, **expected}


def test_pixels_are_transformers_own(save: Any):
    import numpy as np
    from PIL import Image

    processor = T.ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.25] * 3)
    folder = save(IMAGES["ViT"](), tokenizer=False)
    processor.save_pretrained(folder)
    source = sources.get(f"hf:{folder}")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    [ours] = source.preprocess.collate([source.preprocess.encode(image)])
    theirs = processor(image, return_tensors="pt")["pixel_values"]
    # One step of 8 bits, which resizing by torch and by PIL may differ in.
    assert (ours - theirs).abs().max() <= 1 / 255 / 0.25 + 1e-6


@pytest.mark.parametrize(
    ("settings", "pooling"),
    [
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "include_prompt": True}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "mean", "embedding_dimension": 16}, "mean"),
    ],
)
def test_sentence_encoders_say_how_they_pool(settings: dict[str, Any], pooling: str, save: Any):
    folder = save(T.BertModel(T.BertConfig(**TEXT)), **{"1_Pooling__config": settings})
    assert sources.get(f"hf:{folder}").description["pooling"] == pooling
    assert sources.get(f"hf:{folder}", pooling="cls").description["pooling"] == "cls"


def test_pooling_that_is_not_known_is_told(save: Any):
    folder = save(T.BertModel(T.BertConfig(**TEXT)), **{"1_Pooling__config": {"pooling_mode": "max"}})
    with pytest.raises(SourceError, match=r"pooling max; expected mean, cls or lasttoken.*pooling='mean'"):
        sources.get(f"hf:{folder}")
    with pytest.raises(SourceError, match="pooling is 'max', expected mean, cls, last"):
        sources.get(f"hf:{folder}", pooling="max")


def test_token_limits(save: Any):
    bert = f"hf:{save(T.BertModel(T.BertConfig(**TEXT)), 'bert')}"
    assert sources.get(bert).preprocess.describe()["max_tokens"] == 40
    assert sources.get(bert, max_tokens=7).preprocess.describe()["max_tokens"] == 7
    with pytest.raises(SourceError, match="--max-tokens is 41, expected from 2 to 40, the positions that"):
        sources.get(bert, max_tokens=41)
    roberta = f"hf:{save(T.RobertaModel(T.RobertaConfig(**{**TEXT, 'pad_token_id': 1})), 'roberta')}"
    assert sources.get(roberta).preprocess.describe()["max_tokens"] == 38
    longest = sources.get(roberta)
    run(longest.body, longest.preprocess.collate([longest.preprocess.encode("ball " * 90)]))
    long = {**TEXT, "max_position_embeddings": 4000}
    assert (
        sources.get(f"hf:{save(T.LlamaModel(T.LlamaConfig(**long)), 'llama')}").preprocess.describe()["max_tokens"]
        == 128
    )


@pytest.mark.parametrize(
    ("config", "files", "token"),
    [
        ({"pad_token_id": 2}, {}, "ball"),
        ({"pad_token_id": None}, {"tokenizer_config": {"pad_token": "goal"}}, "goal"),
        ({"pad_token_id": None}, {"tokenizer_config": {"pad_token": {"content": "goal"}}}, "goal"),
        ({"pad_token_id": None, "eos_token_id": 4}, {}, "team"),
        ({"pad_token_id": None, "eos_token_id": [4, 5]}, {}, "team"),
    ],
)
def test_a_padding_token_is_always_found(config: dict[str, Any], files: dict[str, Any], token: str, save: Any):
    model = T.LlamaModel(T.LlamaConfig(**{**TEXT, **config}))
    assert sources.get(f"hf:{save(model, **files)}").preprocess.describe()["pad_token"] == token


def test_half_precision_weights_are_read_as_float32(save: Any):
    source = sources.get(f"hf:{save(T.BertModel(T.BertConfig(**TEXT)).to(torch.float16))}")
    assert {p.dtype for p in source.body.parameters()} == {torch.float32}
    assert {p.dtype for p in source.scratch(0).parameters()} == {torch.float32}


def test_what_cannot_be_had_is_told(tmp_path: Path, save: Any):
    with pytest.raises(SourceError, match=r"'hf:nobody/nothing' cannot be loaded .*Check the name and the connection"):
        sources.get("hf:nobody/nothing")
    with pytest.raises(SourceError, match="cannot be loaded"):
        sources.get(f"hf:{tmp_path / 'missing'}")
    folder = save(T.BertModel(T.BertConfig(**TEXT)), tokenizer=False)
    with pytest.raises(SourceError, match=r"has no tokenizer\.json, and its tokenizer cannot be converted"):
        sources.get(f"hf:{folder}")
    (folder / "model.safetensors").unlink()
    (folder / "tokenizer.json").write_text(
        (save(T.BertModel(T.BertConfig(**TEXT)), "other") / "tokenizer.json").read_text()
    )
    with pytest.raises(SourceError, match="cannot be loaded"):
        sources.get(f"hf:{folder}").network()
    assert sources.get(f"hf:{folder}", pretrained=False).network()
    images = save(IMAGES["ViT"](), "images", tokenizer=False)
    with pytest.raises(SourceError, match=r"has no preprocessor_config\.json"):
        sources.get(f"hf:{images}")


def test_weights_that_are_missing_are_told(save: Any):
    model = T.BertModel(T.BertConfig(**TEXT))
    folder = save(model)
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    del state["encoder.layer.1.output.dense.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SourceError, match=r"lack 1 of the network's weights \(encoder\.layer\.1\.output"):
        sources.get(f"hf:{folder}").network()


def test_heads_by_name(save: Any):
    folder = save(CLASSIFIERS["RoBERTa"]())
    source = sources.get(f"hf:{folder}", head="classifier.dense")
    assert source.network().head.out_features == 16
    with pytest.raises(SourceError, match="has no head of its own"):
        sources.get(f"hf:{save(BODIES['BERT'][0](), 'bare')}", head="classifier").network()


def test_image_sizes(save: Any):
    resnet = save(IMAGES["ResNet"](), "resnet", tokenizer=False, preprocessor_config=PROCESSOR)
    assert sources.get(f"hf:{resnet}", image_size=64).example()[0].shape == (3, 3, 64, 64)
    vit = save(IMAGES["ViT"](), "vit", tokenizer=False, preprocessor_config=PROCESSOR)
    with pytest.raises(SourceError, match="has learned positions for 32 px alone"):
        sources.get(f"hf:{vit}", image_size=64)


def test_images_smaller_than_a_window(save: Any):
    processor = {**PROCESSOR, "size": {"height": 16, "width": 16}}
    swin = save(IMAGES["Swin"](), "swin", tokenizer=False, preprocessor_config=processor)
    with pytest.raises(SourceError, match=r"does not take images of 16 px .*patches or windows"):
        sources.get(f"hf:{swin}")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", "no weights"),
        ("config.json", "[]"),
        ("config.json", '{"model_type": "bert", "hidden_size": "x", "vocab_size": 20}'),
        ("config.json", '{"model_type": "bert", "hidden_size": 16, "num_attention_heads": 0}'),
        ("config.json", '{"model_type": "bert", "vocab_size": 1e400}'),
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", "[]"),
        ("1_Pooling/config.json", "[]"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "../given/model.safetensors"}}'),
        ("model.safetensors.index.json", "[]"),
    ],
)
def test_folders_that_nobody_saved_are_named(file: str, content: str, save: Any):
    folder = save(T.BertModel(T.BertConfig(**TEXT)))
    (folder / "1_Pooling").mkdir()
    (folder / file).write_text(content)
    with pytest.raises(SourceError, match=r"model"):
        sources.get(f"hf:{folder}").network()


def test_an_index_of_weights_names_files_of_its_folder_alone(save: Any):
    given = save(T.BertModel(T.BertConfig(**TEXT)), "given")
    names = [name for name, _ in T.BertModel(T.BertConfig(**TEXT)).named_parameters()]
    folder = save(T.BertModel(T.BertConfig(**TEXT)))
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "../given/model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    with pytest.raises(SourceError, match=r"index\.json names '\.\./given/model\.safetensors' as a file of weights"):
        sources.get(f"hf:{folder}").network()
    (given / "model.safetensors").rename(folder / "part.safetensors")
    index["weight_map"] = dict.fromkeys(names, "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert sources.get(f"hf:{folder}").network()


def test_an_error_without_text_is_told_by_its_kind():
    with pytest.raises(SourceError, match=r"cannot be loaded \(AssertionError\)"), explained("hf:x", "the hub"):
        raise AssertionError
