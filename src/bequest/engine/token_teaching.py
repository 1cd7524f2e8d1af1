"""Distillation of language models: of every token that is predicted, the student learns the teacher's next tokens.

The teacher reads the student's own windows, once, and of each token its largest logits are stored, and one that stands
for all others. In training they are inputs beside the tokens, and the student's hidden states are met on their way into
its last layer: so that nothing depends on what a method has put around the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bequest.core.distillation import Distillation
from bequest.core.errors import MethodError, SourceError
from bequest.core.plan import Train
from bequest.engine.context import Context
from bequest.engine.features import Frozen, frozen_module, frozen_outputs
from bequest.engine.store import Array, lengths_of
from bequest.engine.views import View
from bequest.nn import losses
from bequest.nn.language import IGNORED, LanguageModel, Vocabulary, soft_token_losses
from bequest.nn.network import Network
from bequest.sources.language import LanguagePreprocess
from bequest.sources.source import Source

TOP_TOKENS = 64
"""The teacher's logits that are stored of each token, where `top_classes` does not say how many."""

_LARGEST = torch.finfo(torch.float16).max
_LOGITS = 2**23
"""Logits that are computed at a time."""


def check_teacher(teacher: Source, network: Network, student: Source, settings: Distillation) -> None:
    """Raise what is wrong with a language model as teacher.

    Raises:
        SourceError: It is no language model, or reads other tokens.
        MethodError: The settings are for classification.
    """
    if teacher.head_kind != "causal-lm" or not isinstance(network.body, LanguageModel):
        raise SourceError(f"The teacher {teacher.name!r} is no language model; expected one, as its student is.")
    theirs, ours = teacher.preprocess, student.preprocess
    assert isinstance(theirs, LanguagePreprocess) and isinstance(ours, LanguagePreprocess)
    if theirs.text.tokenizer_json != ours.text.tokenizer_json:
        raise SourceError(
            f"The teacher {teacher.name!r} divides texts into other tokens than {student.name!r}; expected the same "
            "tokenizer, since the student learns its teacher's next tokens. Choose two models of one family."
        )
    if settings.soft_loss not in ("soft-cross-entropy", "kl"):
        raise MethodError(
            f"--soft-loss {settings.soft_loss} is for classification; expected soft-cross-entropy or kl for a language "
            "model."
        )
    flags = {"--standardised": settings.standardised, "--online": settings.online}
    for flag, given in {**flags, "--feature-weight": settings.feature_weight}.items():
        if given:
            raise MethodError(f"{flag} is for classification. Leave it out for a language model.")


@dataclass(frozen=True)
class Beside(Sequence[tuple[Any, ...]]):
    """Windows with what the teacher makes of each.

    Attributes:
        windows: Of tokens, int32 (tokens, 2) each.
        kept: Of each window the largest logits and the shared one (tokens, k + 1), and whose they are (tokens, k).
    """

    windows: Sequence[Array]
    kept: tuple[Sequence[Any], Sequence[Any]]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: Any) -> Any:
        parts = self.windows[index], *(column[index] for column in self.kept)
        return Beside(parts[0], parts[1:]) if isinstance(index, slice) else parts

    @property
    def lengths(self) -> Array:
        """Tokens of each window."""
        return lengths_of(self.windows)


class TokenTaught(nn.Module):
    """A language model beside its teacher's outputs.

    Ids, targets, the teacher's values and classes → (batch, 3): what the model gives, and the soft loss over all
    targets. Without gradients it gives the first two alone, as validation wants them.

    Attributes:
        network: The student's, whatever a method has made of it.
        temperature: ρ.
    """

    def __init__(self, network: nn.Module, context: Context) -> None:
        super().__init__()
        assert context.teaching is not None, "the run has a teacher"
        self.network, self.temperature = network, context.teaching.settings.temperature

    def forward(self, ids: Tensor, targets: Tensor, values: Tensor, classes: Tensor) -> Tensor:
        """As the class says."""
        if not torch.is_grad_enabled():
            return self.network(ids, targets)
        vocabulary = _vocabulary(self.network)
        met: list[Tensor] = []
        handle = vocabulary.register_forward_pre_hook(lambda _, inputs: met.append(inputs[0]))
        try:
            outputs = self.network(ids, targets)
        finally:
            handle.remove()
        args = (vocabulary.weight, vocabulary.bias, targets, values, classes, self.temperature)
        soft = soft_token_losses(met[0], *args).sum(1)
        return torch.cat([outputs, soft[:, None].to(outputs.dtype)], 1)


def taught_token_loss(context: Context) -> Callable[[Tensor, Tensor], Tensor]:
    """α · the mean loss of a token + β ρ² · the mean soft loss of one, of what `TokenTaught` gives."""
    assert context.teaching is not None, "the run has a teacher"
    settings = context.teaching.settings
    weight = settings.soft_weight * (settings.temperature**2 if settings.scaled else 1.0)

    def loss(outputs: Tensor, _: Tensor) -> Tensor:
        hard, count, soft = outputs.sum(0)
        return (settings.hard_weight * hard + weight * soft) / count.clamp(min=1)

    return loss


def learns_tokens(context: Context) -> bool:
    """Whether a student learns a language model's next tokens."""
    teaching = context.teaching
    return context.task.kind == "causal-lm" and teaching is not None and teaching.settings.soft_weight > 0


def collate_taught(context: Context, items: Sequence[tuple[Array, ...]]) -> tuple[Tensor, ...]:
    """Ids, targets, and the teacher's values and classes, padded (batch, longest, …)."""
    windows, *columns = zip(*items, strict=True)
    ids, targets = context.source.preprocess.collate(windows)
    padded: list[Tensor] = []
    for column, dtype in zip(columns, (torch.float32, torch.int64), strict=True):
        whole = torch.zeros(*ids.shape, column[0].shape[1], dtype=dtype)
        for row, values in enumerate(column):
            whole[row, : len(values)] = torch.from_numpy(np.array(values)).to(dtype)
        padded.append(whole)
    return ids, targets, *padded


def beside(context: Context, stage: Train, plain: View) -> tuple[View, float]:
    """The view with what the teacher makes of it beside the windows, from the store; says once what that spares.

    And the seconds that computing it took, whenever and wherever that was.
    """
    teaching = context.teaching
    assert teaching is not None, "the run has a teacher"
    [teacher], [network], [digest] = teaching.teachers, teaching.networks, teaching.fingerprints
    settings = teaching.settings
    top = min(settings.top_classes or TOP_TOKENS, len(_vocabulary(network).weight) - 1)
    key = {"what": "teacher's tokens", "network": digest, "top": top, "rho": settings.temperature}
    frozen = Frozen(
        tuple({**key, "array": name} for name in ("logits", "classes")),
        lambda chosen: _Kept(frozen_module(context, network.body), teacher.name, top, settings.temperature, chosen),
        (True, True),
        6.0 * top * context.source.preprocess.max_tokens,  # pyright: ignore[reportAttributeAccessIssue]
    )
    kept = frozen_outputs(context, frozen, plain.items, plain.hashes, plain.key)
    num, tokens = len(plain.items), int(lengths_of(plain.items).sum())
    size = tokens * (6 * top + 2) / 1e6
    context.say(
        f"The teacher runs once on each of {num:,} windows, {num:,} forward passes where {stage.epochs} epochs take "
        f"{num * stage.epochs:,}; of each token {top} next ones are kept: {size:,.1f} MB on disk."
    )
    found = replace(plain, items=Beside(plain.items, (kept[0], kept[1])))
    return found, max(records.seconds for records in kept)


def _vocabulary(network: nn.Module) -> Vocabulary:
    """A language model's last layer, wherever a method has put it."""
    [found] = [module for module in network.modules() if isinstance(module, Vocabulary)]
    return found


class _Kept(nn.Module):
    """What is stored of a language model's logits."""

    def __init__(self, body: nn.Module, name: str, top: int, temperature: float, chosen: Sequence[int]) -> None:
        super().__init__()
        self.body, self.name, self.top, self.temperature = body, name, top, temperature
        self.chosen = tuple(chosen)

    def forward(self, ids: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        """Ids and targets (batch, tokens) → values (batch, tokens, k + 1) and classes (batch, tokens, k), as chosen."""
        model: LanguageModel = self.body  # pyright: ignore[reportAssignmentType]
        hidden = model.model(input_ids=ids).last_hidden_state
        layer = model.vocabulary
        states, wanted = hidden.reshape(-1, hidden.shape[-1]), (targets != IGNORED).flatten().nonzero().squeeze(1)
        values = hidden.new_zeros(len(states), self.top + 1, dtype=torch.float16)
        classes = torch.zeros(len(states), self.top, dtype=torch.int32, device=hidden.device)
        for rows in wanted.split(max(1, _LOGITS // len(layer.weight))):
            logits = nn.functional.linear(states[rows].to(layer.weight.dtype), layer.weight, layer.bias).float()
            if not bool(torch.isfinite(logits).all()) or float(logits.abs().max()) > _LARGEST:
                raise SourceError(
                    f"The teacher {self.name!r} gives logits that are no finite numbers, or beyond {_LARGEST:g}, as "
                    "they are stored. Check its weights, or choose another teacher."
                )
            largest, whose = losses.top_classes(logits, self.top, self.temperature)
            values[rows], classes[rows] = largest.half(), whose.int()
        kept = values.view(*ids.shape, -1), classes.view(*ids.shape, -1)
        return tuple(kept[i] for i in self.chosen)
