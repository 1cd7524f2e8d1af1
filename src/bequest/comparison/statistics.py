"""From trials to rows: means over seeds, and the order of rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bequest.core.distillation import taught_by
from bequest.core.intervals import t_interval
from bequest.core.registry import methods
from bequest.core.results import Interval, Row, SelectBy, TrialRecord, goodness

_HELD_OUT = "on held-out labels that the scored model was not fitted on"

RANKING: dict[SelectBy, str] = {
    "metric": f"by the mean metric {_HELD_OUT}; among equals the one with fewer trained parameters comes first, and "
    "methods that failed at a seed after all others",
    "worst-group": f"by the mean worst-group accuracy {_HELD_OUT}; among equals the one with the higher mean accuracy "
    "there, then the one with fewer trained parameters comes first, and methods that failed at a seed after all others",
}
"""How rows are ranked, by criterion."""


def interval(values: Sequence[float]) -> Interval:
    """Mean, standard error (sample standard deviation / √n) and t-interval of one value a seed."""
    sem = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    low, high = t_interval(values) or (None, None)
    return Interval(float(np.mean(values)), sem, len(values), list(values), low, high)


def make_row(trials: Sequence[TrialRecord], select_by: SelectBy = "metric") -> Row:
    """One method's trials as a row; failed seeds count only as errors, and the median seed is by the criterion."""
    done = [t for t in trials if t.error is None]
    first = (done or list(trials))[0]
    known = methods().get(taught_by(first.method))
    return Row(
        method=first.method,
        family=known.family if known else "",
        metric=first.metric,
        validation=_interval([t.validation for t in done]),
        validation_loss=_mean([t.validation_loss for t in done]),
        test=_interval([t.test for t in done]),
        epochs_planned=first.epochs_planned,
        epochs_run=_mean([float(sum(e.epoch > 0 for e in t.epochs)) for t in done]) or 0.0,
        trainable_parameters=first.trainable_parameters,
        stored_bytes=first.stored_bytes,
        optimizer_bytes=max((t.optimizer_bytes for t in done), default=0),
        train_s=_mean([t.train_s for t in done]) or 0.0,
        shared_s=_mean([t.shared_s for t in done]) or 0.0,
        peak_memory_bytes=max((t.peak_memory_bytes for t in done), default=0),
        added_memory_bytes=max((t.added_memory_bytes for t in done), default=0),
        accelerator_memory_bytes=max((t.accelerator_memory_bytes for t in done), default=0),
        inference_per_s=_mean([t.inference_per_s for t in done]),
        latency_p50_ms=_mean([t.latency_p50_ms for t in done]),
        latency_p95_ms=_mean([t.latency_p95_ms for t in done]),
        forward_flops=_mean([t.forward_flops for t in done]),
        labels=first.labels,
        settings=first.settings,
        errors=[f"seed {t.seed}: {t.error}" for t in trials if t.error is not None],
        median_seed=_median_seed(done, select_by),
        metrics={name: interval([t.metrics[name] for t in done]) for name in first.metrics},
        validation_worst_group=_interval([t.validation_worst_group for t in done]),
        groups={name: interval([t.groups[name].score for t in done]) for name in first.groups},
        notes=list(dict.fromkeys(str(record["note"]) for t in done for record in t.solved if record.get("note"))),
        higher_is_better=first.higher_is_better,
    )


def rank(rows: Sequence[Row], select_by: SelectBy = "metric") -> list[Row]:
    """Best first by the criterion, `RANKING`; rows without a result last."""

    def key(row: Row) -> tuple[bool, float, float, int]:
        selection = row.selection(select_by)
        if selection is None or row.validation is None:
            return (True, float("inf"), 0.0, 0)
        # Seeds draw other labels, some of them easier: a mean without the hard ones is no better for it.
        failed = bool(row.errors)
        # Held-out loss would favour methods that stopped early by it, so it breaks no ties.
        return (failed, -goodness(row, selection.mean), -goodness(row, row.validation.mean), row.trainable_parameters)

    return sorted(rows, key=key)


def _median_seed(done: Sequence[TrialRecord], select_by: SelectBy) -> int | None:
    """The seed in the middle by the criterion, the worse of two middles."""

    def key(trial: TrialRecord) -> tuple[float, float, float, int]:
        score, validation = (goodness(trial, v or 0.0) for v in (trial.selection(select_by), trial.validation))
        return (score, validation, -(trial.validation_loss or 0.0), trial.seed)

    ordered = sorted(done, key=key)
    return ordered[(len(ordered) - 1) // 2].seed if ordered else None


def _interval(values: Sequence[float | None]) -> Interval | None:
    present = [v for v in values if v is not None]
    return interval(present) if present else None


def _mean(values: Sequence[float | None]) -> float | None:
    present = [v for v in values if v is not None]
    return float(np.mean(present)) if present else None
