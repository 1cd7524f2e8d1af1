"""Text encoders of the transformers library, with the pooling that they were trained with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bequest.core.errors import SourceError
from bequest.nn.network import Network
from bequest.sources.preprocess import Preprocess, TextPreprocess
from bequest.sources.source import Source


class PooledEncoder(nn.Module):
    """A transformers encoder and its pooling: token ids and mask → embedding.

    Attributes:
        encoder: The transformers model.
        pooling: `mean` over the mask (sentence encoders) or `cls`, the first token.
    """

    def __init__(self, encoder: nn.Module, pooling: str) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Ids and mask (batch, tokens) → embedding (batch, width)."""
        hidden: Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.pooling == "cls":
            return hidden[:, 0]
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)

    def extra_repr(self) -> str:
        """The pooling, so that it is part of the fingerprint."""
        return f"pooling={self.pooling}"


def from_folder(name: str, folder: Path, *, pooling: str, max_tokens: int, licence: str = "") -> Source:
    """A text encoder from a folder with `config.json`, `model.safetensors` and `tokenizer.json`.

    Args:
        name: As users write it.
        folder: Where the files lie.
        pooling: `mean` or `cls`.
        max_tokens: Token limit, special tokens included.
        licence: Of the weights.

    Raises:
        SourceError: The token limit is not between 2 and what the network has positions for.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    if not 2 <= max_tokens <= config.max_position_embeddings:
        raise SourceError(
            f"--max-tokens is {max_tokens}, expected from 2 to {config.max_position_embeddings}, the positions that "
            f"{name!r} knows."
        )
    tokenizer = (folder / "tokenizer.json").read_text(encoding="utf-8")
    description = {"kind": "transformers", "config": config.to_dict(), "pooling": pooling}
    return Source(
        name=name,
        preprocess=TextPreprocess(tokenizer, max_tokens),
        width=config.hidden_size,
        pretrained=lambda: _pretrained(folder, pooling),
        untrained=lambda: _untrained(description),
        description=description,
        licence=licence,
    )


def from_description(name: str, description: dict[str, Any], preprocess: Preprocess) -> Source:
    """The source whose weights are random until a saved state is loaded into it."""
    return Source(
        name=name,
        preprocess=preprocess,
        width=description["config"]["hidden_size"],
        pretrained=lambda: _untrained(description),
        untrained=lambda: _untrained(description),
        description=description,
    )


def _pretrained(folder: Path, pooling: str) -> Network:
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    encoder = AutoModel.from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
    return Network(_without_pooler(encoder, pooling), nn.Identity())


def _untrained(description: dict[str, Any]) -> Network:
    from transformers import AutoConfig, AutoModel

    settings = {k: v for k, v in description["config"].items() if k not in ("dtype", "torch_dtype")}
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    return Network(_without_pooler(AutoModel.from_config(config), description["pooling"]), nn.Identity())


def _without_pooler(encoder: Any, pooling: str) -> PooledEncoder:
    # The pooler is a head for sentence pairs; nothing reads it here, and as a parameter without a gradient it
    # would count as trained.
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    return PooledEncoder(encoder, pooling)
