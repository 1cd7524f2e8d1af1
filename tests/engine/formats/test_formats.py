"""Models written for other tools compute there what they compute here."""

# Types of modules' parts and of transformers' configurations say less than tests know.
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import tiny
import torch
import transformers as T
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from bequest.core.errors import RunError
from bequest.engine.adapted import AdaptedModel
from bequest.engine.formats import FORMATS, ship
from bequest.nn.network import Network
from bequest.sources import get
from bequest.sources import timm as timm_sources
from bequest.sources import transformers as transformers_sources
from bequest.sources.preprocess import ImagePreprocess, TextPreprocess
from bequest.sources.source import Source

CLASSES = ("sport", "food", "music")
RECORD = {"method": "full", "seed": 3}


def model_of(source: Source, kind: Any = "classification", head: nn.Module | None = None) -> AdaptedModel:
    torch.manual_seed(1)
    network = source.scratch(5)
    network.head = (head or nn.Linear(source.width, 3)).eval()
    return AdaptedModel(network.requires_grad_(False), source, CLASSES, RECORD, kind)


def texts() -> list[str]:
    task = tiny.text_task(20)
    return [task.samples[i] for i in range(20)]


@pytest.fixture(scope="module")
def text_model() -> AdaptedModel:
    return model_of(tiny.text_source())


def image_source(size: int = 32) -> Source:
    preprocess = ImagePreprocess(size, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), crop=0.9, interpolation="bilinear")
    description = {"kind": "timm", "architecture": "test_resnet", "arguments": {}, "head": None}
    return timm_sources.from_description("tiny_timm", description, preprocess)


def photos() -> list[Any]:
    task = tiny.photo_task(40, 36)
    return [task.samples[i] for i in range(10)]


def test_onnx_takes_any_batch_and_any_length(text_model: AdaptedModel, tmp_path: Path) -> None:
    import onnxruntime
    from tokenizers import Tokenizer

    check, notes = ship(text_model, tmp_path / "model.onnx", FORMATS["onnx"], texts())
    assert check.num_samples == 20 and check.difference <= check.allowed and not notes
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "tokenizer.json"]
    assert b"site-packages" not in (tmp_path / "model.onnx").read_bytes()

    # As one who has the two files and neither Bequest nor PyTorch would use them.
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    about = {k: v for k, v in session.get_modelmeta().custom_metadata_map.items() if k != "preprocess"}
    prepared = json.loads(session.get_modelmeta().custom_metadata_map["preprocess"])
    assert json.loads(about["labels"]) == list(CLASSES)
    assert (about["kind"], about["outputs"], about["method"], about["seed"]) == (
        "classification",
        "logits",
        "full",
        "3",
    )
    assert (prepared["max_tokens"], prepared["pad_id"], prepared["vocabulary"]["file"]) == (16, 0, "tokenizer.json")
    assert [(i.name, i.shape) for i in session.get_inputs()] == [
        ("input_ids", ["batch", "tokens"]),
        ("attention_mask", ["batch", "tokens"]),
    ]
    tokenizer = Tokenizer.from_file(str(tmp_path / prepared["vocabulary"]["file"]))
    tokenizer.enable_truncation(prepared["max_tokens"])
    tokenizer.enable_padding(pad_id=prepared["pad_id"], pad_token=prepared["pad_token"])
    for batch in (["ball"], ["ball goal soup " * 9, "the oven"], texts()):
        encoded = tokenizer.encode_batch(batch)
        ids, mask = (np.array([getattr(e, n) for e in encoded]) for n in ("ids", "attention_mask"))
        [logits] = session.run(None, {"input_ids": ids, "attention_mask": mask})
        torch.testing.assert_close(torch.from_numpy(logits), text_model.outputs(batch), rtol=1e-4, atol=1e-5)


def test_a_program_of_torch(text_model: AdaptedModel, tmp_path: Path) -> None:
    ship(text_model, tmp_path / "model.pt2", FORMATS["torch-export"], texts())
    held = {"bequest.json": ""}
    made = torch.export.load(tmp_path / "model.pt2", extra_files=held).module()
    assert json.loads(held["bequest.json"])["labels"] == list(CLASSES)
    preprocess = text_model.source.preprocess
    for batch in (["ball"], texts()):
        inputs = preprocess.collate([preprocess.encode(text) for text in batch])
        torch.testing.assert_close(made(*inputs), text_model.outputs(batch), rtol=1e-5, atol=1e-6)


def test_a_state_dict_has_the_originals_names_where_it_can(text_model: AdaptedModel, tmp_path: Path) -> None:
    model = model_of(tiny.image_source())
    samples = [tiny.image_task(9).samples[i] for i in range(9)]
    _, notes = ship(model, tmp_path / "image.safetensors", FORMATS["safetensors"], samples)
    assert notes == ["Its tensors have the names that tiny_conv gives them, the head included."]
    state = load_file(tmp_path / "image.safetensors")
    assert state.keys() == {
        *(n.removeprefix("body.") for n in model.network.body.state_dict(prefix="body.")),
        "fc.weight",
        "fc.bias",
    }
    assert torch.equal(state["fc.weight"], model.network.head.weight)

    _, notes = ship(text_model, tmp_path / "text.safetensors", FORMATS["safetensors"], texts())
    assert notes == ["Its tensors are called body.… and head.…: tiny_bert has no place for this head."]
    assert load_file(tmp_path / "text.safetensors").keys() == text_model.network.state_dict().keys()
    with safe_open(tmp_path / "text.safetensors", "pt") as file:
        about = json.loads(file.metadata()["bequest"])
    assert about["names"] == "body, head" and about["labels"] == list(CLASSES)


def test_timm_loads_its_folder(tmp_path: Path) -> None:
    model = model_of(image_source())
    _, [note] = ship(model, tmp_path / "made", FORMATS["timm"], photos())
    made = timm.create_model(f"local-dir:{tmp_path / 'made'}", pretrained=True).eval()
    assert made.pretrained_cfg["label_names"] == list(CLASSES) or made.pretrained_cfg["num_classes"] == 3
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(made), is_training=False)
    with torch.no_grad():
        outputs = made(torch.stack([transform(photo) for photo in photos()]))
    torch.testing.assert_close(outputs, model.outputs(photos()), rtol=1e-3, atol=1e-4)
    assert note.startswith("Load it: timm.create_model('test_resnet', num_classes=3")


def test_transformers_loads_its_folder(tmp_path: Path) -> None:
    config = T.BertConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, pad_token_id=0
    )
    description = {"kind": "transformers", "config": config.to_dict(), "form": "classifier", "pooling": "cls"}
    text = TextPreprocess(tiny.tokenizer_json(), max_tokens=16)
    model = model_of(transformers_sources.from_description("tiny_classifier", description, text))
    ship(model, tmp_path / "made", FORMATS["hf"], texts())
    made = T.AutoModelForSequenceClassification.from_pretrained(tmp_path / "made").eval()
    assert made.config.id2label == dict(enumerate(CLASSES))
    assert made.config.problem_type == "single_label_classification"
    tokenizer = T.AutoTokenizer.from_pretrained(tmp_path / "made")
    with torch.no_grad():
        outputs = made(**tokenizer(texts(), truncation=True, padding=True, return_tensors="pt")).logits
    torch.testing.assert_close(outputs, model.outputs(texts()), rtol=1e-4, atol=1e-5)


def test_transformers_loads_an_image_model(tmp_path: Path) -> None:
    config = T.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=16
    )
    description = {"kind": "transformers", "config": config.to_dict(), "form": "image", "head": None}
    images = ImagePreprocess(32, (0.5,) * 3, (0.5,) * 3, interpolation="bilinear", resize=32, squash=True)
    model = model_of(transformers_sources.from_description("tiny_vit", description, images), "multi-label")
    ship(model, tmp_path / "made", FORMATS["hf"], photos())
    made = T.AutoModelForImageClassification.from_pretrained(tmp_path / "made").eval()
    assert made.config.problem_type == "multi_label_classification"
    processor = T.AutoImageProcessor.from_pretrained(tmp_path / "made")
    with torch.no_grad():
        outputs = made(**processor(photos(), return_tensors="pt")).logits
    # The library's own resizing rounds otherwise than Pillow's.
    torch.testing.assert_close(outputs, model.outputs(photos()), rtol=0.05, atol=0.05)


def test_transformers_loads_a_language_model(tmp_path: Path) -> None:
    source = tiny.language_source()
    model = AdaptedModel(source.network(), source, (), RECORD, "causal-lm")
    windows = source.preprocess.windows("ball goal team match referee the a of soup bread salt")
    ship(model, tmp_path / "made", FORMATS["hf"], windows)
    made = T.AutoModelForCausalLM.from_pretrained(tmp_path / "made").eval()
    ids = T.AutoTokenizer.from_pretrained(tmp_path / "made")("ball goal", return_tensors="pt").input_ids
    whole = made.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert (
        source.preprocess.decode(whole[0, ids.shape[1] :].tolist())
        == model.generate(["ball goal"], max_new_tokens=5)[0]
    )
    for name in ("onnx", "torch-export"):
        with pytest.raises(RunError, match=r"what continues a text is a loop .* Use --format hf"):
            ship(model, tmp_path / f"model{FORMATS[name].suffix}", FORMATS[name], windows)


def test_models_that_a_library_has_no_place_for(text_model: AdaptedModel, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"'tiny_bert' cannot be written as hf: its head takes the mean over the tokens"):
        ship(text_model, tmp_path / "made", FORMATS["hf"], texts())
    with pytest.raises(RunError, match="'tiny_bert' cannot be written as timm: it is no network of timm"):
        ship(text_model, tmp_path / "made", FORMATS["timm"], texts())
    model = model_of(image_source(), head=nn.Sequential(nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 3)))
    with pytest.raises(RunError, match=r"cannot be written as hf: it is no model of transformers; .* library's: timm"):
        ship(model, tmp_path / "made", FORMATS["hf"], photos())
    with pytest.raises(RunError, match=r"its head is no linear layer in timm's place for it"):
        ship(model, tmp_path / "made", FORMATS["timm"], photos())
    assert not list(tmp_path.iterdir())


def test_nothing_is_kept_of_a_file_that_computes_otherwise(text_model: AdaptedModel, tmp_path: Path) -> None:
    form = FORMATS["safetensors"]

    def shifted(model: AdaptedModel, folder: Path, name: str) -> Any:
        outputs = form.read(model, folder, name)
        return lambda batch: outputs(batch) + 0.01

    def lost(model: AdaptedModel, folder: Path, name: str) -> Any:
        return lambda batch: torch.full((len(batch[0]), 3), torch.nan)

    for read, told in ((shifted, r"by 0\.01 on 20 samples; expected at most 0\.0001"), (lost, "by nan on 20 samples")):
        with pytest.raises(RunError, match=f"differs from PyTorch {told}.*Nothing was kept"):
            ship(text_model, tmp_path / "model.safetensors", replace(form, read=read), texts())

    def refused(model: AdaptedModel, folder: Path, name: str) -> Any:
        raise ValueError("an operation that I do not know\nand more")

    with pytest.raises(RunError, match=r"load_file cannot use what was written .*\(an operation that I do not know\)"):
        ship(text_model, tmp_path / "model.safetensors", replace(form, read=refused), texts())
    assert not list(tmp_path.iterdir())
    check, _ = ship(text_model, tmp_path / "model.safetensors", replace(form, read=shifted), texts(), tolerance=0.02)
    assert check.difference == pytest.approx(0.01, abs=1e-5)


def test_another_models_tokenizer_is_not_replaced(text_model: AdaptedModel, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(RunError, match=r"tokenizer\.json is there already and is not this model's"):
        ship(text_model, tmp_path / "model.safetensors", FORMATS["safetensors"], texts())
    assert (tmp_path / "tokenizer.json").read_text() == "{}" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(RunError, match="There is no sample to try the file on"):
        ship(text_model, tmp_path / "model.safetensors", FORMATS["safetensors"], [])


class Asks(nn.Module):
    """Goes by its inputs' values, which no graph can hold."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if float(x.sum()) > 0 else x


def test_a_network_that_is_no_graph(tmp_path: Path) -> None:
    from bequest.sources import from_module

    source = from_module(nn.Sequential(Asks(), nn.Linear(4, 3)))
    network = source.network()
    assert isinstance(network, Network)
    model = AdaptedModel(network, source, CLASSES, RECORD)
    with pytest.raises(RunError, match=r"torch\.export can make no graph of 'Sequential' .* Use --format safetensors"):
        ship(model, tmp_path / "model.pt2", FORMATS["torch-export"], list(np.eye(4, dtype=np.float32)))


@pytest.mark.parametrize(
    ("source", "formats"),
    [
        ("minilm_l6", ("onnx",)),
        pytest.param("efficientnet_lite0", ("onnx", "timm"), marks=pytest.mark.slow),
    ],
)
def test_real_weights(source: str, formats: tuple[str, ...], tmp_path: Path) -> None:
    found = get(source)
    model = model_of(replace(found, untrained=found.network))
    samples: list[Any] = ["arrived broken", "nobody answers, and the parcel is late"] if "mini" in source else photos()
    for name in formats:
        form = FORMATS[name]
        check, _ = ship(model, tmp_path / f"{name}{form.suffix}", form, samples)
        assert check.difference < 1e-4
