"""Trackers that people have: each trial's course and result go to TensorBoard, MLflow or Weights & Biases as well."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from bequest.comparison.folder import digest
from bequest.core.errors import RunError, nearest
from bequest.core.observe import Observer
from bequest.core.results import Interval, Leaderboard, Row, TrialRecord, read_json, write_json

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

FOLDER = "tracking"
_LOGGED = "logged.json"

Start = Callable[[Path, str, str], AbstractContextManager["GeneralTracker"]]
"""Makes a tracker of one trial or row, not yet started, from its own folder, the run's name and its own name."""


@contextmanager
def _tensorboard(folder: Path, run: str, name: str) -> Generator[GeneralTracker]:
    from accelerate.tracking import TensorBoardTracker

    yield TensorBoardTracker(name, folder)


@contextmanager
def _mlflow(folder: Path, run: str, name: str) -> Generator[GeneralTracker]:
    import mlflow
    from accelerate.tracking import MLflowTracker

    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # Where the user has named a server, the runs go there.
    own = not mlflow.is_tracking_uri_set()
    if own:
        mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    try:
        yield MLflowTracker(run, logging_dir=(folder / "artifacts").as_uri(), run_name=name)
    finally:
        if own:
            mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]


@contextmanager
def _wandb(folder: Path, run: str, name: str) -> Generator[GeneralTracker]:
    from accelerate.tracking import WandBTracker

    # Nothing leaves the machine: `wandb sync` sends it when the user says so. It would print thirty lines a trial.
    yield WandBTracker(run, name=name, dir=str(folder), mode="offline", settings={"silent": True})


TRACKERS: Mapping[str, Start] = {"tensorboard": _tensorboard, "mlflow": _mlflow, "wandb": _wandb}
"""By name, which is that of the package and of the extra."""


def check_trackers(track: str | Sequence[str] | None) -> tuple[str, ...]:
    """Names of trackers, each known and installed.

    Args:
        track: Names, with commas between where they are one text.

    Raises:
        RunError: A tracker is unknown or not installed; all faults at once.
    """
    names = track.split(",") if track and isinstance(track, str) else track or ()
    found = tuple(dict.fromkeys(name.strip() for name in names))
    faults: list[str] = []
    for name in found:
        if name not in TRACKERS:
            faults.append(f"--track {name!r} is unknown; expected {' or '.join(TRACKERS)}. {nearest(name, TRACKERS)}")
        elif find_spec(name) is None:
            faults.append(
                f"--track {name} needs the package {name!r}, which is not installed. Install it: pip install "
                f"'bequest[{name}]'"
            )
    if faults:
        raise RunError("\n".join(faults))
    return found


class Tracked:
    """An observer that passes on what it hears, and tells trackers of every trial; a context manager.

    Each trial is a run of the tracker: settings, losses and metric by epoch, and every number of its record at the end.
    Each row is another one, of means over seeds. Of a comparison at several numbers of labels, the first that is heard
    of has plain names, and the others' names end in their number. A trial that was logged before is not logged again,
    so that a comparison that goes on leaves none twice. A tracker that fails is told of once and left out from then on.

    Args:
        observer: Hears of everything.
        names: From `check_trackers`.
        folder: The run's; trackers write into its `tracking/`.
    """

    def __init__(self, observer: Observer, names: Sequence[str], folder: Path) -> None:
        self._observer, self._boards = observer, dict[str, Leaderboard]()
        self._run = folder.resolve().name
        self._places = {name: folder.resolve() / FOLDER / name for name in names}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return
        for size, board in self._boards.items():
            for row in board.rows:
                self._log(self._named(row.method, size), asdict(row), row.settings, [], _row_numbers(row))

    def note(self, text: str) -> None:
        """Passed on."""
        self._observer.note(text)

    def progress(self, label: str, done: int, total: int) -> None:
        """Passed on."""
        self._observer.progress(label, done, total)

    def trial(self, record: TrialRecord, board: Leaderboard) -> None:
        """Passed on, and logged."""
        self._observer.trial(record, board)
        size = str(board.protocol.get("train_size", ""))
        self._boards[size] = board
        settings = {**record.settings, "seed": record.seed, **({"error": record.error} if record.error else {})}
        name = self._named(f"{record.method} seed {record.seed}", size)
        self._log(name, asdict(record), settings, _course(record), _numbers(record))

    def _named(self, name: str, size: str) -> str:
        return name if size == next(iter(self._boards)) else f"{name}, {size} labels"

    def _log(
        self,
        name: str,
        record: Mapping[str, Any],
        settings: Mapping[str, Any],
        course: Sequence[dict[str, float]],
        result: dict[str, float],
    ) -> None:
        key = digest({"name": name, "record": dict(record)})
        for tracker, place in list(self._places.items()):
            try:
                logged = read_json(place / _LOGGED) if (place / _LOGGED).is_file() else []
                if key in logged:
                    continue
                place.mkdir(parents=True, exist_ok=True)
                with TRACKERS[tracker](place, self._run, name) as opened:
                    _send(opened, settings, course, result)
                write_json(place / _LOGGED, [*logged, key])
            # What a tracker's library raises is not ours to know, and no trial may be lost over it.
            except Exception as error:
                del self._places[tracker]
                self._observer.note(f"{tracker} failed and hears no more of this run ({error}); the run goes on.")


def _send(
    tracker: GeneralTracker,
    settings: Mapping[str, Any],
    course: Sequence[dict[str, float]],
    result: dict[str, float],
) -> None:
    from accelerate import PartialState

    PartialState()  # which trackers ask whether this process is the one that logs
    tracker.start()
    try:
        plain = (bool, int, float, str)
        tracker.store_init_configuration({k: v if isinstance(v, plain) else str(v) for k, v in settings.items()})
        for step, values in enumerate(course):
            tracker.log(values, step=step)
        if result:
            tracker.log(result, step=max(len(course) - 1, 0))
    finally:
        tracker.finish()


def _course(record: TrialRecord) -> list[dict[str, float]]:
    """Values of each epoch, through all stages."""
    metric = f"epoch/validation_{_plain(record.metric)}"
    return [
        {
            "epoch/validation_loss": epoch.validation_loss,
            metric: epoch.validation_metric,
            **({} if epoch.train_loss is None else {"epoch/train_loss": epoch.train_loss}),
            **({} if epoch.learning_rate is None else {"epoch/learning_rate": epoch.learning_rate}),
            "epoch/seconds": epoch.seconds,
        }
        for epoch in record.epochs
    ]


_UNMEASURED = ("peak_memory_bytes", "accelerator_memory_bytes")
"""Numbers that are 0 where nothing was measured."""


def _numbers(record: TrialRecord | Row) -> dict[str, float]:
    """Every number of a record: scores and costs."""
    found = {field.name: getattr(record, field.name) for field in fields(record) if field.name != "seed"}
    numbers = {k: v for k, v in found.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    numbers = {name: value for name, value in numbers.items() if value or name not in _UNMEASURED}
    if isinstance(record, TrialRecord):
        numbers |= {f"test_{_plain(name)}": value for name, value in record.metrics.items()}
    return {f"final/{name}": value for name, value in numbers.items()}


def _row_numbers(row: Row) -> dict[str, float]:
    """Every number of a row, and mean and standard error of each score."""
    scores = {"validation": row.validation, "test": row.test} | {
        f"test_{_plain(name)}": found for name, found in row.metrics.items()
    }
    numbers = _numbers(row)
    numbers.pop("final/median_seed", None)
    for name, interval in scores.items():
        if isinstance(interval, Interval):
            numbers[f"final/{name}"] = interval.mean
            numbers |= {} if interval.sem is None else {f"final/{name}_sem": interval.sem}
    return numbers


def _plain(name: str) -> str:
    """A metric's name in signs that every tracker takes."""
    return re.sub(r"\W+", "_", name.replace("²", "2"), flags=re.ASCII).strip("_").lower()
