"""Folders that the library loads which the source is from: `hf` and `timm`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bequest.core.errors import RunError
from bequest.engine.adapted import AdaptedModel
from bequest.engine.formats.format import Format, Outputs, input_names
from bequest.engine.formats.whole import whole
from bequest.nn.language import IGNORED
from bequest.sources.language import LanguagePreprocess
from bequest.sources.preprocess import ImagePreprocess, TextPreprocess
from bequest.sources.transformers import generator

_PROBLEMS = {
    "classification": "single_label_classification",
    "multi-label": "multi_label_classification",
    "regression": "regression",
}
"""What transformers calls the kinds of task."""

_OTHERS = "Formats that can: onnx, torch-export, safetensors."


def _write_hf(model: AdaptedModel, folder: Path, _: str) -> list[str]:
    made = _transformers_model(model)
    made.save_pretrained(folder)
    preprocess = model.source.preprocess
    if isinstance(preprocess, ImagePreprocess):
        _image_processor(preprocess).save_pretrained(folder)
    elif isinstance(preprocess, TextPreprocess | LanguagePreprocess):
        _tokenizer(preprocess).save_pretrained(folder)
    return [f"Load it: transformers.{_auto_class(model).__name__}.from_pretrained({str(folder.name)!r})."]


def _read_hf(model: AdaptedModel, folder: Path, _: str) -> Outputs:
    made = _auto_class(model).from_pretrained(folder, dtype=torch.float32).eval()
    if model.kind == "causal-lm":
        return lambda batch: _likelihood(made, *batch)
    names = input_names(model)
    return lambda batch: made(**dict(zip(names, batch, strict=True))).logits


def _transformers_model(model: AdaptedModel) -> Any:
    about = model.source.description
    if about.get("kind") != "transformers":
        raise RunError(
            f"{model.source.name!r} cannot be written as hf: it is no model of transformers; expected a source that "
            f"is. {_OTHERS}" + (" Its own library's: timm." if about.get("kind") == "timm" else "")
        )
    if model.kind == "causal-lm" and not about.get("cuts"):
        return generator(model.network, about)
    made: Any = whole(model.network)
    if made is None:
        raise RunError(f"{model.source.name!r} cannot be written as hf: {_misfit(model)} {_OTHERS}")
    made.config.id2label = dict(enumerate(model.classes))
    made.config.label2id = {name: i for i, name in enumerate(model.classes)}
    made.config.problem_type = _PROBLEMS[model.kind]
    made.num_labels = len(model.classes)
    return made


def _misfit(model: AdaptedModel) -> str:
    about, head = model.source.description, model.network.head
    if type(head) is not nn.Linear:
        return f"its head is a {type(head).__name__}; transformers' own classes have one linear layer there."
    if about.get("form", "pooled") == "pooled" and not about.get("cuts"):
        pooling = {"mean": "the mean over the tokens", "cls": "the first token", "last": "the last token"}
        told = pooling.get(str(about.get("pooling")), "our pooling")
        return (
            f"its head takes {told} of the last hidden states, and transformers' own classifier of this network puts "
            "other layers, or no bias, between the two."
        )
    if model.network.origin.path:
        return "its head has a bias; transformers' own classifier of a language model has none."
    return "its body ends at another layer than the original's, which transformers' own classes do not know."


def _auto_class(model: AdaptedModel) -> Any:
    import transformers

    if model.kind == "causal-lm":
        return transformers.AutoModelForCausalLM
    is_image = model.source.modality == "image"
    return transformers.AutoModelForImageClassification if is_image else transformers.AutoModelForSequenceClassification


def _tokenizer(preprocess: TextPreprocess | LanguagePreprocess) -> Any:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    text = preprocess.text if isinstance(preprocess, LanguagePreprocess) else preprocess
    made = Tokenizer.from_str(text.tokenizer_json)
    made.no_padding()
    made.no_truncation()
    end = preprocess.end_token if isinstance(preprocess, LanguagePreprocess) else ""
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token=text.pad_token,
        model_max_length=text.max_tokens,
        model_input_names=["input_ids", "attention_mask"],
        **({"eos_token": end} if end else {}),
    )


def _image_processor(preprocess: ImagePreprocess) -> Any:
    from PIL import Image
    from transformers import CLIPImageProcessor

    resize = preprocess.resize or int(preprocess.size / preprocess.crop)
    size = {"height": resize, "width": resize} if preprocess.squash else {"shortest_edge": resize}
    return CLIPImageProcessor(
        size=size,
        crop_size={"height": preprocess.size, "width": preprocess.size},
        resample=Image.Resampling[preprocess.interpolation.upper()],
        image_mean=list(preprocess.mean),
        image_std=list(preprocess.std),
    )


def _likelihood(made: Any, ids: Tensor, targets: Tensor) -> Tensor:
    """As a language model's network gives it: each window's negative log-likelihood, and of how many tokens."""
    logits = made(input_ids=ids, use_cache=False).logits
    losses = nn.functional.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")
    return torch.stack([losses.sum(1), (targets != IGNORED).sum(1).float()], 1)


def _write_timm(model: AdaptedModel, folder: Path, _: str) -> list[str]:
    from timm.models import save_for_hf

    about, preprocess = model.source.description, model.source.preprocess
    if about.get("kind") != "timm":
        raise RunError(
            f"{model.source.name!r} cannot be written as timm: it is no network of timm; expected a source that is. "
            f"{_OTHERS}"
        )
    made: Any = whole(model.network)
    if made is None:
        raise RunError(
            f"{model.source.name!r} cannot be written as timm: its head is no linear layer in timm's place for it, or "
            f"its body is cut or read inside; expected timm's network with another last layer. {_OTHERS}"
        )
    assert isinstance(preprocess, ImagePreprocess)
    made.num_classes = len(model.classes)
    shown = {
        "input_size": (3, preprocess.size, preprocess.size),
        "mean": preprocess.mean,
        "std": preprocess.std,
        "interpolation": preprocess.interpolation,
        "crop_pct": preprocess.crop,
        "crop_mode": "squash" if preprocess.squash else "center",
        "num_classes": len(model.classes),
        **dict.fromkeys(("test_input_size", "test_crop_pct", "label_offset")),
    }
    config = {"pretrained_cfg": shown, "label_names": list(model.classes), "model_args": about.get("arguments", {})}
    save_for_hf(made, str(folder), config, safe_serialization=True)
    return [
        f"Load it: {_timm_call(model, folder.name)}; or timm.create_model('local-dir:{folder.name}', pretrained=True)."
    ]


def _timm_call(model: AdaptedModel, folder: str) -> str:
    about = model.source.description
    more = "".join(f", {name}={value!r}" for name, value in about.get("arguments", {}).items())
    return (
        f"timm.create_model({about['architecture']!r}, num_classes={len(model.classes)}{more}, "
        f"checkpoint_path='{folder}/model.safetensors')"
    )


def _read_timm(model: AdaptedModel, folder: Path, _: str) -> Outputs:
    import timm

    about = model.source.description
    by_file = timm.create_model(
        about["architecture"],
        num_classes=len(model.classes),
        checkpoint_path=str(folder / "model.safetensors"),
        **about.get("arguments", {}),
    ).eval()
    by_folder = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()

    def outputs(batch: tuple[Tensor, ...]) -> Tensor:
        one, other = by_file(*batch), by_folder(*batch)
        # Either way is users'; where they differ, neither is what was asked for.
        return torch.where(one == other, one, torch.nan)

    return outputs


HF = Format("hf", "", "transformers", ("transformers",), "", _write_hf, _read_hf)
TIMM = Format("timm", "", "timm", ("timm",), "", _write_timm, _read_timm)
