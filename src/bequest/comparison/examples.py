"""Single test samples for the report: what the best model gets wrong, and where methods disagree."""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bequest.comparison.folder import RunFolder
from bequest.core.examples import Examples, Mistake, Shown, Split
from bequest.core.results import Leaderboard, Row
from bequest.core.task import IntArray, Kind, Samples, Task
from bequest.nn.objectives import OBJECTIVES, THRESHOLD

MOST_MISTAKES, MOST_SPLITS = 12, 8
_MOST_CHARACTERS, _MOST_NUMBERS = 400, 8
_SIDE, _AS_IT_IS = 112, 48
"""Pixels: the longer side of a small copy, and of an image that is kept whole."""


@dataclass(frozen=True)
class _Judged:
    """What a model said of the test part.

    `taken` are its answers (samples,), `wrong` which of them are not the truth (bool), `weight` how sure it was of what
    is wrong, or for a regression how far off (float32).
    """

    taken: list[str]
    wrong: Tensor
    weight: Tensor


def collect(task: Task, folder: RunFolder, board: Leaderboard) -> Examples | None:
    """The examples of a finished run; None for a language model, whose samples are windows of tokens.

    Args:
        task: The run's.
        folder: Holds the outputs of its trials on the test part.
        board: The finished leaderboard, with a best row.

    Raises:
        DataError: A sample that is to be shown cannot be read.
        RunError: A trial's outputs are missing or damaged.
    """
    best = board.best
    if task.kind == "causal-lm" or best is None or best.median_seed is None:
        return None
    outputs, indices = folder.test_outputs(best.method, best.median_seed)
    judged = _judge(task, outputs, indices)
    worst = torch.argsort(judged.weight.masked_fill(~judged.wrong, -1), descending=True, stable=True)
    shown = [i for i in worst[:MOST_MISTAKES].tolist() if judged.wrong[i]]
    sure = task.kind != "regression"
    methods, seeds, disagreement = _disagreement(task, folder, board)
    return Examples(
        method=best.method,
        seed=best.median_seed,
        tested=len(indices),
        wrong=int(judged.wrong.sum()) if sure else None,
        mistakes=[
            Mistake(_show(task, int(indices[i])), judged.taken[i], float(judged.weight[i]) if sure else None)
            for i in shown
        ],
        methods=methods,
        seeds=seeds,
        disagreement=disagreement,
        splits=_splits(task, folder, [row for row in board.rows if row.method in methods]),
    )


def _judge(task: Task, outputs: Tensor, indices: IntArray) -> _Judged:
    labels, made = torch.from_numpy(task.labels[indices]), OBJECTIVES[task.kind].activate(outputs)
    if task.kind == "classification":
        sureness, taken = made.max(1)
        return _Judged([task.classes[i] for i in taken.tolist()], taken != labels, sureness)
    if task.kind == "multi-label":
        texts = [_in_words(task.kind, task.classes, row) for row in (made > THRESHOLD).numpy()]
        off = ((made > THRESHOLD) != (labels > 0)).float() * torch.maximum(made, 1 - made)
        return _Judged(texts, off.amax(1) > 0, off.amax(1))
    texts = [_in_words(task.kind, task.classes, row) for row in made.numpy()]
    spread = torch.from_numpy(task.labels.std(0)).float().clamp_min(torch.finfo(torch.float32).tiny)
    return _Judged(texts, torch.ones(len(made), dtype=torch.bool), ((made - labels).abs() / spread).mean(1))


def _in_words(kind: Kind, classes: Sequence[str], label: Any) -> str:
    """A label, or what a model says, as a page shows it."""
    if kind == "classification":
        return classes[int(label)]
    if kind == "multi-label":
        return ", ".join(name for name, carried in zip(classes, label, strict=True) if carried > 0) or "none"
    if len(classes) == 1:
        return f"{float(label[0]):.4g}"
    return ", ".join(f"{name} {float(value):.4g}" for name, value in zip(classes, label, strict=True))


def _disagreement(task: Task, folder: RunFolder, board: Leaderboard) -> tuple[list[str], int, list[list[float | None]]]:
    """Methods, over how many seeds at most they are compared, and the shares; nothing for values, which all differ."""
    methods = [row.method for row in board.rows if row.validation is not None]
    if task.kind == "regression" or len(methods) < 2:
        return [], 0, []
    taken: dict[str, dict[int, np.ndarray[Any, Any]]] = {method: {} for method in methods}
    for trial in board.trials:
        if trial.error is None:
            judged = _judge(task, *folder.test_outputs(trial.method, trial.seed))
            taken[trial.method][trial.seed] = np.array(judged.taken)
    seeds = {seed for answers in taken.values() for seed in answers}
    return methods, len(seeds), [[_apart(taken[one], taken[other]) for other in methods] for one in methods]


def _apart(one: Mapping[int, Any], other: Mapping[int, Any]) -> float | None:
    """The share of answers that differ, mean over the seeds of both."""
    shares = [float((answers != other[seed]).mean()) for seed, answers in one.items() if seed in other]
    return sum(shares) / len(shares) if shares else None


def _splits(task: Task, folder: RunFolder, rows: Sequence[Row]) -> list[Split]:
    if not rows:
        return []
    judged = {row.method: _judge(task, *folder.test_outputs(row.method, row.median_seed or 0)) for row in rows}
    _, indices = folder.test_outputs(rows[0].method, rows[0].median_seed or 0)
    votes = list(zip(*(found.taken for found in judged.values()), strict=True))
    order = sorted(range(len(votes)), key=lambda i: -_entropy(votes[i]))
    splits: list[Split] = []
    for i in order[:MOST_SPLITS]:
        if len(set(votes[i])) == 1:
            break
        answers = {
            answer: [method for method, vote in zip(judged, votes[i], strict=True) if vote == answer]
            for answer, _ in Counter(votes[i]).most_common()
        }
        splits.append(Split(_show(task, int(indices[i])), answers))
    return splits


def _entropy(votes: Sequence[str]) -> float:
    """How divided votes are, 0 where all agree."""
    return -sum(n / len(votes) * math.log(n / len(votes)) for n in Counter(votes).values())


def _show(task: Task, index: int) -> Shown:
    place, true = task.samples.describe(index), _in_words(task.kind, task.classes, task.labels[index])
    if task.modality == "image":
        return Shown(place, true, image=small_copy(task.samples[index]))
    return Shown(place, true, text=_text(task.samples, index))


def _text(samples: Samples, index: int) -> str:
    sample = samples[index]
    if samples.modality == "text":
        return sample if len(sample) <= _MOST_CHARACTERS else sample[: _MOST_CHARACTERS - 1].rstrip() + "…"
    numbers = np.asarray(sample).ravel()
    some = ", ".join(f"{float(value):.3g}" for value in numbers[:_MOST_NUMBERS])
    return some if numbers.size <= _MOST_NUMBERS else f"{some}, … ({numbers.size:,} numbers)"


def small_copy(image: Any) -> str:
    """A PIL image as a `data:` address of a few kilobytes; one of a few pixels stays as it is."""
    copy, buffer = image.convert("RGB"), io.BytesIO()
    if max(copy.size) <= _AS_IT_IS:
        copy.save(buffer, "PNG", optimize=True)
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    copy.thumbnail((_SIDE, _SIDE))
    copy.save(buffer, "JPEG", quality=78, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
