"""What a run trained, written for other libraries from the tensors that its folder keeps: nothing is trained again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bequest.comparison.folder import RunFolder
from bequest.core.distillation import taught_by, untaught
from bequest.core.errors import RunError, nearest
from bequest.core.plan import Plan
from bequest.core.registry import get_method
from bequest.core.results import Leaderboard, TrialRecord
from bequest.core.task import Modality, Task
from bequest.engine.run import restore
from bequest.nn.peft_layout import adapted_layers, with_own_factors
from bequest.sources import Source, get
from bequest.sources import adapter as adapters


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: Where it lies.
        method: The method whose trial it is.
        seed: The trial's.
        notes: What the user should know of the files.
    """

    folder: Path
    method: str
    seed: int
    notes: tuple[str, ...]


def export_adapter(
    run: Path, folder: Path, *, method: str | None = None, seed: int | None = None, source: Source | None = None
) -> Exported:
    """Write what a low-rank method trained into the files of the PEFT library.

    Args:
        run: A run's folder.
        folder: Where the files go.
        method: The method's name; None for the best one that has low-rank layers.
        seed: The trial's; None for the median one by the held-out score.
        source: Needed where the run was made from an `nn.Module` of yours.

    Raises:
        RunError: The run has no such trial, the source is not the one that it was made from, or a folder cannot be
            used.
        SourceError: The source cannot be had.
    """
    kept = RunFolder(run)
    board = kept.board()
    source = _source(kept, run, source)
    for name in _candidates(board, run, method):
        if not adapted_layers(_plan(_trial(board, run, name, None), source, board).network.body):
            continue
        trial = _trial(board, run, name, seed)
        plan = _plan(trial, source, board)
        trained, head = kept.trained(name, trial.seed)
        network = restore(replace(plan, finish=None), trained, head)
        network.body = with_own_factors(network.body)
        notes = adapters.write(folder, network, source, tuple(board.task["classes"]))
        return Exported(folder, name, trial.seed, tuple(notes))
    told = f"{method} has" if method else "None of its methods has"
    raise RunError(
        f"The run in {run} cannot be exported as an adapter: {told} no low-rank layers; expected a method that adds "
        "some, e.g. lora. Its best model is complete in the folder 'best'."
    )


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
            "bequest.export(run, folder, source=bequest.from_module(...))."
        )
    source = given or get(**request)
    if source.fingerprint != kept.weights:
        raise RunError(
            f"{source.name!r} has other weights than the source of the run in {run}; expected the same, since an "
            "adapter adds to them. Restore its files, or run again."
        )
    return replace(source, request=source.request or request)


def _plan(trial: TrialRecord, source: Source, board: Leaderboard) -> Plan:
    """The plan of a trial, made again as it was; of the task it needs what the board says of it."""
    info = get_method(taught_by(trial.method))
    about = board.task
    task = Task(
        about["name"],
        _None(source.modality),
        np.zeros(0, np.int64),
        tuple(about["classes"]),
        kind=about.get("kind", "classification"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial.seed)
        return info.build(untaught(trial.settings)).plan(source, task)


@dataclass(frozen=True)
class _None(Sequence[Any]):
    """No samples, of a modality."""

    modality: Modality

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: Any) -> Any:
        raise IndexError(index)

    def content_hash(self, index: int) -> bytes:
        raise IndexError(index)

    def describe(self, index: int) -> str:
        raise IndexError(index)
