"""From texts to windows of tokens, for causal language models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bequest.core.task import Modality
from bequest.nn.language import IGNORED
from bequest.sources.preprocess import Augment, TextPreprocess

Array = np.ndarray[Any, np.dtype[Any]]
Document = str | tuple[str, str]
"""A text, or a prompt and what completes it."""


@dataclass(frozen=True)
class LanguagePreprocess:
    """Tokenise, and divide into windows; a window is a sample.

    Attributes:
        text: The tokenizer, the padding token, and `max_tokens`, the length of a window.
        end_token: Ends a completion; empty where the model has none.
    """

    text: TextPreprocess
    end_token: str = ""
    modality: Modality = "text"
    persistent: bool = True

    @property
    def max_tokens(self) -> int:
        """Tokens of a window at most."""
        return self.text.max_tokens

    def limited(self, max_tokens: int) -> LanguagePreprocess:
        """The same with windows of another length."""
        return replace(self, text=self.text.limited(max_tokens))

    @property
    def fingerprint(self) -> str:
        """Hex digest of everything that changes what `encode` and `collate` make."""
        return f"{self.text.fingerprint}-windows-{self.end_token}"

    def tokens(self, document: Document) -> tuple[Array, int]:
        """Token ids int32 (tokens,), and the position of the first that is to be predicted.

        A text begins as the tokenizer begins one. Of a pair prompt and completion are tokenised by themselves, as the
        prompt alone will be when the model is asked, and the end token follows.
        """
        if isinstance(document, str):
            return np.array([*self._start, *self._ids(document)], np.int32), 1
        prompt, completion = document
        before = [*self._start, *self._ids(prompt)]
        end = [] if not self.end_token else [self._tokenizer.token_to_id(self.end_token)]
        return np.array([*before, *self._ids(completion), *end], np.int32), max(1, len(before))

    def windows(self, document: Document) -> list[Array]:
        """The windows of a text or a pair, each int32 (tokens, 2): ids, and 1 where a token is to be predicted.

        Every token after the first, of a pair every token of the completion, is predicted in exactly one window.
        Windows of a text overlap by the one token that comes before what they predict; those of a pair that is longer
        than a window by half a window.
        """
        ids, first = self.tokens(document)
        overlap = 1 if isinstance(document, str) else max(1, self.max_tokens // 2)
        return [self._window(ids, *bounds) for bounds in divide(len(ids), first, self.max_tokens, overlap)]

    def prompt(self, text: str) -> Tensor:
        """Token ids of what is to be continued, int64 (1, tokens)."""
        return torch.tensor([[*self._start, *self._ids(text)]])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    @property
    def end_id(self) -> int | None:
        """The end token's id; None where the model has none."""
        return self._tokenizer.token_to_id(self.end_token) if self.end_token else None

    @property
    def pad_id(self) -> int:
        """The padding token's id."""
        return self._tokenizer.token_to_id(self.text.pad_token)

    def encode(self, sample: Array) -> Array:
        """A window, as it is."""
        return sample

    def encode_view(self, sample: Any, augment: Augment) -> Array:
        """Texts have no views."""
        return self.text.encode_view(sample, augment)

    def collate(self, items: Sequence[Array]) -> tuple[Tensor, ...]:
        """Ids, and the next token of each or IGNORED, both int64 (batch, longest)."""
        shape = (len(items), max(len(item) for item in items))
        ids, targets = np.full(shape, self.pad_id, np.int64), np.full(shape, IGNORED, np.int64)
        for row, item in enumerate(items):
            ids[row, : len(item)] = item[:, 0]
            targets[row, : len(item) - 1] = np.where(item[1:, 1] == 1, item[1:, 0], IGNORED)
        return torch.from_numpy(ids), torch.from_numpy(targets)

    def describe(self) -> dict[str, Any]:
        """Plain data for `bequest.sources.preprocess.load`."""
        return {"kind": "language", "text": self.text.describe(), "end_token": self.end_token}

    def save(self, folder: Path) -> None:
        """Write the tokenizer."""
        self.text.save(folder)

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(self.text.tokenizer_json)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    @cached_property
    def _start(self) -> list[int]:
        """The special tokens before a text; those that a tokenizer puts after one would end what goes on."""
        bare, whole = self._ids("a"), self._tokenizer.encode("a").ids
        at = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
        return whole[:at]

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def _window(self, ids: Array, start: int, first: int, stop: int) -> Array:
        is_predicted = np.arange(start, stop) >= first
        return np.stack([ids[start:stop], is_predicted.astype(np.int32)], 1)


def divide(length: int, first: int, size: int, overlap: int) -> list[tuple[int, int, int]]:
    """Windows over a sequence: start, first position that is predicted, stop.

    Args:
        length: Of the sequence.
        first: Position from which everything is to be predicted, 1 or more.
        size: Of a window, 2 or more.
        overlap: Positions before what is predicted, above 0 and below `size`; where all fits into one window, all.
    """
    if length <= size:
        return [(0, first, length)] if first < length else []
    found: list[tuple[int, int, int]] = []
    while first < length:
        start = max(0, first - overlap)
        stop = min(length, start + size)
        found.append((start, first, stop))
        first = stop
    return found
