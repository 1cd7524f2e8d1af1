"""Trials and rows in real trackers, read back with their own readers."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bequest.comparison.statistics import make_row
from bequest.core.errors import RunError
from bequest.core.observe import Silent
from bequest.core.results import Epoch, Leaderboard, TrialRecord
from bequest.ui import tracking
from bequest.ui.tracking import Tracked, check_trackers

EPOCHS = [Epoch(0, 0, None, 1.6, 0.2, None, 0.5), Epoch(0, 1, 1.1, 0.9, 0.7, 0.001, 2.0)]
TRIALS = [
    TrialRecord(
        method="lora, distilled",
        seed=seed,
        settings={"rank": 4, "layers": ["query", "value"], "schedule": None},
        validation=0.7 + 0.1 * seed,
        test=0.6,
        metrics={"macro-F1": 0.5},
        epochs=EPOCHS,
        train_s=2.5,
    )
    for seed in (0, 1)
]
NAME = "lora, distilled seed 1"


class Listener(Silent):
    """Remembers what it heard."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.trials: list[TrialRecord] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def trial(self, record: TrialRecord, board: Leaderboard) -> None:
        self.trials.append(record)


def carried_out(folder: Path, names: list[str], trials: list[TrialRecord] = TRIALS) -> Listener:
    listener = Listener()
    with Tracked(listener, check_trackers(names), folder) as observer:
        for number, trial in enumerate(trials):
            rows = [make_row(trials[: number + 1])]
            observer.trial(trial, Leaderboard(rows, {}, {}, {}, {}, {}, trials[: number + 1]))
    assert listener.notes == [] and listener.trials == trials
    return listener


def test_tensorboard_has_each_trials_course_and_each_rows_means(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    carried_out(tmp_path, ["tensorboard"])
    carried_out(tmp_path, ["tensorboard"])  # a run that goes on logs nothing twice

    def values(name: str, tag: str) -> list[tuple[int, float]]:
        events = EventAccumulator(str(tmp_path / "tracking" / "tensorboard" / name)).Reload()
        return [(event.step, pytest.approx(event.value)) for event in events.Scalars(tag)]

    assert values(NAME, "epoch/validation_loss") == [(0, 1.6), (1, 0.9)]
    assert values(NAME, "epoch/validation_accuracy") == [(0, 0.2), (1, 0.7)]
    assert values(NAME, "epoch/train_loss") == [(1, 1.1)]
    assert values(NAME, "final/train_s") == [(1, 2.5)]
    assert values(NAME, "final/test_macro_f1") == [(1, 0.5)]
    assert values("lora, distilled", "final/validation") == [(0, 0.75)]
    assert values("lora, distilled", "final/validation_sem") == [(0, 0.05)]


def test_what_was_not_measured_is_not_logged_as_nothing() -> None:
    numbers = tracking._numbers(TRIALS[0])
    assert "final/peak_memory_bytes" not in numbers and numbers["final/optimizer_bytes"] == 0
    assert tracking._numbers(replace(TRIALS[0], peak_memory_bytes=7))["final/peak_memory_bytes"] == 7


def test_numbers_of_labels_are_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[str] = []
    monkeypatch.setattr(tracking, "TRACKERS", {"wandb": lambda *of: started.append(of[-1]) or nullcontext(Fake())})
    with Tracked(Silent(), ["wandb"], tmp_path) as observer:
        for labels in (80, 20):
            for number, trial in enumerate(TRIALS):
                rows = [make_row(TRIALS[: number + 1])]
                observer.trial(trial, Leaderboard(rows, {}, {}, {"train_size": labels}, {}, {}, TRIALS[: number + 1]))
    own = ["lora, distilled seed 0", NAME]
    smaller = [f"{name}, 20 labels" for name in own]
    assert started == [*own, *smaller, "lora, distilled", "lora, distilled, 20 labels"]


def test_mlflow_keeps_them_in_an_sqlite_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow: Any = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    pytest.importorskip("alembic")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "reviews"
    carried_out(folder, ["mlflow"])
    assert not mlflow.is_tracking_uri_set(), "the user's own runs go where they went"
    carried_out(folder, ["mlflow"])
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'tracking' / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("reviews")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert sorted(runs) == ["lora, distilled", "lora, distilled seed 0", NAME]
    run = runs[NAME]
    assert run.data.params["rank"] == "4" and run.data.params["seed"] == "1"
    assert run.data.metrics["final/validation"] == pytest.approx(0.8)
    history = client.get_metric_history(run.info.run_id, "epoch/validation_loss")
    assert [(point.step, point.value) for point in history] == [(0, 1.6), (1, 0.9)]
    assert run.info.status == "FINISHED"


def test_weights_and_biases_stays_on_the_machine(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("wandb")
    carried_out(tmp_path, ["wandb"], TRIALS[:1])
    assert "wandb" not in "".join(capfd.readouterr()), "what it says of each run would hide the leaderboard"
    found = list((tmp_path / "tracking" / "wandb").rglob("offline-run-*/*.wandb"))
    assert len(found) == 2, "one of the trial and one of the row"
    assert all(file.stat().st_size for file in found)


def test_a_failed_trial_has_its_error_among_its_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = Fake()
    monkeypatch.setattr(tracking, "TRACKERS", {"tensorboard": lambda *_: nullcontext(fake)})
    failed = replace(TRIALS[0], error="Out of memory.", validation=None, test=None, epochs=[], metrics={})
    with Tracked(Silent(), ["tensorboard"], tmp_path) as observer:
        observer.trial(failed, Leaderboard([], {}, {}, {}, {}, {}, [failed]))
    assert fake.settings["error"] == "Out of memory." and fake.settings["layers"] == "['query', 'value']"
    assert fake.finished == 1


def test_a_tracker_that_fails_is_told_of_once_and_loses_no_trial(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tracking, "TRACKERS", {"mlflow": lambda *_: nullcontext(Fake(error=OSError("disk full")))})
    listener = Listener()
    with Tracked(listener, ["mlflow"], tmp_path) as observer:
        for trial in TRIALS:
            observer.trial(trial, Leaderboard([], {}, {}, {}, {}, {}, TRIALS))
    assert listener.notes == ["mlflow failed and hears no more of this run (disk full); the run goes on."]
    assert listener.trials == TRIALS


class Fake:
    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.settings, self.finished = error, {}, 0

    def start(self) -> None:
        if self.error:
            raise self.error

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.settings = values

    def log(self, values: dict[str, float], step: int) -> None: ...

    def finish(self) -> None:
        self.finished += 1


def test_faults_are_named_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(RunError) as caught:
        check_trackers("tensorbord, mlflow")
    first, second = str(caught.value).splitlines()
    assert (
        first == "--track 'tensorbord' is unknown; expected tensorboard or mlflow or wandb. Did you mean 'tensorboard'?"
    )
    assert second.endswith("which is not installed. Install it: pip install 'bequest[mlflow]'")


@pytest.mark.parametrize("nothing", [None, "", []])
def test_no_trackers_are_the_default(nothing: Any, tmp_path: Path) -> None:
    assert check_trackers(nothing) == ()
    with Tracked(Listener(), (), tmp_path) as observer:
        observer.trial(TRIALS[0], Leaderboard([], {}, {}, {}, {}, {}, TRIALS))
    assert list(tmp_path.iterdir()) == []
