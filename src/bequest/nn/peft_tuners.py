"""The tuners of the PEFT library around a body: any of its methods, as its configuration says."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from bequest.core.errors import MethodError, first_line, nearest
from bequest.nn.lowrank import targets
from bequest.nn.names import normalisation

_NEEDS_CALLS = {"ADALORA": "moves its ranks by calls in between training steps"}
"""Tuners that do not work in a training loop that knows nothing of them."""

_REACHING = ("megatron_config", "prompt_tuning_init_state_dict_path", "tokenizer_kwargs")
"""Fields with which a configuration, which may come from anybody, reaches beyond numbers and names."""

_TOLERANCE = 1e-3
"""Difference that rounding may make between a merged body and its tuner, as a share of the largest output."""

_FAULTS = (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, RuntimeError, ImportError)


class Wrapped(nn.Module):
    """A body with a tuner of the PEFT library in it.

    Attributes:
        body: Changed in place: the tuner's layers stand around its own.
        settings: The tuner's configuration, plain data.
        inside: Name of the module in the body that the tuner knows as its model; empty for the body itself.
        tuner: What the library made of that module; it holds the module and is no child of this one.
    """

    def __init__(self, body: nn.Module, settings: Mapping[str, Any], inside: str) -> None:
        super().__init__()
        self.body = body
        self.settings = dict(settings)
        self.inside = inside
        tuner = _inject(body, self.settings, inside)
        if getattr(tuner.active_peft_config, "is_prompt_learning", False):
            body.set_submodule(inside, Prompted(tuner))
        # In a list, so that the library's wrapper does not give every parameter a second name.
        self._tuner = [tuner]

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs → embedding (batch, width)."""
        return self.body(*inputs)

    def merged(self) -> nn.Module | None:
        """The plain body with what was trained written into its weights; None where the tuner cannot do that."""
        merge = getattr(self._tuner[0].base_model, "merge_and_unload", None)
        if merge is None:
            return None
        with _explained(self.settings, "be merged"):
            merge()
        return self.body


class Prompted(nn.Module):
    """A model of transformers with trained tokens before its own; what it makes of those is left out.

    Attributes:
        model: As the PEFT library wrapped it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        """Ids and mask (batch, tokens) → an output with `last_hidden_state` of the same tokens."""
        output = self.model(input_ids=input_ids, attention_mask=attention_mask)
        output.last_hidden_state = output.last_hidden_state[:, -input_ids.shape[1] :]
        return output


def merges(wrapped: Wrapped, inputs: tuple[Tensor, ...] | None) -> bool:
    """Whether a tuner's weights can be written into the body's so that it computes the same; tried on a copy.

    Args:
        wrapped: Before training.
        inputs: A batch to compare on; None to take the library's word for it.
    """
    trial = copy.deepcopy(wrapped)
    with torch.no_grad():
        for parameter in trial.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
        trial.eval()
        wanted = None if inputs is None else trial(*inputs)
        try:
            plain = trial.merged()
        except MethodError:
            return False
        if plain is None or wanted is None or inputs is None:
            return plain is not None
        return bool((plain.eval()(*inputs) - wanted).abs().max() <= _TOLERANCE * wanted.abs().max())


def configured(settings: Mapping[str, Any]) -> Any:
    """The library's configuration object of some settings.

    Raises:
        MethodError: The library is not installed, it knows no such tuner or field, or refuses a value.
    """
    library = _library()
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as known

    kind = str(settings.get("peft_type", "")).upper()
    classes = {str(name.value): made for name, made in known.items()}
    if kind not in classes:
        told = nearest(kind, classes)
        raise MethodError(f"peft_type is {settings.get('peft_type')!r}, which peft {library.__version__} lacks. {told}")
    if kind in _NEEDS_CALLS:
        raise MethodError(f"peft_type {kind} {_NEEDS_CALLS[kind]}; expected one that trains by itself, e.g. LORA.")
    names = {field.name for field in fields(classes[kind])}
    unknown = [f"{name!r} ({nearest(name, names)})" for name in settings if name not in names]
    if unknown:
        raise MethodError(f"A configuration of peft_type {kind} has no field {', '.join(unknown)}")
    reaching = [f"{name!r}" for name in _REACHING if settings.get(name)]
    if reaching:
        raise MethodError(
            f"A configuration of peft_type {kind} names {', '.join(reaching)}, by which the library reads pickles or "
            "runs others' code; expected plain settings. Leave it out."
        )
    # What a saved adapter says of where it was and what it was for; here it is trained, below a head of our own.
    own = {"inference_mode": False, "base_model_name_or_path": None, "task_type": None, "auto_mapping": None}
    given = {name: value for name, value in settings.items() if name != "peft_type"}
    with _explained(settings, "be configured"):
        return classes[kind](**{**given, **{name: value for name, value in own.items() if name in names}})


def _library() -> Any:
    try:
        import peft
    except ImportError:
        raise MethodError(
            "The PEFT library is not installed; expected the package 'peft'. Install it: pip install 'bequest[peft]'"
        ) from None
    return peft


def _inject(body: nn.Module, settings: Mapping[str, Any], inside: str) -> Any:
    library, config = _library(), configured(settings)
    model = body.get_submodule(inside)
    kind = str(settings["peft_type"]).upper()
    if config.is_prompt_learning:
        config.task_type = "FEATURE_EXTRACTION"
        if not hasattr(model, "config") or not hasattr(model, "get_input_embeddings") or not inside:
            raise MethodError(
                f"peft_type {kind} puts trained tokens before a text's own, but this network is no text encoder of "
                "transformers; expected a type that changes layers, e.g. LORA or IA3."
            )
    with _explained(settings, "be put around this network"):
        try:
            return library.get_peft_model(model, config)
        except ValueError as error:
            if "target_modules" not in str(error) or settings.get("target_modules") is not None:
                raise
        # The library has its own choice of layers for architectures of transformers that it knows, and none for others.
        config = configured({**settings, **_targets(model, config)})
        return library.get_peft_model(model, config)


def _targets(model: nn.Module, config: Any) -> dict[str, Any]:
    """Layers that a tuner can be put around: the linear ones, or the convolutions of a network that has no others."""
    if config.peft_type == "LN_TUNING":
        return {"target_modules": sorted({name.rpartition(".")[0] for name in normalisation(model)})}
    names = targets(model)
    linear = [name for name in names if not isinstance(model.get_submodule(name), nn.Conv2d)]
    more = {"feedforward_modules": []} if getattr(config, "feedforward_modules", ()) is None else {}
    return {"target_modules": linear or list(names), **more}


@contextmanager
def _explained(settings: Mapping[str, Any], what: str) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except _FAULTS as error:
            told = first_line(error)
            raise MethodError(
                f"peft_type {settings['peft_type']} cannot {what}: {told} Change its configuration (--peft-config), or "
                "choose another type."
            ) from error
