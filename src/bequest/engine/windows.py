"""A language model's texts as samples: windows of tokens, drawn document by document."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from bequest.core.errors import DataError
from bequest.core.task import HashArray, IntArray, Modality, Samples, Task
from bequest.data.images import array_hash
from bequest.data.messages import counted, listed
from bequest.data.spool import Spool, spool_hashes
from bequest.sources.language import LanguagePreprocess
from bequest.sources.source import Source

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Windows:
    """Windows of documents, out of memory.

    Attributes:
        documents: What they are of.
        owners: int64 (windows,): of which document each is.
        values: int32 (tokens of all windows, 2), as `LanguagePreprocess.windows` makes them.
        ends: int64 (windows,): where each ends in `values`.
    """

    documents: Samples
    owners: IntArray
    values: Array
    ends: IntArray

    @property
    def modality(self) -> Modality:
        """Always `text`."""
        return "text"

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> Array:
        return self.values[self.ends[index - 1] if index else 0 : self.ends[index]]

    @cached_property
    def hashes(self) -> HashArray:
        """uint8 (windows, 16)."""
        return spool_hashes(array_hash(self[i]) for i in range(len(self)))

    def content_hash(self, index: int) -> bytes:
        """BLAKE2b of ids and marks (16 bytes)."""
        return self.hashes[index].tobytes()

    def describe(self, index: int) -> str:
        """The document and the window's number in it."""
        owner = self.owners[index]
        first = int(np.searchsorted(self.owners, owner))
        return f"{self.documents.describe(int(owner))}, window {index - first + 1}"


def divided(task: Task, source: Source) -> Task:
    """The task with windows for samples, each document a unit; as it is where it has no documents.

    Raises:
        DataError: No document has a token that follows another.
    """
    preprocess = source.preprocess
    if task.kind != "causal-lm" or task.units is not None or not isinstance(preprocess, LanguagePreprocess):
        return task
    values, ends, owners = Spool(), [0], []
    num_long, num_cut, empty = 0, 0, []
    for i in range(len(task.samples)):
        windows = preprocess.windows(task.samples[i])
        num_long += len(windows) > 1
        num_cut += _leaves_out(windows, preprocess, task.samples[i])
        empty += [] if windows else [task.samples.describe(i)]
        for window in windows:
            values.write(window.tobytes())
            ends.append(ends[-1] + len(window))
            owners.append(i)
    if not owners:
        raise DataError(
            f"No text of {task.name!r} has two tokens; expected texts in which a token follows another. Give longer "
            "ones."
        )
    units, tokens = np.array(owners, np.int64), values.finish().view("<i4").reshape(-1, 2)
    notes = _notes(preprocess, len(task.samples), len(units), int(tokens[:, 1].sum()), num_long, num_cut, empty)
    return replace(
        task,
        samples=Windows(task.samples, units, tokens, np.array(ends[1:], np.int64)),
        labels=task.labels[units],
        split=tuple(task.split[i] for i in owners) if task.split else (),
        notes=(*task.notes, *notes),
        units=units,
    )


def _leaves_out(windows: list[Array], preprocess: LanguagePreprocess, document: Any) -> bool:
    """Whether some of a prompt stands in no window."""
    if isinstance(document, str) or not windows:
        return False
    ids, first = preprocess.tokens(document)
    return len(ids) > preprocess.max_tokens and first > preprocess.max_tokens // 2


def _notes(
    preprocess: LanguagePreprocess,
    num_documents: int,
    num_windows: int,
    num_tokens: int,
    num_long: int,
    num_cut: int,
    empty: list[str],
) -> list[str]:
    notes = [
        f"{counted(num_documents, 'document')} in {counted(num_windows, 'window')} of up to {preprocess.max_tokens} "
        f"tokens; {num_tokens:,} tokens are predicted, each once."
    ]
    if num_long:
        notes[0] += f" {counted(num_long, 'document')} longer than a window: none is cut off (--max-tokens)."
    if num_cut:
        notes.append(
            f"The beginning of {counted(num_cut, 'prompt')} is not read: with what completes it, it is longer than a "
            f"window of {preprocess.max_tokens} tokens. To read more: --max-tokens."
        )
    if empty:
        notes.append(f"Left out {counted(len(empty), 'text')} of one token: {listed(empty, 3)}.")
    return notes
