"""Texts from Python, for a language model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

from bequest.core.errors import DataError
from bequest.core.task import Task
from bequest.data.assemble import Labelled, assemble
from bequest.data.labels import no_labels
from bequest.data.messages import counted, listed
from bequest.data.spool import Lazy
from bequest.data.text import Completions, Texts


def from_texts(
    texts: Sequence[str] | Sequence[tuple[str, str]], *, test: Sequence[Any] = (), name: str = "texts"
) -> Task:
    """A task for a language model from texts in memory, or from prompts and what completes them.

    Exact duplicates are reduced to one; `Task.notes` says so.

    Args:
        texts: Texts, of which every token is to be predicted, or pairs (prompt, completion), of which those of the
            completion are.
        test: Of the given test part, as `texts`; empty where that is drawn.
        name: A short name for tables.

    Returns:
        The task, with an empty `origin`.

    Raises:
        DataError: The texts are of no kind or of both, or empty.
    """
    everything = [*texts, *test]
    kinds = [_kind(text) for text in everything]
    wrong = [f"texts[{i}]" for i, kind in enumerate(kinds) if not kind or kind != kinds[0]]
    if wrong or not everything:
        raise DataError(
            f"{counted(len(wrong), 'text')} of {len(everything):,} of another kind: {listed(wrong) or 'none at all'}. "
            "Expected str, or pairs of str (prompt, completion), all alike."
        )
    places = Lazy(len(everything), partial(_place, name))
    if kinds[0] == "text":
        samples = Texts(cast(Sequence[str], everything), places)
    else:
        prompts, completions = zip(*everything, strict=True)
        samples = Completions(prompts, completions, places)
    split = ["train"] * len(texts) + ["test"] * len(test) if test else ()
    return assemble(Labelled(samples, no_labels(len(everything)), split), name)


def _kind(text: Any) -> str:
    if isinstance(text, str):
        return "text"
    is_pair = isinstance(text, tuple | list) and [type(part) for part in cast(Sequence[Any], text)] == [str, str]
    return "pair" if is_pair else ""


def _place(name: str, index: int) -> str:
    return f"{name}[{index}]"
