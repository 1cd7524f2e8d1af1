"""The report: one HTML file that needs nothing else."""

from __future__ import annotations

from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from markupsafe import Markup, escape

from bequest.core.examples import Examples
from bequest.core.results import WORST_GROUP, Leaderboard, Row, TrialRecord, atomic_open
from bequest.report import canvas, costs, learning, per_class, plots, questions, samples, units
from bequest.report.distilling import similarities
from bequest.report.verdict import criterion, finished, sentences

if TYPE_CHECKING:
    from jinja2 import Environment

_MAX_PAIRS = 6
_MAX_TARGETS = 6
_MAX_GROUPS = 12
_TASK = ("name", "modality", "kind", "samples", "classes", "targets", "groups", "fingerprint")
_SOURCE = ("name", "modality", "parameters", "width", "fingerprint")
_PROTOCOL = ("train_size", "train", "validation", "test", "folds", "seeds", "split_seed", "select_by", "ranking")


def write(board: Leaderboard, path: Path, examples: Examples | None = None) -> None:
    """Write the report of a comparison to `path`, whole or not at all."""
    with atomic_open(path) as file:
        file.write(render(board, examples).encode())


def render(board: Leaderboard, examples: Examples | None = None) -> str:
    """The report of a comparison as one HTML page without any outside reference.

    Args:
        board: The records. The same board gives the same text.
        examples: Single samples that it shows; None for none.
    """
    return fill("report.html.j2", {**_page(board), **samples.sections(examples)})


def fill(template: str, values: dict[str, Any]) -> str:
    """A template of this package with its values."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("bequest.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["soft"] = _soft
    return environment


def _soft(name: str) -> Markup:
    """A name that may break after its underscores, slashes and dots."""
    text = escape(name)
    for sign in "_/.":
        text = text.replace(sign, Markup(sign + "<wbr>"))
    return text


def _page(board: Leaderboard) -> dict[str, Any]:
    first = board.best or (board.rows[0] if board.rows else None)
    return {
        "task": str(board.task.get("name", "unnamed task")),
        "source": str(board.source.get("name", "unnamed source")),
        "modality": str(board.task.get("modality", "")),
        "metric": units.metric_name(first.metric) if first else "metric",
        "first": "descending" if first is None or first.higher_is_better else "ascending",
        "criterion": criterion(board),
        "badge": "best by " + ("validation" if board.select_by == "metric" else "worst group"),
        "verdict": sentences(board),
        "advice": board.advice,
        "learning": learning.section(board),
        "tiles": _tiles(board),
        "rows": [_row(board, r) for r in board.rows],
        "groups": _groups(board),
        "similarities": similarities(board),
        "temperatures": {s.name: plots.temperatures(board, s) for s in (canvas.WIDE, canvas.NARROW)},
        "purpose": _purpose(board),
        "key": canvas.key(board, canvas.looks(board)),
        "costs": _costs(board),
        "curves": {s.name: plots.curves(board, s) for s in (canvas.WIDE, canvas.NARROW)},
        "cost_note": _cost_note(board),
        "curves_note": _curves_note(board),
        "questions": questions.section(board),
        "confusion": _confusion(board),
        "per_class": per_class.table(board),
        "scatter": _scatter(board),
        "classes": _classes(board.task),
        "notes": [str(n) for n in _list(board.task.get("notes"))],
        "facts": _facts(board),
        "passes": _passes(board.passes),
    }


def _tiles(board: Leaderboard) -> list[dict[str, str]]:
    """The few numbers that stand beside the verdict."""
    best = next((row for row in board.judged() if row.validation is not None), None)
    if best is None:
        return []
    per = "a seed, " if best.validation and best.validation.seeds > 1 else ""
    over = "not tested"
    if best.test:
        over = "one seed" if best.test.seeds == 1 else f"mean over {best.test.seeds} seeds"
    tiles = [
        {"label": f"Best by {criterion(board)}", "value": best.method, "note": best.family},
        {
            "label": f"Test {units.metric_name(best.metric)}",
            "value": units.mean_sem(best.test, best.metric),
            "note": over,
        },
        {"label": "Training", "value": units.duration(best.train_s), "note": per + "on " + _device(board)},
    ]
    if best.labels:
        test = board.protocol.get("test")
        note = f"tested on {units.plain(test)} others" if test is not None else "training and validation"
        tiles.append({"label": f"{_unit(board).capitalize()}s used", "value": units.count(best.labels), "note": note})
    return tiles


def _device(board: Leaderboard) -> str:
    device = str(board.environment.get("device", "") or "this machine")
    return device.upper() if device in ("cpu", "cuda", "mps") else device


def _row(board: Leaderboard, row: Row) -> dict[str, Any]:
    done = row.validation is not None
    planned = len(_list(board.protocol.get("seeds")))
    seeds = row.validation.seeds if row.validation else 0
    trials = [t for t in board.trials if t.method == row.method]
    return {
        "rank": finished(board).index(row) + 1 if done else None,
        "best": row is board.best,
        "order": _order(board, row) if done else {},
        "done": done,
        "method": row.method,
        "family": row.family,
        "seeds": f"{seeds} of {planned} seeds" if done and row.errors and planned else "",
        "errors": list(dict.fromkeys(row.errors)),
        "notes": row.notes,
        "validation": units.mean_sem(row.validation, row.metric),
        "validation_worst": units.mean_sem(row.validation_worst_group, WORST_GROUP) if row.groups else "",
        "test": units.mean_sem(row.test, row.metric),
        "interval": units.bounds(row.test, row.metric) if row.test else "",
        "versus": _versus(board, row),
        "metrics": [(_short(name), units.mean_sem(row.metrics[name], name)) for name in _further(board, row)],
        "epochs": _epochs(row),
        "trainable": units.quantity(row.trainable_parameters),
        "stored": units.size(row.stored_bytes),
        "train": units.duration(row.train_s),
        "shared": units.duration(row.shared_s) if row.shared_s > 0 else "",
        "memory": _memory(row),
        "inference": units.rate(row.inference_per_s),
        "alone": _alone(row),
        "settings": _pairs(row.settings),
        "solved": _solved(row, trials),
        "further": [_short(name) for name in _further(board, row)],
        "trials": [_trial(t, _further(board, row)) for t in trials],
    }


def _memory(row: Row) -> list[str]:
    """What the method took while it was fitted, the accelerator's first where there is one."""
    told = [
        (row.accelerator_memory_bytes, "on the accelerator"),
        (row.added_memory_bytes, "added"),
        (row.peak_memory_bytes, "alone"),
        (row.optimizer_bytes, "optimizer"),
    ]
    return [f"{units.size(num_bytes)} {what}" for num_bytes, what in told if num_bytes]


def _alone(row: Row) -> list[str]:
    """What a prediction of one sample takes."""
    latency, flops = row.latency_p50_ms, row.forward_flops
    return [
        *([] if latency is None else [units.latency(latency, row.latency_p95_ms)]),
        *([] if flops is None else [units.operations(flops)]),
    ]


def _order(board: Leaderboard, row: Row) -> dict[str, float | str | None]:
    """What the leaderboard can be sorted by; None where it was not measured."""
    return {
        "rank": finished(board).index(row) + 1,
        "method": row.method,
        "validation": row.validation and row.validation.mean,
        "test": row.test and row.test.mean,
        "epochs": row.epochs_run,
        "trainable": row.trainable_parameters,
        "stored": row.stored_bytes,
        "training": row.train_s,
        "memory": row.accelerator_memory_bytes or row.added_memory_bytes or None,
        "inference": row.inference_per_s,
    }


def _costs(board: Leaderboard) -> list[dict[str, Any]]:
    """The plots of the test metric against each cost, and who is on the frontier of each."""
    if not costs.tested(board):
        return []
    return [
        {
            "name": cost.name,
            "label": cost.label,
            "plot": {s.name: plots.cost_and_score(board, s, cost) for s in (canvas.WIDE, canvas.NARROW)},
            "frontier": _unbeaten([row.method for row in costs.frontier(costs.tested(board, cost), cost)]),
        }
        for cost in costs.measured(board)
    ]


def _versus(board: Leaderboard, row: Row) -> str:
    """What the test part tells of a row against the best one."""
    if row.versus_best is None:
        return ""
    if row.versus_best.indistinguishable:
        return "indistinguishable from the best"
    metric = row.metric if board.select_by == "metric" else WORST_GROUP
    p = units.probability(row.versus_best.p)
    return f"{units.against(row.versus_best, metric)} against the best (p {p})"


def _further(board: Leaderboard, row: Row) -> list[str]:
    """Names of the further metrics that are shown."""
    several = len(_list(board.task.get("targets"))) > 1
    # A mean over targets in different units would say nothing.
    return [name for name in row.metrics if not (several and units.is_in_target_units(name))]


def _short(name: str) -> str:
    """A further metric's name in a table."""
    return "worst group" if name == WORST_GROUP else units.metric_name(name)


def _epochs(row: Row) -> str:
    if not row.epochs_planned:
        return "solved"
    return f"{row.epochs_run:.1f}".removesuffix(".0") + f" / {row.epochs_planned}"


def _trial(trial: TrialRecord, further: list[str]) -> dict[str, Any]:
    stages = {e.stage for e in trial.epochs}
    run = sum(max(e.epoch for e in trial.epochs if e.stage == s) for s in stages)
    loss = "" if trial.validation_loss is None else f"{trial.validation_loss:.3f}"
    return {
        "seed": str(trial.seed),
        "validation": units.score(trial.validation, trial.metric, 2),
        "loss": loss or units.NONE,
        "test": units.score(trial.test, trial.metric, 2),
        "validation_worst": units.score(trial.validation_worst_group, WORST_GROUP, 2),
        "further": [units.score(trial.metrics.get(name), name, 2) for name in further],
        "epochs": f"{run} / {trial.epochs_planned}" if trial.epochs_planned else "solved",
        "train": units.duration(trial.train_s),
        "frozen": units.count(trial.frozen_samples),
        "error": trial.error or "",
    }


def _solved(row: Row, trials: list[TrialRecord]) -> list[tuple[str, str]]:
    """What the solvers of the median seed recorded."""
    records = [record for t in trials if t.seed == row.median_seed for record in t.solved]
    return [pair for record in records for pair in _pairs(record) if pair[0] != "note"]


def _cost_note(board: Leaderboard) -> str:
    up = all(row.higher_is_better for row in board.rows)
    parts = [f"{'Up' if up else 'Down'} and to the left is better."]
    if any(r.test and r.test.sem is not None for r in board.rows):
        parts.append("Large signs are means, bars one standard error each way; faint signs are single seeds.")
    if len(finished(board)) > 1:
        parts.append(f"The name in bold is the best by {criterion(board)}.")
    parts.append("The dashed line joins methods that none beats in both, by their means; a point tells its numbers.")
    return " ".join([*parts, "The vertical axis does not start at zero."])


def _curves_note(board: Leaderboard) -> str:
    parts = ["Epoch 0 is before training; stages follow one another."]
    if any(r.validation and r.validation.seeds > 1 for r in board.rows):
        faint = "; faint lines are single seeds" if plots.shows_single_seeds(board) else ""
        parts.insert(0, f"Lines are means over the seeds, up to where the first of them stopped{faint}.")
    if any(r.epochs_planned == 0 for r in finished(board)):
        parts.append("Dotted horizontal lines are methods that are solved, not trained.")
    return " ".join(parts)


def _purpose(board: Leaderboard) -> str:
    """What the labels were used for."""
    get = board.protocol.get
    train, validation, selection, test = (get(k) for k in ("train", "validation", "selection", "test"))
    parts: list[str] = []
    if isinstance(train, int) and isinstance(validation, int):
        held = f"Of {train + validation + (selection or 0):,} {_unit(board)}s, each seed fits on {train:,}"
        if selection:
            parts.append(
                f"{held}, chooses the best epoch by {validation:,}, which some methods are fitted on, and orders this "
                f"table by the other {selection:,}."
            )
        else:
            parts.append(f"{held} and holds {validation:,} out, to choose the best epoch by and to order this table.")
    part = f"{test:,} samples of the test part" if isinstance(test, int) else "test part"
    verb = "were" if isinstance(test, int) else "was"
    if isinstance(folds := get("folds"), int):
        parts.append(
            f"Each seed divides all samples into {folds} folds. A sample is scored once, by the network that has not "
            "seen it, and is among the labels of the other folds' networks, held-out ones too."
        )
    else:
        parts.append(f"The {part} {verb} scored once per final model and chose nothing.")
    return " ".join(parts)


def _unbeaten(names: list[str]) -> str:
    """Who is on the frontier of a cost."""
    return (
        f"No method beats {names[0]} in both."
        if len(names) == 1
        else f"No method beats these in both: {', '.join(names)}."
    )


def _unit(board: Leaderboard) -> str:
    """What methods learn from, one by one."""
    return "window" if board.task.get("kind") == "causal-lm" else "label"


def _groups(board: Leaderboard) -> dict[str, Any] | None:
    """Test accuracy by group: methods are rows, groups columns."""
    rows = [row for row in finished(board) if row.groups]
    if not rows:
        return None
    first = next(t for t in board.trials if t.method == rows[0].method and t.groups)
    counts = {name: found.samples for name, found in first.groups.items()}
    lowest = sorted(counts, key=lambda name: rows[0].groups[name].mean)[:_MAX_GROUPS]
    shown = [name for name in counts if name in lowest]
    return {
        "columns": [{"name": name, "count": units.count(counts[name])} for name in shown],
        "rows": [_group_row(board, row, shown) for row in rows],
        "note": _groups_note(board, counts, len(shown)),
    }


def _group_row(board: Leaderboard, row: Row, shown: list[str]) -> dict[str, Any]:
    worst = min(found.mean for found in row.groups.values())
    cells = [
        {
            "accuracy": units.score(found.mean, "accuracy"),
            "error": "" if found.sem is None else f"± {units.score(found.sem, 'accuracy')}",
            "worst": found.mean == worst,
        }
        for found in (row.groups[name] for name in shown)
    ]
    return {"method": row.method, "best": row is board.best, "cells": cells}


def _groups_note(board: Leaderboard, counts: dict[str, int], num_shown: int) -> str:
    parts = ["Accuracy on each group's test samples; the lowest of each method is marked."]
    if any(len(found.values) > 1 for row in board.rows for found in row.groups.values()):
        parts.append(
            "The worst group may be another one with another seed, so a method's worst-group accuracy, the mean of "
            "each seed's lowest, may be below the lowest mean here."
        )
    smallest = min(counts.values())
    parts.append(
        f"One test sample of the smallest group, of {units.plural(smallest, 'sample')}, is "
        f"{units.gap(1 / smallest, 'accuracy')} of its accuracy."
    )
    if num_shown < len(counts):
        parts.append(f"Of {len(counts)} groups, the {num_shown} worst of the best method are shown.")
    absent = [str(name) for name in _list(board.task.get("groups")) if name not in counts]
    if absent:
        names = ", ".join(absent[:_MAX_GROUPS]) + (" and others" if len(absent) > _MAX_GROUPS else "")
        parts.append(f"Without test samples: {names}.")
    return " ".join(parts)


def _confusion(board: Leaderboard) -> dict[str, Any] | None:
    best = board.best
    if best is None:
        return None
    trial = _median_trial(board)
    if trial is None or not trial.confusion:
        return None
    classes = [str(c) for c in _list(board.task.get("classes"))]
    names = [classes[i] if i < len(classes) else f"class {i + 1}" for i in range(len(trial.confusion))]
    svg, width = plots.confusion(trial.confusion, names)
    total, right = sum(map(sum, trial.confusion)), sum(r[i] for i, r in enumerate(trial.confusion))
    return {
        "svg": svg,
        "width": width,
        "classes": len(names),
        "method": best.method,
        "seed": trial.seed,
        "seeds": best.validation.seeds if best.validation else 1,
        "numbered": len(names) > plots.MAX_COUNTED_CLASSES,
        "total": f"{total:,}",
        "right": f"{right:,}",
        "pairs": _confused(trial.confusion, names),
    }


def _median_trial(board: Leaderboard) -> TrialRecord | None:
    """The best method's median seed."""
    best = board.best
    wanted = (best.method, best.median_seed) if best else None
    return next((t for t in board.trials if (t.method, t.seed) == wanted), None)


def _scatter(board: Leaderboard) -> dict[str, Any] | None:
    trial = _median_trial(board)
    if trial is None or not trial.scatter:
        return None
    names = [str(c) for c in _list(board.task.get("classes"))][:_MAX_TARGETS]
    return {
        "svgs": [plots.scatter([sample[i] for sample in trial.scatter], n, i) for i, n in enumerate(names)],
        "method": trial.method,
        "seed": trial.seed,
        "samples": f"{len(trial.scatter):,}",
        # A mean over targets in different units would say nothing.
        "metrics": ", ".join(f"{k} {units.score(v, k, 2)}" for k, v in trial.metrics.items())
        if len(names) == 1
        else "",
    }


def _confused(counts: list[list[int]], names: list[str]) -> list[dict[str, Any]]:
    """The most frequent confusions, the largest share of its class first among equals."""
    pairs = [
        (number, number / sum(row), i, j)
        for i, row in enumerate(counts)
        for j, number in enumerate(row)
        if i != j and number
    ]
    pairs.sort(key=lambda p: (-p[0], -p[1], p[2], p[3]))
    return [
        {"number": n, "of": sum(counts[i]), "share": f"{100 * s:.0f} %", "true": names[i], "taken": names[j]}
        for n, s, i, j in pairs[:_MAX_PAIRS]
    ]


def _classes(task: dict[str, Any]) -> list[dict[str, Any]]:
    names, counts = _list(task.get("classes")), _list(task.get("class_counts"))
    if "targets" in task:
        return [
            {"name": str(n), "count": "", "share": "", "spread": _spread(t)}
            for n, t in zip(names, _list(task["targets"]), strict=True)
        ]
    most = max((c for c in counts if isinstance(c, int)), default=0)
    return [
        {
            "name": str(name) if name is not None else f"class {i + 1}",
            "count": units.count(number) if isinstance(number, int) else units.NONE,
            "share": f"{100 * number / most:.1f}" if isinstance(number, int) and most else "0",
        }
        for i, (name, number) in enumerate(zip_longest(names, counts))
    ]


def _spread(target: dict[str, float]) -> str:
    """A target's distribution in the task's data."""
    mean, sd, low, high = (f"{target[k]:.6g}" for k in ("mean", "sd", "min", "max"))
    return f"mean {mean}, SD {sd}, from {low} to {high}"


def _facts(board: Leaderboard) -> list[tuple[str, list[tuple[str, str]]]]:
    """Every recorded fact about task, source, protocol and machine, known ones first."""
    named = "targets" if "targets" in board.task else "classes"
    known = {**board.task, named: len(_list(board.task.get("classes"))) or "none: the next token is predicted"}
    if "groups" in board.task:
        known["groups"] = len(_list(board.task["groups"]))
    known["samples"] = units.count(board.task.get("samples"))
    listed = "class_counts" if named == "classes" else "classes"
    task = _ordered(known, _TASK, skip=(listed, "group_counts", "notes"))
    source = dict(board.source)
    parameters = source.pop("parameters", None)
    size: list[tuple[str, str]] = []
    if isinstance(parameters, int):
        size = [("parameters", f"{units.quantity(parameters)} ({parameters:,})")]
    protocol = dict(board.protocol)
    if protocol.get("train_size", 0) is None:
        protocol["train_size"] = "all that are not test"
    return [
        ("Task", task),
        ("Source model", [*_ordered(source, _SOURCE), *size]),
        ("Protocol", _ordered(protocol, _PROTOCOL, skip=("tuning",))),
        ("Environment", _ordered(board.environment, ())),
    ]


def _ordered(data: dict[str, Any], order: tuple[str, ...], skip: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    keys = [k for k in order if k in data] + [k for k in data if k not in order]
    return _pairs({k: data[k] for k in keys if k not in skip})


def _pairs(data: dict[str, Any]) -> list[tuple[str, str]]:
    return [(str(k).replace("_", " "), units.plain(v)) for k, v in data.items()]


def _passes(passes: dict[str, int]) -> str:
    asked, computed = passes.get("asked"), passes.get("computed")
    parts: list[str] = []
    if asked is not None and computed is not None:
        text = f"{asked:,} passes of a sample through frozen layers asked for, {computed:,} computed"
        if asked > computed:
            share = 100 * (asked - computed) / asked
            text += f"; the other {asked - computed:,} ({share:.0f} %) came from the store"
        parts.append(text + ".")
    parts += [f"{k.replace('_', ' ')}: {v:,}." for k, v in passes.items() if k not in ("asked", "computed")]
    return " ".join(parts)


def _list(value: Any) -> list[Any]:
    return list(cast("list[Any]", value)) if isinstance(value, (list, tuple)) else []
