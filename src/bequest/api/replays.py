"""A run, or one trial of it, again from what its folder records."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bequest.api.comparisons import compare
from bequest.api.inputs import load_recorded
from bequest.api.runs import Run
from bequest.comparison.folder import BOARD_FILE, RunFolder
from bequest.core.distillation import taught_by
from bequest.core.errors import RunError
from bequest.core.observe import Observer
from bequest.core.results import Leaderboard
from bequest.core.task import Task
from bequest.engine.windows import divided
from bequest.sources import Source
from bequest.sources import get as get_source

_REPLAYED = {
    *("source", "data", "source_data", "methods", "settings", "seeds", "train_size", "test_size", "split_seed"),
    *("select_by", "precision", "views", "augment", "cut", "teacher", "distillation", "temperatures", "unlabelled"),
}
"""What a run's settings must tell to be replayed."""


def replay(
    folder: str | Path,
    *,
    out: str | Path,
    data: str | Path | None = None,
    observer: Observer | None = None,
    progress: bool = True,
) -> Run:
    """Run again what an earlier run's folder records, and say whether the results are the same.

    Args:
        folder: The earlier run.
        out: A new folder.
        data: Where the data lie now; None for where they lay.
        observer: Hears of progress; None shows it in the terminal if `progress`.
        progress: Whether to show anything.

    Raises:
        RunError: The run was made from Python objects that no file holds, the data have changed, or a test score
            differs although versions and machine type agree.
    """
    earlier = RunFolder(Path(folder))
    settings = earlier.settings
    if "taps" in settings:
        raise RunError(
            f"{folder} holds a probe; expected a comparison. To repeat the probe, run it again with another --out."
        )
    if not settings.get("replayable"):
        raise RunError(
            f"The run in {folder} was made from data or a module that only Python had; expected a data path and a "
            "named source. Call bequest.compare with them again; run.json holds all other settings."
        )
    lacking = sorted(_REPLAYED - settings.keys())
    if lacking or not isinstance(settings["source"], dict):
        raise RunError(
            f"{Path(folder) / 'run.json'} has no settings {', '.join(lacking) or 'of a source'}; expected what bequest "
            "wrote. Restore the file, or run again."
        )
    source = get_source(**settings["source"])
    task = divided(load_recorded(settings["data"], data), source)
    then = earlier.board()
    if task.fingerprint != then.task["fingerprint"]:
        raise RunError(
            f"The data have changed since the run in {folder}: fingerprint {task.fingerprint}, expected "
            f"{then.task['fingerprint']}. Restore them, or name their place: --data."
        )
    run = _again(settings, task, source, out=out, observer=observer, progress=progress)
    _check_same(then, run.board)
    return run


def repeat(run: str | Path, method: str, seed: int, out: str | Path, *, observer: Observer) -> None:
    """Run one trial of a run again, with nothing stored before.

    Args:
        run: Folder of the run, which files hold whole.
        method: The row's name. With a teacher the same method without one runs before it.
        seed: The trial's.
        out: An empty folder.
        observer: Hears of progress.
    """
    settings = RunFolder(Path(run)).settings
    source = get_source(**settings["source"])
    name = taught_by(method)
    changes: dict[str, Any] = {
        "methods": [name],
        "settings": {k: v for k, v in settings["settings"].items() if k == name},
        "seeds": [seed],
        "train_size": max(settings["train_sizes"]) if settings["train_sizes"] else settings["train_size"],
        "train_sizes": None,
        "measure_memory": False,
    }
    if name == method:
        changes |= dict.fromkeys(("teacher", "distillation", "temperatures", "unlabelled"))
    elif settings["temperatures"]:
        changes["temperatures"] = [float(method.rpartition(" ")[2])]
    task = divided(load_recorded(settings["data"]), source)
    place = {"out": Path(out) / "run", "cache": Path(out) / "cache"}
    _again({**settings, **changes}, task, source, **place, observer=observer, progress=False)


def _again(settings: Mapping[str, Any], task: Task, source: Source, **place: Any) -> Run:
    """A comparison as a run's file records it; `place` says where it goes and who hears of it."""
    own, teachers = settings["source_data"], settings["teacher"]
    names = (
        "methods settings seeds train_size train_sizes test_size split_seed folds select_by precision views augment "
        "cut distillation temperatures unlabelled measure_memory tune budget"
    )
    return compare(
        task,
        source,
        source_data=own and load_recorded(own),
        teacher=teachers and [get_source(**request) for request in teachers],
        **{name: settings[name] for name in names.split()},
        **place,
    )


def _check_same(then: Leaderboard, now: Leaderboard) -> None:
    scores = [_scores(board) for board in (then, now)]
    differing = [name for name, score in scores[0].items() if scores[1].get(name) != score]
    if differing:
        changed = [
            f"{key} was {then.environment.get(key)}, is {value}"
            for key, value in now.environment.items()
            if then.environment.get(key) != value
        ]
        raise RunError(
            f"The replay gave other scores for {', '.join(differing)}; expected the same. "
            + (f"What differs: {'; '.join(changed)}." if changed else "Versions and machine type agree.")
            + f" Compare the two {BOARD_FILE} files."
        )


def _scores(board: Leaderboard) -> dict[str, Any]:
    """Every score of a comparison, by what it is of."""
    trials = {f"{t.method} seed {t.seed}": (t.validation, t.test) for t in board.trials if t.error is None}
    curves = board.learning_curves.curves if board.learning_curves else []
    points = {f"{c.method} with {p.labels} labels": (p.seeds, p.values) for c in curves for p in c.points}
    return {**trials, **points}
