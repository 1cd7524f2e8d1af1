"""A run, or one trial of it, again from what its folder records."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from bequest.api.comparisons import compare
from bequest.api.inputs import load_recorded
from bequest.api.runs import Run
from bequest.comparison.folder import BOARD_FILE, RUN_FILE, RunFolder
from bequest.core.distillation import taught_by
from bequest.core.errors import RunError
from bequest.core.observe import Observer
from bequest.core.results import Leaderboard
from bequest.core.task import Kind, Task
from bequest.core.typed import check_fields
from bequest.engine.windows import divided
from bequest.sources import Source
from bequest.sources import get as get_source


@dataclass(frozen=True)
class _Data:
    """What data were loaded with: the arguments of `bequest.load_task`."""

    path: str | list[str]
    task: str
    text_column: str | None
    image_column: str | None
    label_column: str | list[str] | None
    split_column: str | None
    group_column: str | None
    encoding: str
    skip_bad: bool


@dataclass(frozen=True)
class _Request:
    """What a source was asked for by: the arguments of `bequest.sources.get`."""

    name: str
    max_tokens: int | None
    image_size: int | None
    head: str | None
    pooling: str | None
    cut_at: str | None
    adapter: str | None
    init_from: str | None
    init_layers: int | None
    init_width: int | None
    selection: str | None
    pretrained: bool
    kind: Kind


@dataclass(frozen=True)
class _Recorded:
    """What a run's settings must tell to be replayed: the arguments of `bequest.compare`."""

    source: _Request
    data: _Data
    source_data: _Data | None
    methods: list[str]
    settings: dict[str, dict[str, Any]]
    seeds: list[int]
    train_size: int | None
    train_sizes: list[int] | None
    test_size: float
    split_seed: int
    folds: int | None
    select_by: str
    tune: int | None
    budget: str | float | None
    precision: str
    views: int | str | None
    augment: str | None
    cut: bool
    teacher: list[_Request] | None
    distillation: dict[str, Any] | None
    temperatures: list[float] | None
    unlabelled: str | None
    measure_memory: bool

    @classmethod
    def of(cls, run: str | Path) -> _Recorded:
        """What a run's file tells.

        Raises:
            RunError: Something is lacking, or of another kind.
        """
        settings = RunFolder(Path(run)).settings
        try:
            lacking = [field.name for field in fields(cls) if field.name not in settings]
            if lacking:
                raise TypeError(f"it lacks {', '.join(lacking)}")
            found: dict[str, Any] = {field.name: settings[field.name] for field in fields(cls)}
            for name, kind in (("source", _Request), ("data", _Data), ("source_data", _Data)):
                found[name] = _made(kind, found[name])
            if isinstance(found["teacher"], list):
                found["teacher"] = [_made(_Request, request) for request in found["teacher"]]
            recorded = cls(**found)
            check_fields(recorded)
        except TypeError as error:
            raise RunError(
                f"{Path(run) / RUN_FILE} is not as bequest wrote it: {error}. Restore the file, or run again."
            ) from error
        return recorded


def _made(kind: type[Any], value: Any) -> Any:
    """What a description stands for; itself where it is none, which is then told by its name."""
    return kind(**value) if isinstance(value, dict) else value


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
    recorded = _Recorded.of(folder)
    source = get_source(**vars(recorded.source))
    task = divided(load_recorded(vars(recorded.data), data), source)
    then = earlier.board()
    expected = then.task.get("fingerprint")
    if task.fingerprint != expected:
        raise RunError(
            f"The data have changed since the run in {folder}: fingerprint {task.fingerprint}, expected {expected}. "
            "Restore them, or name their place: --data."
        )
    run = _again(recorded, task, source, out=out, observer=observer, progress=progress)
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
    recorded = _Recorded.of(run)
    source = get_source(**vars(recorded.source))
    name = taught_by(method)
    changes: dict[str, Any] = {
        "methods": [name],
        "settings": {k: v for k, v in recorded.settings.items() if k == name},
        "seeds": [seed],
        "train_size": max(recorded.train_sizes) if recorded.train_sizes else recorded.train_size,
        "train_sizes": None,
        "measure_memory": False,
    }
    if name == method:
        changes |= dict.fromkeys(("teacher", "distillation", "temperatures", "unlabelled"))
    elif recorded.temperatures:
        changes["temperatures"] = [float(method.rpartition(" ")[2])]
    task = divided(load_recorded(vars(recorded.data)), source)
    place = {"out": Path(out) / "run", "cache": Path(out) / "cache"}
    _again(replace(recorded, **changes), task, source, **place, observer=observer, progress=False)


def _again(recorded: _Recorded, task: Task, source: Source, **place: Any) -> Run:
    """A comparison as a run's file records it; `place` says where it goes and who hears of it."""
    own, teachers = recorded.source_data, recorded.teacher
    arguments = {name: value for name, value in vars(recorded).items() if name not in ("source", "data")}
    arguments["source_data"] = own and load_recorded(vars(own))
    arguments["teacher"] = teachers and [get_source(**vars(request)) for request in teachers]
    return compare(task, source, **arguments, **place)


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
