"""What a run trained, written for other tools from the tensors that its folder keeps: nothing is trained again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from bequest.comparison.folder import BOARD_FILE, RunFolder
from bequest.core.distillation import taught_by, untaught
from bequest.core.errors import RunError, nearest
from bequest.core.plan import Plan
from bequest.core.registry import get_method
from bequest.core.results import Leaderboard, TrialRecord
from bequest.core.task import Kind, Task
from bequest.engine.adapted import AdaptedModel, load
from bequest.engine.formats import TOLERANCE, Check, ship
from bequest.engine.formats.format import Format
from bequest.engine.run import restore
from bequest.engine.windows import divided
from bequest.nn.peft_layout import adapted_layers, with_own_factors
from bequest.sources import Source, get

_NUM_SAMPLES = 32
"""On which a file is tried, or all where they are fewer."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The file, or the folder.
        format: Its name.
        method: The method whose trial it is; empty where the model's record does not say.
        seed: The trial's; None where the model's record does not say.
        check: How its outputs compare with PyTorch's, as the tool computes them that users load it with.
        notes: What the user should know of the files.
    """

    path: Path
    format: str
    method: str
    seed: int | None
    check: Check
    notes: tuple[str, ...]


def export(
    run: Path,
    path: Path,
    task: Task,
    *,
    form: Format,
    method: str | None = None,
    seed: int | None = None,
    source: Source | None = None,
    tolerance: float = TOLERANCE,
) -> Exported:
    """Write what a run trained for other tools, and try it on real samples.

    Args:
        run: A run's folder, or a saved model's.
        path: Where the file or the files go.
        task: Holds the samples.
        form: The format.
        method: The method's name; None for the best one that the format has a place for.
        seed: The trial's; None for the median one by the held-out score.
        source: Needed where the run was made from an `nn.Module` of yours.
        tolerance: How far outputs may be from PyTorch's, as a part of the largest, or of 1 where that is more.

    Raises:
        RunError: The run has no such trial, the source is not the one that it was made from, the format has no place
            for the model, outputs differ by more, or files cannot be written.
        SourceError: The source cannot be had.
    """
    if form.merged and method is None and seed is None:
        model = load(run, source=None if source is None or source.description else source)
    else:
        model = _trained(run, task, form, method, seed, source)
    if task.modality != model.source.modality:
        raise RunError(
            f"The model in {run} takes samples of kind {model.source.modality}, but the data hold samples of kind "
            f"{task.modality}; expected those of the run. Name them: --data."
        )
    samples = _samples(task, model)
    check, notes = ship(model, path, form, samples, tolerance)
    record = model.record
    return Exported(path, form.name, record.get("method", ""), record.get("seed"), check, tuple(notes))


def _samples(task: Task, model: AdaptedModel) -> list[Any]:
    """Some samples from all over the data, as the network takes them."""
    divided_task = divided(task, model.source)
    count = len(divided_task.samples)
    return [divided_task.samples[int(i)] for i in np.unique(np.linspace(0, count - 1, _NUM_SAMPLES).round())]


def _trained(
    run: Path, task: Task, form: Format, method: str | None, seed: int | None, source: Source | None
) -> AdaptedModel:
    """What a trial trained, as it was scored, or as it was before its updates were merged."""
    kept = RunFolder(run)
    board = kept.board()
    source = _source(kept, run, source)
    task = replace(task, **_classes_and_kind(board, run))
    for name in _candidates(board, run, method):
        plan = _plan(_trial(board, run, name, None), source, task)
        if not form.merged and not adapted_layers(plan.network.body):
            continue
        trial = _trial(board, run, name, seed)
        plan = _plan(trial, source, task)
        trained, head = kept.trained(name, trial.seed)
        network = restore(plan if form.merged else replace(plan, finish=None), trained, head)
        if not form.merged:
            network.body = with_own_factors(network.body)
        record = {"method": name, "seed": trial.seed, "settings": trial.settings}
        return AdaptedModel(network, source, task.classes, record, task.kind)
    told = f"{method} has" if method else "None of its methods has"
    raise RunError(
        f"The run in {run} cannot be exported as an adapter: {told} no low-rank layers; expected a method that adds "
        "some, e.g. lora. Other formats hold whole networks: bequest export RUN model.onnx."
    )


def _classes_and_kind(board: Leaderboard, run: Path) -> dict[str, Any]:
    classes, kind = board.task.get("classes"), board.task.get("kind")
    if kind not in get_args(Kind) or not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
        raise RunError(
            f"{run / BOARD_FILE} does not say what the task is; expected its kind, and the names of its classes. "
            "Restore the file, or run again."
        )
    return {"classes": tuple(classes), "kind": kind}


def _candidates(board: Leaderboard, run: Path, method: str | None) -> list[str]:
    """Methods to look at, best first."""
    ranked = [row.method for row in board.rows if row.median_seed is not None]
    if method is None:
        return ranked
    if method not in ranked:
        raise RunError(f"The run in {run} has no finished trial of {method!r}. {nearest(method, ranked)}")
    return [method]


def _trial(board: Leaderboard, run: Path, method: str, seed: int | None) -> TrialRecord:
    row = next(row for row in board.rows if row.method == method)
    wanted = row.median_seed if seed is None else seed
    trials = {trial.seed: trial for trial in board.trials if trial.method == method and trial.error is None}
    if wanted not in trials:
        raise RunError(
            f"The run in {run} has no finished trial of {method!r} with seed {wanted}; expected one of "
            f"{', '.join(map(str, sorted(trials)))}."
        )
    return trials[wanted]


def _source(kept: RunFolder, run: Path, given: Source | None) -> Source:
    request = kept.settings.get("source") or {}
    if given is None and "pretrained" not in request:
        raise RunError(
            f"The run in {run} was made from a module that only Python had; expected a named source. Give it: "
            "bequest.export(run, path, source=bequest.from_module(...))."
        )
    source = given or get(**request)
    if source.fingerprint != kept.weights:
        raise RunError(
            f"{source.name!r} has other weights than the source of the run in {run}; expected the same, since "
            "what was trained adds to them. Restore its files, or run again."
        )
    return replace(source, request=source.request or request)


def _plan(trial: TrialRecord, source: Source, task: Task) -> Plan:
    """The plan of a trial, made again as it was."""
    info = get_method(taught_by(trial.method))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial.seed)
        return info.build(untaught(trial.settings)).plan(source, task)
