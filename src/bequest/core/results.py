"""Records of runs, and their JSON."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal

from bequest.core.errors import RunError
from bequest.core.intervals import Difference
from bequest.core.learning_curves import LearningCurves
from bequest.core.parse import parse_json
from bequest.core.questions import Questions, Weights
from bequest.core.typed import check_fields

SelectBy = Literal["metric", "worst-group"]

WORST_GROUP = "worst_group_accuracy"
"""In a record's further metrics: the lowest accuracy of a group that has samples in the part."""


def goodness(scored: TrialRecord | Row, value: float) -> float:
    """A value of the metric as a number that is the higher the better, whatever the metric's direction."""
    return value if scored.higher_is_better else -value


@dataclass(frozen=True)
class GroupScore:
    """The accuracy of a group.

    Attributes:
        score: Share of its samples that were predicted right.
        samples: How many it has in the part.
    """

    score: float
    samples: int


@dataclass(frozen=True)
class Epoch:
    """One epoch of a Train stage; `epoch` 0 is before training.

    Attributes:
        stage: Which stage of the plan, from 0.
        epoch: Passes over the training part so far.
        train_loss: Mean over the epoch; None before training.
        validation_loss: After the epoch; of a regression in units of the train part's standard deviation.
        validation_metric: After the epoch.
        learning_rate: Of the last group (the head) at the epoch's last step.
        seconds: Training time of this epoch, validation included.
        optimizer_bytes: Bytes of the optimizer's state after the epoch.
        steps: Optimizer steps of this epoch; None in records that do not tell.
    """

    stage: int
    epoch: int
    train_loss: float | None
    validation_loss: float
    validation_metric: float
    learning_rate: float | None
    seconds: float
    optimizer_bytes: int = 0
    steps: int | None = None


@dataclass(frozen=True)
class TrialRecord:
    """One method at one seed.

    Attributes:
        method: The row's name.
        seed: Redraws labels, initialisation and order.
        settings: Every hyperparameter as it was used.
        error: Why there is no result; None where there is one.
        metric: Name of the metric.
        validation: The metric on the held-out labels.
        validation_loss: Mean loss of the task's kind on the held-out labels, a regression's in its own units.
        test: The metric on the test part.
        test_loss: Mean loss on the test part.
        metrics: Further metrics on the test part, by name.
        confusion: Test counts (classes × classes), rows are true classes; empty where a sample has no one class.
        by_class: Of each class how many test samples belong to it and are taken for it, belong to it, and are taken
            for it (classes × 3); empty where there are no classes.
        scatter: Of a regression, true and predicted value of each target for up to 500 test samples
            (samples × targets × 2); else empty.
        epochs: The course of training; empty for solved methods.
        epochs_planned: Epochs the method would run without early stopping; 0 for solved methods.
        solved: What solvers recorded (penalty, its path).
        trainable_parameters: Numbers that were trained or solved.
        stored_bytes: Bytes of what has to be stored beside the source (adapters, head, or all).
        optimizer_bytes: Bytes of the optimizer's state at the end of the last Train stage; 0 for solved methods.
        train_s: Seconds of fitting, the method's share of shared features included.
        shared_s: The part of `train_s` that stands for passes which all methods share.
        peak_memory_bytes: Largest resident memory of a process that ran this trial and nothing else; 0 where that was
            not measured.
        added_memory_bytes: How far the trial raised the resident memory of the process that ran all of them.
        accelerator_memory_bytes: The most that tensors took on the accelerator during the trial; 0 without one.
        inference_per_s: Samples a second through the finished network, in batches.
        latency_p50_ms: Milliseconds that it takes for a sample alone, median.
        latency_p95_ms: The same, 95th percentile.
        forward_flops: Floating-point operations of its forward pass of one sample, as PyTorch counts them.
        frozen_samples: Samples that this trial sent through a frozen body (0 when all were in the store).
        asked_samples: Samples that it asked frozen functions about, the same ones of the same function counted once.
        labels: How many labels it saw.
        merged: Whether trained low-rank weights were merged into plain layers.
        frozen_shares: Of each training stage that ran from what its frozen layers made of the samples, the share of the
            forward pass that was so computed once.
        validation_worst_group: Worst-group accuracy on the held-out labels; None without groups.
        groups: Accuracy on the test part of each group that has samples there, by name; empty without groups.
        weights: What training did to the weights; None where that was not measured.
        higher_is_better: The metric's direction.
    """

    method: str
    seed: int
    settings: dict[str, Any]
    error: str | None = None
    metric: str = "accuracy"
    validation: float | None = None
    validation_loss: float | None = None
    test: float | None = None
    test_loss: float | None = None
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    confusion: list[list[int]] = field(default_factory=list[list[int]])
    by_class: list[list[int]] = field(default_factory=list[list[int]])
    scatter: list[list[list[float]]] = field(default_factory=list[list[list[float]]])
    epochs: list[Epoch] = field(default_factory=list[Epoch])
    epochs_planned: int = 0
    solved: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    trainable_parameters: int = 0
    stored_bytes: int = 0
    optimizer_bytes: int = 0
    train_s: float = 0.0
    shared_s: float = 0.0
    peak_memory_bytes: int = 0
    added_memory_bytes: int = 0
    accelerator_memory_bytes: int = 0
    inference_per_s: float | None = None
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    forward_flops: int | None = None
    frozen_samples: int = 0
    asked_samples: int = 0
    labels: int = 0
    merged: bool = False
    frozen_shares: list[float] = field(default_factory=list[float])
    validation_worst_group: float | None = None
    groups: dict[str, GroupScore] = field(default_factory=dict[str, GroupScore])
    weights: Weights | None = None
    higher_is_better: bool = True

    def selection(self, select_by: SelectBy) -> float | None:
        """The score on held-out labels that a trial is chosen by."""
        return self.validation_worst_group if select_by == "worst-group" else self.validation

    def tested(self, select_by: SelectBy) -> float | None:
        """The same score on the test part."""
        return self.metrics.get(WORST_GROUP) if select_by == "worst-group" else self.test

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TrialRecord:
        """The record that `asdict` made `data` of.

        Raises:
            RunError: `data` has other fields than this version's.
        """
        with _fields_of("a trial's record"):
            epochs = [Epoch(**e) for e in data.get("epochs", [])]
            groups = {name: GroupScore(**found) for name, found in data.get("groups", {}).items()}
            weights = Weights.from_json(data["weights"]) if data.get("weights") else None
            values: dict[str, Any] = {**data, "epochs": epochs, "groups": groups, "weights": weights}
            record = cls(**values)
            check_fields(record)
            return record


@dataclass(frozen=True)
class Interval:
    """A mean over seeds.

    Attributes:
        mean: Over the seeds.
        sem: Standard error of the mean; None with one seed.
        seeds: How many.
        values: One a seed, in the order of the seeds.
        low: Lower end of the mean's t-interval at 95 %; None with one seed, or where all values are equal.
        high: Its upper end.
    """

    mean: float
    sem: float | None
    seeds: int
    values: list[float]
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Versus:
    """A row against the best one on the test part, by the score that rows are ranked by.

    Attributes:
        difference: The row's score minus the best row's, mean over the seeds that both finished.
        low: Lower end of its 95 % interval, which counts seeds and test samples as drawn at random.
        high: Its upper end.
        p: How probable so large a difference is between equals, corrected for the number of rows that are compared.
        indistinguishable: Whether `p` is above 0.05.
        seeds: That both finished.
        samples: Test samples; of texts in pieces, the texts.
    """

    difference: float
    low: float
    high: float
    p: float
    indistinguishable: bool
    seeds: int
    samples: int


@dataclass(frozen=True)
class Row:
    """One method over its seeds; costs, as in `TrialRecord`, are means over them, memory their maximum.

    `metrics` holds further metrics on the test part by name, `groups` the accuracy there by group, `notes` what solvers
    say of a fit that a reader must know, `higher_is_better` the metric's direction. `versus_best` is None of the best
    row itself, and where fewer than two seeds can be compared.
    """

    method: str
    family: str
    metric: str
    validation: Interval | None
    validation_loss: float | None
    test: Interval | None
    epochs_planned: int
    epochs_run: float
    trainable_parameters: int
    stored_bytes: int
    train_s: float
    shared_s: float
    peak_memory_bytes: int
    inference_per_s: float | None
    labels: int
    settings: dict[str, Any]
    errors: list[str]
    median_seed: int | None
    metrics: dict[str, Interval] = field(default_factory=dict[str, Interval])
    validation_worst_group: Interval | None = None
    groups: dict[str, Interval] = field(default_factory=dict[str, Interval])
    notes: list[str] = field(default_factory=list[str])
    optimizer_bytes: int = 0
    higher_is_better: bool = True
    added_memory_bytes: int = 0
    accelerator_memory_bytes: int = 0
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    forward_flops: float | None = None
    versus_best: Versus | None = None

    def selection(self, select_by: SelectBy) -> Interval | None:
        """The score on held-out labels that rows are ranked by."""
        return self.validation_worst_group if select_by == "worst-group" else self.validation


@dataclass(frozen=True)
class Leaderboard:
    """The outcome of a comparison, best row by the score that rows are ranked by first.

    Attributes:
        rows: One a method.
        task: Name, classes, counts, fingerprint, notes.
        source: Name, modality, parameters, fingerprint.
        protocol: Sizes, seeds, what was held out and how rows are ranked.
        environment: Versions, machine, precision.
        passes: Samples asked of frozen bodies and samples computed, by all trials together.
        trials: Every trial.
        questions: What parameter-efficient methods give up; None where full fine-tuning or all of them are missing.
        learning_curves: The same comparison at fewer labels too; None where there was one number.
        advice: What to take from it, by rules over the measured rows; empty while trials run.
        differences: By how much a method's test scores exceed those of each that comes after it, by both names: the
            score that rows are ranked by, with an interval that counts seeds and test samples as drawn at random;
            nothing of two that share fewer than two seeds.
    """

    rows: list[Row]
    task: dict[str, Any]
    source: dict[str, Any]
    protocol: dict[str, Any]
    environment: dict[str, Any]
    passes: dict[str, int]
    trials: list[TrialRecord]
    questions: Questions | None = None
    learning_curves: LearningCurves | None = None
    advice: list[str] = field(default_factory=list[str])
    differences: dict[str, dict[str, Difference]] = field(default_factory=dict[str, dict[str, Difference]])

    @property
    def best(self) -> Row | None:
        """The first row that has a result."""
        return next((r for r in self.rows if r.validation is not None), None)

    @property
    def select_by(self) -> SelectBy:
        """Which score on held-out labels rows are ranked by."""
        return self.protocol.get("select_by", "metric")

    def judged(self) -> list[Row]:
        """The rows with the score that they are ranked by in the place of the metric, on validation and test."""
        if self.select_by == "metric":
            return self.rows
        return [
            replace(row, metric=WORST_GROUP, validation=row.validation_worst_group, test=row.metrics.get(WORST_GROUP))
            for row in self.rows
        ]

    def difference(self, method: str, other: str) -> Difference | None:
        """By how much a method's test scores exceed another's; None where that is not known."""
        if other in self.differences.get(method, {}):
            return self.differences[method][other]
        found = self.differences.get(other, {}).get(method)
        return found and found.reversed()

    def tested(self, method: str) -> dict[int, float]:
        """The score on the test part that a method is judged by, of each seed that it finished."""
        scores = {t.seed: t.tested(self.select_by) for t in self.trials if t.method == method and t.error is None}
        return {seed: score for seed, score in scores.items() if score is not None}

    def to_json(self) -> dict[str, Any]:
        """Plain lists, dicts, numbers and strings."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Leaderboard:
        """The leaderboard that `to_json` made `data` of.

        Raises:
            RunError: `data` has other fields than this version's.
        """
        with _fields_of("a leaderboard"):
            values: dict[str, Any] = {
                **data,
                "rows": [_row(r) for r in data["rows"]],
                "trials": [TrialRecord.from_json(t) for t in data["trials"]],
                "differences": {
                    one: {other: Difference(**found) for other, found in others.items()}
                    for one, others in data.get("differences", {}).items()
                },
                "questions": Questions.from_json(data["questions"]) if data.get("questions") else None,
            }
            if data.get("learning_curves"):
                values["learning_curves"] = LearningCurves.from_json(data["learning_curves"])
            board = cls(**values)
            check_fields(board)
            return board


def _row(data: dict[str, Any]) -> Row:
    single = ("validation", "test", "validation_worst_group")
    intervals = {k: Interval(**data[k]) if data.get(k) else None for k in single}
    by_name = {k: {n: Interval(**found) for n, found in data.get(k, {}).items()} for k in ("metrics", "groups")}
    versus = Versus(**data["versus_best"]) if data.get("versus_best") else None
    values: dict[str, Any] = {**data, **intervals, **by_name, "versus_best": versus}
    return Row(**values)


@contextmanager
def _fields_of(what: str) -> Generator[None]:
    """Turns what a missing or unknown field raises into a message for the user."""
    try:
        yield
    except (AttributeError, KeyError, TypeError) as error:
        raise RunError(
            f"This is not {what} that this version of bequest wrote ({error}). Read it with the version that "
            "wrote it, or run again."
        ) from error


@contextmanager
def atomic_open(path: Path, *, durable: bool = True) -> Generator[IO[bytes]]:
    """A file that appears under `path` whole or not at all.

    Args:
        path: Where.
        durable: Wait for the disk, so that a power cut cannot take its content away either. That takes seconds while
            others write much; what is checked when it is read, and can be made again, need not wait.

    Raises:
        OSError: It cannot be written; its `filename` is `path`, whatever part of writing failed.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise


def is_temporary(path: Path) -> bool:
    """Whether the file is one that `atomic_open` had not finished when its process was killed, or is writing now."""
    return re.fullmatch(r"\..+\.[0-9a-f]{8}\.tmp", path.name) is not None


def write_json(path: Path, data: Any, *, durable: bool = True) -> None:
    """Write `data` atomically as indented JSON; raises ValueError for NaN and infinities."""
    text = json.dumps(data, indent=1, allow_nan=False) + "\n"
    with atomic_open(path, durable=durable) as file:
        file.write(text.encode())


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        RunError: The file is missing or is not JSON.
    """
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{path} is missing; expected a file that bequest wrote. Name the folder of a run.") from None
    except ValueError as error:
        raise RunError(
            f"{path} is not the JSON that bequest wrote ({error}). Restore the file, or remove it and run again."
        ) from None
