"""Text encoders, language models with and without their own heads, and image networks of the transformers library."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bequest.core.errors import SourceError
from bequest.core.parse import parse_json
from bequest.core.task import Kind
from bequest.nn.head import find_head
from bequest.nn.language import IGNORED, LanguageModel, Vocabulary
from bequest.nn.network import Network, Origin
from bequest.nn.pooling import TEXT_POOLINGS, pool_tokens
from bequest.sources.checks import (
    check_image_size,
    check_indexes,
    check_numbers,
    embedding_width,
    explained,
    few_parts,
    refuse,
)
from bequest.sources.gguf_header import check_gguf
from bequest.sources.head import split
from bequest.sources.image_processor import image_preprocess
from bequest.sources.language import LanguagePreprocess
from bequest.sources.preprocess import ImagePreprocess, Preprocess
from bequest.sources.source import Source
from bequest.sources.tokenizer import Files, end_token, sentence_pooling, text_preprocess

DEFAULT_MAX_TOKENS = 128
_TRIED_TOKENS = 8
_NO_CODE = {"trust_remote_code": False}
"""Python code that a model's folder brings along is neither run nor asked about."""
_SHAPE = ("num_hidden_layers", "hidden_size", "num_attention_heads")
_LEFT_OUT = ("dtype", "torch_dtype", "chunk_size_feed_forward")
"""Of a configuration: numbers are float32, and texts of any length go through whole."""
_HIDDEN = ("intermediate_size", "hidden_dim", "d_ff", "ffn_dim", "n_inner")
"""What configurations call the width of a block's hidden layer."""


class PooledEncoder(nn.Module):
    """A transformers encoder and its pooling: token ids and mask → embedding.

    Attributes:
        encoder: The transformers model.
        pooling: `mean` over the mask (sentence encoders), `cls`, the first token, or `last`, the last that the mask
            keeps (language models).
    """

    def __init__(self, encoder: nn.Module, pooling: str) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Ids and mask (batch, tokens) → embedding (batch, width)."""
        hidden: Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return pool_tokens(hidden, self.pooling, attention_mask)

    def extra_repr(self) -> str:
        """The pooling, so that it is part of the fingerprint."""
        return f"pooling={self.pooling}"


class Headless(nn.Module):
    """A transformers classifier whose last Linear was taken off: its logits are then the embedding.

    Attributes:
        classifier: The transformers model.
        names: Of the inputs, in order.
    """

    def __init__(self, classifier: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.classifier = classifier
        self.names = names

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs → embedding (batch, width)."""
        return self.classifier(**dict(zip(self.names, inputs, strict=True))).logits


def from_pretrained(
    spelling: str,
    name: str,
    *,
    pooling: str | None = None,
    max_tokens: int | None = None,
    image_size: int | None = None,
    head: str | None = None,
    classifier: bool = False,
    kind: Kind = "classification",
) -> Source:
    """A model of the hub, of a folder that `save_pretrained` wrote, or of a GGUF file.

    Args:
        spelling: As users write it.
        name: Hub name, folder, or GGUF file; a folder may hold one GGUF file instead of weights.
        pooling: `mean`, `cls` or `last` over a text model's tokens; None for the model's own.
        max_tokens: Token limit of a text model; None for 128, or what it knows if that is less.
        image_size: Side of an image model's input, pixels; None for its own.
        head: Name of a classifier's last Linear; None to find it.
        classifier: Whether a text model is read as the library's sequence classifier on top of it, whatever the files
            say: that is what an adapter with a classifier's head was trained on.
        kind: What it will be adapted to. For `causal-lm` a language model stays whole, with its own last layer.

    Raises:
        SourceError: The files cannot be had, or the model is of a kind that is not supported.
    """
    from transformers import AutoConfig

    files = _files(spelling, name)
    name = files["pretrained_model_name_or_path"]
    with explained(spelling, "Hugging Face's hub"):
        check_indexes(Path(name))
        _check_config(name)
        config = AutoConfig.from_pretrained(**files)
        if kind == "causal-lm":
            _refuse_for_language(spelling, config, pooling=pooling, image_size=image_size, head=head)
            description = {"kind": "transformers", "config": config.to_dict(), "form": "causal-lm"}
            text = text_preprocess(files, config, check_max_tokens(spelling, description, max_tokens))
            preprocess: Preprocess = LanguagePreprocess(text, end_token(config, text))
        elif _is_image_model(config):
            description = {"kind": "transformers", "config": config.to_dict(), "form": "image", "head": head}
            preprocess = _resized(spelling, image_preprocess(name, config), description, image_size)
        else:
            form, pooling = _text_form(name, config, pooling, classifier)
            description = {"kind": "transformers", "config": config.to_dict(), "form": form, "pooling": pooling}
            description["head"] = head
            limit = check_max_tokens(spelling, description, max_tokens)
            preprocess = text_preprocess(files, config, limit)
        return _source(spelling, description, preprocess, lambda: _pretrained(spelling, files, description))


def from_folder(
    name: str,
    folder: Path,
    *,
    pooling: str | None,
    max_tokens: int | None,
    licence: str = "",
    classifier: bool = False,
) -> Source:
    """A text encoder from a folder with `config.json`, `model.safetensors` and `tokenizer.json`.

    Args:
        name: As users write it.
        folder: Where the files lie.
        pooling: `mean`, `cls` or `last`; None for the model's own.
        max_tokens: Token limit, special tokens included; None for 128.
        licence: Of the weights.
        classifier: As for `from_pretrained`.

    Raises:
        SourceError: The token limit is not between 2 and what the network has positions for.
    """
    source = from_pretrained(name, str(folder), pooling=pooling, max_tokens=max_tokens, classifier=classifier)
    return replace(source, licence=licence)


def from_state(
    name: str,
    folder: Path,
    changes: dict[str, Any],
    state: Any,
    *,
    pooling: str,
    max_tokens: int | None,
    licence: str = "",
) -> Source:
    """A text encoder that shares a folder's kind and tokenizer, its weights given.

    Args:
        name: As users write it.
        folder: With `config.json` and `tokenizer.json`.
        changes: To the configuration.
        state: Reads the encoder's state dict.
        pooling: `mean`, `cls` or `last`.
        max_tokens: Token limit, special tokens included; None for 128.
        licence: Of the weights.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(folder), **changes)
    description = {"kind": "transformers", "config": config.to_dict(), "form": "pooled", "pooling": pooling}
    limit = check_max_tokens(name, description, max_tokens)

    def pretrained() -> Network:
        network = _untrained(description)
        network.body.encoder.load_state_dict(state(), strict=True)  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
        return network

    preprocess = text_preprocess(_files(name, str(folder)), config, limit)
    return _source(name, description, preprocess, pretrained, licence)


def from_description(name: str, description: dict[str, Any], preprocess: Preprocess) -> Source:
    """The source whose weights are random until a saved state is loaded into it."""
    return _source(name, description, preprocess, lambda: _untrained(description))


def smaller(name: str, description: dict[str, Any], num_layers: int | None, width: int | None) -> dict[str, Any]:
    """The description of a smaller member of a network's family.

    Args:
        name: Of the network.
        description: Of the network.
        num_layers: None for as many as it has.
        width: Of a token's vector; heads keep their width, hidden layers the proportion to their input. None for the
            network's.

    Raises:
        SourceError: There is no such member.
    """
    config = _config(description)
    shape = [n for n in (getattr(config, name, None) for name in _SHAPE) if isinstance(n, int)]
    if len(shape) < len(_SHAPE):
        raise SourceError(
            f"{name!r} has no one width and number of heads for all layers, so no smaller member can be made by "
            "--init-layers and --init-width. Name the smaller network: --source SMALL --init-from LARGE."
        )
    layers, units, heads = shape
    num_layers, width = layers if num_layers is None else num_layers, units if width is None else width
    if not 1 <= num_layers <= layers:
        raise SourceError(f"--init-layers is {num_layers}, expected from 1 to {layers}, the layers of {name!r}.")
    shared = getattr(config, "num_key_value_heads", None) or heads
    least = units // shared
    if not least <= width <= units or width % least:
        raise SourceError(
            f"--init-width is {width}, expected a multiple of {least} up to {units}: the heads of {name!r} keep their "
            "width."
        )
    config.hidden_size, config.num_attention_heads = width, heads * width // units
    config.num_hidden_layers = num_layers
    if hasattr(config, "num_key_value_heads"):
        config.num_key_value_heads = shared * width // units
    for inner in _HIDDEN:
        size = getattr(config, inner, None)
        if isinstance(size, int):
            setattr(config, inner, round(size * width / units))
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:num_layers]
    return {**description, "config": config.to_dict()}


def _source(
    name: str, description: dict[str, Any], preprocess: Preprocess, pretrained: Any, licence: str = ""
) -> Source:
    def untrained() -> Network:
        with explained(name, "Hugging Face's hub"):
            return _untrained(description)

    return Source(
        name=name,
        preprocess=preprocess,
        width=_width(description),
        pretrained=pretrained,
        untrained=untrained,
        description=description,
        licence=licence,
        head_kind="causal-lm" if description.get("form") == "causal-lm" else "classification",
    )


def _files(spelling: str, name: str) -> Files:
    """Where a model's files are; of a GGUF file its folder and its name.

    Raises:
        SourceError: A folder without weights holds several GGUF files, or what reads them is not installed.
    """
    path = Path(name)
    if path.suffix.lower() == ".gguf" and path.is_file():
        found = [path]
    else:
        found = [] if not path.is_dir() or (path / "config.json").is_file() else sorted(path.glob("*.gguf"))
    if not found:
        return {"pretrained_model_name_or_path": name, **_NO_CODE}
    if len(found) > 1:
        raise SourceError(
            f"{name} holds {len(found)} GGUF files: {', '.join(f.name for f in found)}. Name one of them: "
            f"hf:{found[0]}."
        )
    if importlib.util.find_spec("gguf") is None:
        raise SourceError(
            f"The source {spelling!r} is a GGUF file, and the package that reads them is not installed; expected gguf. "
            "Install it: pip install 'bequest[gguf]'"
        )
    check_gguf(found[0])
    return {"pretrained_model_name_or_path": str(found[0].parent), "gguf_file": found[0].name, **_NO_CODE}


def _check_config(name: str) -> None:
    """Refuse a folder whose `config.json` counts what its files cannot hold, before the library begins to count."""
    folder = Path(name)
    if (folder / "config.json").is_file():
        num_bytes = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
        check_numbers(parse_json((folder / "config.json").read_bytes()), num_bytes, "config.json")


def _refuse_for_language(spelling: str, config: Any, **options: Any) -> None:
    from transformers.models.auto import modeling_auto as auto

    if config.model_type not in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise SourceError(
            f"{spelling!r} is a model of kind {config.model_type!r}, which does not predict the next token; expected a "
            "causal language model, e.g. smollm2. Choose another source, or another --task."
        )
    flags = {"head": "--source-head", "pooling": "--pooling", "image_size": "--image-size"}
    for name, value in options.items():
        refuse(f"{spelling} as a language model", flags[name], value)


def _text_form(name: str, config: Any, pooling: str | None, classifier: bool) -> tuple[str, str]:
    """`pooled` or `classifier`, and the pooling."""
    if pooling is not None and pooling not in TEXT_POOLINGS:
        raise SourceError(f"pooling is {pooling!r}, expected {', '.join(TEXT_POOLINGS)}.")
    if classifier and pooling:
        raise SourceError("--pooling is given, but the adapter is a classifier's, which pools by itself. Leave it out.")
    own = pooling or sentence_pooling(name)
    if own and not classifier:
        return "pooled", own
    usual = "last" if _is_causal(config) else "mean" if getattr(config, "is_encoder_decoder", False) else "cls"
    architecture = (getattr(config, "architectures", None) or [""])[0]
    return ("classifier" if classifier or architecture.endswith("ForSequenceClassification") else "pooled"), usual


def _is_image_model(config: Any) -> bool:
    from transformers.models.auto import modeling_auto as auto

    return config.model_type in auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES


def _is_causal(config: Any) -> bool:
    from transformers.models.auto import modeling_auto as auto

    kind = config.model_type
    return kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _config(description: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    settings = {k: v for k, v in description["config"].items() if k not in _LEFT_OUT}
    return AutoConfig.for_model(settings.pop("model_type"), **settings)


def _untrained(description: dict[str, Any]) -> Network:
    with few_parts(description["config"]):
        model = _auto_class(description).from_config(_config(description))
    return _network(model, description)


def _pretrained(spelling: str, files: Files, description: dict[str, Any]) -> Network:
    with explained(spelling, "Hugging Face's hub"):
        return _loaded(spelling, files, description)


def _loaded(spelling: str, files: Files, description: dict[str, Any]) -> Network:
    with _quiet():
        load = _auto_class(description).from_pretrained
        model, loading = load(**files, dtype=torch.float32, output_loading_info=True)
    if description.get("form") == "causal-lm":
        return _language_model(spelling, model, loading)
    head = description.get("head") or find_head(model) or "-"
    network = _network(model, description)
    if any(key.startswith(head + ".") for key in loading["missing_keys"]):
        network.head = nn.Identity()
    kept = {n.split(".", 1)[1] for n, _ in network.body.named_parameters()}
    missing = sorted(kept & set(loading["missing_keys"]))
    if missing:
        raise _lacking(spelling, missing)
    return network


def _auto_class(description: dict[str, Any]) -> Any:
    import transformers

    classes = {
        "image": transformers.AutoModelForImageClassification,
        "classifier": transformers.AutoModelForSequenceClassification,
        "causal-lm": transformers.AutoModelForCausalLM,
        "pooled": transformers.AutoModel,
    }
    return classes[description.get("form", "pooled")]


def _network(model: Any, description: dict[str, Any]) -> Network:
    form, pooling = description.get("form", "pooled"), description.get("pooling")
    model.config.use_cache = False
    if form == "pooled" and description.get("head"):
        raise SourceError("This text model has no head of its own, so none can be named. Leave --source-head out.")
    if form == "causal-lm":
        return Network(LanguageModel(model.base_model, Vocabulary(model.get_output_embeddings())), nn.Identity())
    if form == "pooled":
        return Network(PooledEncoder(_without_pooler(model), str(pooling)), nn.Identity(), _origin(model))
    taken = split(model, description.get("head") or find_head(model) or "")
    if form == "image":
        return Network(Headless(model, ("pixel_values",)), taken.head, replace(taken.origin, inside="classifier"))
    if pooling == "last":
        origin = replace(taken.origin, inside="encoder", path=model.base_model_prefix)
        return Network(PooledEncoder(model.base_model, "last"), taken.head, origin)
    origin = replace(taken.origin, inside="classifier")
    return Network(Headless(model, ("input_ids", "attention_mask")), taken.head, origin)


def _origin(model: Any) -> Origin:
    if getattr(model.config, "is_encoder_decoder", False):
        return Origin("encoder", "encoder", left_off=("decoder",))
    return Origin("encoder", alias=model.base_model_prefix, left_off=("pooler", "lm_head"))


def _language_model(spelling: str, model: Any, loading: dict[str, Any]) -> Network:
    """The whole model as a body; its own last layer must be all that follows the hidden states."""
    if loading["missing_keys"]:
        raise _lacking(spelling, sorted(loading["missing_keys"]))
    ids = torch.arange(2 * _TRIED_TOKENS).view(2, -1) % model.config.vocab_size
    targets = torch.cat([ids[:, 1:], torch.full((2, 1), IGNORED)], 1)
    model.eval()
    with torch.no_grad():
        whole = model(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1)
        own = nn.functional.cross_entropy(whole, targets[:, :-1].flatten(), reduction="sum")
        network = _network(model, {"form": "causal-lm"})
        ours = network(ids, targets)[:, 0].sum()
    if not torch.allclose(ours, own.to(ours.dtype), rtol=1e-4):
        raise SourceError(
            f"{spelling!r} changes its logits after its last layer, so that it is not the hidden states times one "
            "matrix; such models cannot be adapted as language models yet. Choose another source."
        )
    return network


def generator(network: Network, description: dict[str, Any]) -> Any:
    """The transformers model that a language model's network was taken from, with the network's own weights."""
    with torch.device("meta"):
        model = _auto_class(description).from_config(_config(description))
    body: Any = network.body
    setattr(model, model.base_model_prefix, body.model)
    width, size = body.vocabulary.weight.shape[::-1]
    with torch.device("meta"):
        layer = nn.Linear(width, size, bias=body.vocabulary.bias is not None)
    layer.weight, layer.bias = body.vocabulary.weight, body.vocabulary.bias
    model.set_output_embeddings(layer)
    return model.eval()


def _lacking(spelling: str, missing: list[str]) -> SourceError:
    return SourceError(
        f"The files of {spelling!r} lack {len(missing)} of the network's weights ({', '.join(missing[:3])}, …); "
        "expected all but the head's. Choose another checkpoint of it."
    )


def _without_pooler(model: Any) -> nn.Module:
    # The pooler is a head for sentence pairs; nothing reads it here, and as a parameter without a gradient it
    # would count as trained. Of an encoder-decoder the encoder alone reads a text.
    if getattr(model.config, "is_encoder_decoder", False):
        return model.get_encoder()
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model


def _width(description: dict[str, Any]) -> int:
    skeleton = _skeleton(description)
    if isinstance(skeleton.head, nn.Linear):
        return skeleton.head.in_features
    if isinstance(skeleton.body, LanguageModel):
        return skeleton.body.vocabulary.weight.shape[1]
    encoder: Any = skeleton.body.encoder
    return encoder.config.hidden_size


def _skeleton(description: dict[str, Any]) -> Network:
    with torch.device("meta"):
        return _untrained(description)


def check_max_tokens(name: str, description: dict[str, Any], asked: int | None) -> int:
    """The token limit that was asked for, or 128, or what the network knows if that is less.

    Raises:
        SourceError: The limit is not between 2 and what the network has positions for.
    """
    known = getattr(_config(description), "max_position_embeddings", None)
    for part, module in _skeleton(description).named_modules():
        if known and part.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            # RoBERTa and its kin count positions from the one after the padding's.
            known = min(known, module.num_embeddings - module.padding_idx - 1)  # pyright: ignore[reportOperatorIssue]
    limit = min(DEFAULT_MAX_TOKENS, known or DEFAULT_MAX_TOKENS) if asked is None else asked
    if limit < 2 or (known and limit > known):
        raise SourceError(
            f"--max-tokens is {limit}, expected "
            + (f"from 2 to {known}, the positions that {name!r} knows." if known else "2 or more.")
        )
    return limit


def _resized(
    spelling: str, preprocess: ImagePreprocess, description: dict[str, Any], image_size: int | None
) -> ImagePreprocess:
    if image_size is None or image_size == preprocess.size:
        embedding_width(spelling, lambda: _untrained(description), preprocess.size)
        return preprocess
    if any("position_embedding" in name for name, _ in _skeleton(description).named_parameters()):
        raise SourceError(
            f"--image-size is {image_size}, but {spelling!r} has learned positions for {preprocess.size} px alone. "
            "Leave it out."
        )
    check_image_size(spelling, lambda: _untrained(description), image_size)
    return preprocess.resized(image_size)


@contextmanager
def _quiet() -> Iterator[None]:
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        # A GGUF file's progress bar heeds no setting.
        with redirect_stderr(StringIO()):
            yield
    finally:
        logging.set_verbosity(level)
