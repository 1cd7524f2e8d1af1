"""The probe: which source, and which of its layers, suits a task, from one frozen pass a source."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bequest.comparison.describing import describe_source, describe_task, environment
from bequest.comparison.entries import check_modality
from bequest.comparison.folder import RunFolder, disk_error
from bequest.comparison.protocol import Protocol
from bequest.core.errors import BequestError, DataError, SourceError
from bequest.core.observe import Observer
from bequest.core.plan import Features
from bequest.core.probing import LINEAR, LayerRow, ProbeRecord
from bequest.core.results import write_json
from bequest.core.task import Draw, Task
from bequest.engine.context import Context
from bequest.engine.features import Columns, embeddings
from bequest.engine.runtime import choose_runtime
from bequest.engine.store import Store
from bequest.engine.targets import Targets, targets
from bequest.nn.depth import Layer
from bequest.nn.taps import Tap, Tapped
from bequest.optim.linear import LinearSolver
from bequest.scores.agreement import agreement
from bequest.scores.registry import score_all
from bequest.sources import Source, resolve

Array = np.ndarray[Any, Any]

PROBE_FILE, PAGE_FILE = "probe.json", "probe.html"

_FALLBACK = {"classification": ("ridge_loo", "logme")}
"""By what layers are ranked where no linear probe is fitted; a regression's and labels' by LogME."""

_BLOCK = 4096

_ROUNDING = 1e-5
"""Of the largest number: differences below are float32's rounding."""


@dataclass(frozen=True)
class Candidate:
    """A source and what of it is probed.

    Attributes:
        source: The pretrained network.
        taps: In the order of depth, the embedding last.
        depths: Of each tap, 0 at the input and 1 at the last layer.
        notes: Layers that were asked for and that this source lacks.
    """

    source: Source
    taps: tuple[Tap, ...]
    depths: tuple[float, ...]
    notes: tuple[str, ...] = ()


def choose(
    sources: Sequence[str | Source | nn.Module], task: Task, taps: str | Sequence[str], options: Mapping[str, Any]
) -> list[Candidate]:
    """The sources that a user means, each with what of it is probed.

    Args:
        sources: Names, `Source`s or modules.
        task: The labelled data.
        taps: `layers` for one tap a step of depth, `all` for every place, or names of modules, each whole or its end,
            that one source at least must have. The embedding is always among them.
        options: For `bequest.sources.resolve`.

    Raises:
        SourceError: A source is unknown, given twice, takes other samples, or cannot be read inside, or no source has a
            layer; all faults at once.
    """
    found: list[Source] = []
    faults: list[str] = []
    for given in sources:
        try:
            source = resolve(given, task, **options)
            check_modality(task, source)
            source.taps(["embedding"], task=task)
        except BequestError as error:
            faults.append(str(error))
        else:
            found.append(source)
    faults += [
        f"The source {name!r} is given {times} times; expected sources of different names. Leave one out, or name a "
        "module: bequest.from_module(module, name=...)."
        for name, times in Counter(source.name for source in found).items()
        if times > 1
    ]
    if not sources:
        faults.append("No source is given; expected one or more. `bequest ls sources` lists some.")
    if isinstance(taps, str):
        candidates = [_candidate(source, _taps(source, task, whole=taps == "all")) for source in found]
    else:
        candidates, unknown = _named(found, task, taps)
        faults += unknown
    if faults:
        raise SourceError("\n".join(faults))
    return candidates


def _taps(source: Source, task: Task, *, whole: bool) -> Sequence[Tap]:
    """Every place, or one a step of depth, and the embedding."""
    steps = {"", *(layer.name for layer in source.layers)}
    return [tap for tap in source.taps(task=task) if whole or tap.name in steps]


def _named(found: Sequence[Source], task: Task, names: Sequence[str]) -> tuple[list[Candidate], list[str]]:
    """Candidates by names of layers, and what to tell of names that no source has."""
    lacking: dict[str, list[str]] = {name: [] for name in names}
    candidates: list[Candidate] = []
    for source in found:
        taps: list[Tap] = []
        notes: list[str] = []
        for name in [*lacking, "embedding"]:
            try:
                taps += source.taps([name], task=task)
            except SourceError as error:
                notes.append(f"{source.name}: {error}")
                lacking[name].append(notes[-1])
        candidates.append(_candidate(source, list(dict.fromkeys(taps)), tuple(notes)))
    return candidates, [text for told in lacking.values() if 0 < len(found) == len(told) for text in told]


def _candidate(source: Source, taps: Sequence[Tap], notes: tuple[str, ...] = ()) -> Candidate:
    """Taps in the order of their layers, those of one layer evenly between its input and its output."""
    steps = source.layers
    owner = {tap: _owner(tap, steps) for tap in taps}
    inside = sorted((tap for tap in taps if tap.name), key=lambda tap: owner[tap])
    counts, passed = Counter(owner[tap] for tap in inside), Counter[int]()
    depths: list[float] = []
    for tap in inside:
        passed[owner[tap]] += 1
        depths.append((owner[tap] + passed[owner[tap]] / counts[owner[tap]]) / max(1, len(steps)))
    return Candidate(source, (*inside, *(tap for tap in taps if not tap.name)), (*depths, 1.0), notes)


def _owner(tap: Tap, steps: Sequence[Layer]) -> int:
    """Index of the layer that a tap lies in, or that it follows."""
    own = [
        i
        for i, step in enumerate(steps)
        if f"{tap.name}.".startswith(f"{step.name}.") or any(p.startswith(f"{tap.name}.") for p in step.parameters)
    ]
    return own[-1] if own else max(0, len(steps) - 1)


def probe(
    task: Task,
    candidates: Sequence[Candidate],
    protocol: Protocol,
    out: Path,
    observer: Observer,
    *,
    linear: bool = True,
    store: Store | None = None,
    settings: dict[str, Any] | None = None,
    report: Callable[[ProbeRecord, Path], None] | None = None,
) -> ProbeRecord:
    """Score every candidate's layers on the labels that a method may see, and write the folder.

    The test part's labels are not read. Scores see every other label; the linear probe is fitted on the train part and
    measured on the held-out one, as in a comparison at the same seed. A regression's targets are in units of the train
    part's standard deviation.

    Args:
        task: The labelled data.
        candidates: From `choose`.
        protocol: Its one seed, its sizes and its precision count.
        out: The folder.
        observer: Hears of progress.
        linear: Whether to fit a linear probe on each layer.
        store: Of frozen outputs; None for the user's.
        settings: What was asked for, for the folder.
        report: Called with the record and the folder at the end, to write the page.

    Raises:
        RunError: The folder cannot be used or written.
        DataError: The sizes do not fit the data, a sample cannot be read, or a layer gives no finite numbers.
    """
    [seed] = protocol.seeds
    sizes = {n: getattr(protocol, n) for n in ("train_size", "test_size", "split_seed")}
    draw = task.draw(seed, **sizes)
    for note in (*task.notes, *(note for candidate in candidates for note in candidate.notes)):
        observer.note(note)
    store, runtime = store or Store(note=observer.note), choose_runtime(protocol.precision)
    contexts = [Context(candidate.source, task, store, runtime, observer) for candidate in candidates]
    identity = {
        "what": "probe",
        "task": task.fingerprint,
        "sources": {c.source.name: [c.source.fingerprint, c.source.preprocess.fingerprint] for c in candidates},
        "taps": {c.source.name: [tap.key_text for tap in c.taps] for c in candidates},
        **sizes,
        "seed": seed,
        "linear": linear,
        "precision": runtime.describe(),
    }
    folder = RunFolder(out)
    try:
        with folder.claimed(settings or {}, identity):
            rows: list[LayerRow] = []
            left_out: dict[str, dict[str, str]] = {}
            for context, candidate in zip(contexts, candidates, strict=True):
                found, left_out[candidate.source.name] = _Probing(context, candidate, draw, seed, linear).rows()
                rows += found
            record = _record(contexts, rows, left_out, draw, protocol, linear)
            write_json(out / PROBE_FILE, record.to_json())
            if report is not None:
                report(record, out)
            return record
    except OSError as error:
        raise disk_error(error, out, store.folder) from error


@dataclass(frozen=True)
class _Probing:
    """One source at work."""

    context: Context
    candidate: Candidate
    draw: Draw
    seed: int
    linear: bool

    def rows(self) -> tuple[list[LayerRow], dict[str, str]]:
        """A row a layer, and the layers that tell nothing of their own, with the reason."""
        source, taps = self.candidate.source, self.candidate.taps
        found = embeddings(self.context, self.draw.labelled, Tapped(source.body, taps))
        records = found.parts if isinstance(found, Columns) else (found,)
        labels = targets(self.context, self.draw)
        embedding = records[-1].stack()
        rows: list[LayerRow] = []
        left_out: dict[str, str] = {}
        for i, (tap, depth, features) in enumerate(zip(taps, self.candidate.depths, records, strict=True)):
            self.context.observer.progress(f"layers of {source.name}", i, len(taps))
            values = features.stack() if tap.name else embedding
            if tap.name and _equal(values, values[:1]):
                # What is left of a constant after its mean is taken off is rounding, which a probe would be fitted to.
                left_out[tap.name] = "the same for every sample"
            elif tap.name and _equal(values, embedding):
                left_out[tap.name] = "what the embedding is"
            else:
                rows.append(self.row(tap.name or "embedding", depth, values, labels))
        self.context.observer.progress(f"layers of {source.name}", len(taps), len(taps))
        return rows, left_out

    def row(self, layer: str, depth: float, values: Array, labels: Targets) -> LayerRow:
        name, task = self.candidate.source.name, self.context.task
        try:
            scores = score_all(
                values,
                labels.labels(self.draw.labelled).numpy(),
                num_classes=len(task.classes),
                kind=task.kind,
                probabilities=_probabilities(self.candidate.source, values) if layer == "embedding" else None,
            )
        except DataError as error:
            raise DataError(f"{name}, layer {layer}: {error}") from error
        known = {n: v if v is not None and math.isfinite(v) else None for n, v in scores.items()}
        solved = self.solve(values, labels) if self.linear else (None, None, None)
        return LayerRow(name, layer, depth, values.shape[1], *solved, known)

    def solve(self, values: Array, labels: Targets) -> tuple[float, float, float]:
        """A linear probe's held-out metric and loss, and its penalty."""
        task, draw, objective = self.context.task, self.draw, self.context.objective
        part = Features(
            values=values[: len(draw.train)],
            labels=labels.labels(draw.train).numpy(),
            groups=None,
            num_classes=len(task.classes),
            widths=(values.shape[1],),
            kind=task.kind,
            strata=task.strata[draw.train],
        )
        head, record = LinearSolver()(part, seed=self.seed)
        truth = labels.labels(draw.held_out)
        with torch.inference_mode():
            outputs = head(torch.from_numpy(np.array(values[len(draw.train) :])))
        return objective.score(outputs, truth), float(objective.loss(outputs, truth)), record["penalty"]


def _equal(values: Array, others: Array) -> bool:
    """Whether features (samples, width) are others, or one row of them throughout, up to rounding."""
    if values.shape[1] != others.shape[1]:
        return False
    most = _ROUNDING * max(float(np.abs(others[i : i + _BLOCK]).max()) for i in range(0, len(others), _BLOCK))
    return all(
        float(np.abs(values[i : i + _BLOCK] - (others if len(others) == 1 else others[i : i + _BLOCK])).max()) <= most
        for i in range(0, len(values), _BLOCK)
    )


def _probabilities(source: Source, embedding: Array) -> Array | None:
    """What the source's own head gives to its classes (samples, classes); None where it has no classifier."""
    head = source.network().head.float()
    if isinstance(head, nn.Identity) or source.head_kind != "classification":
        return None
    with torch.inference_mode():
        outputs = [
            head(torch.from_numpy(np.array(embedding[i : i + _BLOCK]))) for i in range(0, len(embedding), _BLOCK)
        ]
    found = torch.cat(outputs)
    return found.double().softmax(1).numpy() if found.shape[1] > 1 else None


def _record(
    contexts: Sequence[Context],
    rows: Sequence[LayerRow],
    left_out: dict[str, dict[str, str]],
    draw: Draw,
    protocol: Protocol,
    linear: bool,
) -> ProbeRecord:
    first = contexts[0]
    fallback = _FALLBACK.get(first.task.kind, ("logme",))
    ranked = sorted(rows, key=lambda row: _rank(row, fallback, linear), reverse=True)
    by_name = {name: [row.measures[name] for row in ranked] for name in ranked[0].measures}
    by_name = {name: values for name, values in by_name.items() if sum(v is not None for v in values) > 1}
    tau = agreement(by_name).tolist()
    return ProbeRecord(
        rows=ranked,
        ranked_by=LINEAR if linear else fallback[0],
        metric=first.objective.metric,
        names=list(by_name),
        agreement=[[v if math.isfinite(v) else None for v in line] for line in tau],
        task=describe_task(first.task),
        sources=[describe_source(context.source) for context in contexts],
        protocol={
            "train_size": len(draw.labelled),
            "train": len(draw.train),
            "validation": len(draw.held_out),
            "test": len(draw.test),
            "seed": protocol.seeds[0],
            "split_seed": protocol.split_seed,
        },
        environment=environment(first),
        passes={c.source.name: {"asked": c.passes.asked, "computed": c.passes.computed} for c in contexts},
        left_out={name: layers for name, layers in left_out.items() if layers},
    )


def _rank(row: LayerRow, fallback: Sequence[str], linear: bool) -> tuple[float, ...]:
    """Higher is better; of equal held-out metrics the lower loss comes first."""
    if linear and row.linear is not None and row.linear_loss is not None:
        return (row.linear, -row.linear_loss)
    return tuple(-math.inf if (value := row.scores[name]) is None else value for name in fallback)
