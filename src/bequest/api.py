"""The Python functions: `compare`, `adapt`, `distill`, `probe`, `replay`, `suggest_learning_rate`, and more."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bequest import data as bequest_data
from bequest.comparison.entries import check_modality, enter, with_teacher
from bequest.comparison.export import Exported
from bequest.comparison.export import export as run_export
from bequest.comparison.folder import BEST, BOARD_FILE, REPORT_FILE, RUN_FILE, RunFolder, digest
from bequest.comparison.groups import check_select_by
from bequest.comparison.local import Runner, in_process
from bequest.comparison.on_ray import on_ray
from bequest.comparison.probe import PAGE_FILE, choose
from bequest.comparison.probe import probe as run_probe
from bequest.comparison.protocol import Protocol
from bequest.comparison.protocol import compare as run_comparison
from bequest.comparison.tuning import Budget
from bequest.core.checks import (
    check_count,
    check_duration,
    check_seed,
    check_seeds,
    check_test_size,
    check_train_size,
    check_train_sizes,
)
from bequest.core.distillation import DISTILLATION, check_temperatures, taught_by
from bequest.core.distillation import distillation as make_distillation
from bequest.core.errors import DataError, MethodError, RunError
from bequest.core.observe import Observer, Silent
from bequest.core.probing import LayerRow, ProbeRecord
from bequest.core.processes import alone, launched
from bequest.core.registry import get_method
from bequest.core.results import Leaderboard, SelectBy
from bequest.core.task import Kind, Task
from bequest.data.arrays import read_samples
from bequest.data.folders import read_unlabelled
from bequest.data.hub import is_dataset
from bequest.data.inputs import Inputs, read_inputs
from bequest.data.labels import TaskChoice
from bequest.data.output import FeatureTable, check_rows_suffix, check_suffix, write_features, write_rows
from bequest.data.shards import Columns as ShardColumns
from bequest.data.shards import find_shards
from bequest.data.views import choose_views
from bequest.engine.adapted import AdaptedModel, AnyPrediction, load
from bequest.engine.cluster import Resources, connected
from bequest.engine.cluster import resources as read_resources
from bequest.engine.context import Context
from bequest.engine.features import embeddings
from bequest.engine.formats import TOLERANCE, choose_format
from bequest.engine.predicting import Predictor, result_cells, result_columns
from bequest.engine.range_test import RangeTest, range_test
from bequest.engine.runtime import choose_runtime
from bequest.engine.sharded import Extraction, FeaturePass, OnRay, made_here
from bequest.engine.store import Store
from bequest.engine.teaching import Teaching, teach_ahead
from bequest.engine.windows import divided
from bequest.engine.workers import Workers
from bequest.nn.taps import Tapped
from bequest.nn.weight_selection import Selection
from bequest.report.advice import advice
from bequest.sources import Source, resolve
from bequest.sources import get as get_source
from bequest.sources.taps import column_names, named_taps
from bequest.ui.tracking import Tracked, check_trackers

if TYPE_CHECKING:
    from torch import nn

Precision = Literal["auto", "float32", "bfloat16"]

DEFAULT_TEST_SIZE = 0.25
"""Share of the samples that is tested on where nothing else is asked for."""

DEFAULT_METHODS = ("linear_probe", "full", "freeze", "lora")
"""Those of them that apply to the task are compared; `adapt` takes the first."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: Where everything lies.
        board: The leaderboard.
    """

    folder: Path
    board: Leaderboard
    _source: Source | None = None
    _task: Task | None = None

    @cached_property
    def best(self) -> AdaptedModel:
        """The best method's median seed by validation, loaded from the folder."""
        source = self._source
        return load(self.folder / BEST, source=source if source is not None and not source.description else None)

    @property
    def report(self) -> Path:
        """The report, one HTML file."""
        return self.folder / REPORT_FILE

    def predict(self, inputs: Iterable[Any]) -> list[AnyPrediction]:
        """Predictions of the best model, one a sample. See `AdaptedModel.predict`."""
        return self.best.predict(inputs)


_REPLAYED = {
    *("source", "data", "source_data", "methods", "settings", "seeds", "train_size", "test_size", "split_seed"),
    *("select_by", "precision", "views", "augment", "cut", "teacher", "distillation", "temperatures", "unlabelled"),
}
"""What a run's settings must tell to be replayed."""

Teacher = str | Path | Run | AdaptedModel | Source
"""What a student can learn from, one of several."""


@dataclass(frozen=True)
class Probe:
    """A finished probe.

    Attributes:
        folder: Where everything lies.
        record: What was measured.
    """

    folder: Path
    record: ProbeRecord

    @property
    def rows(self) -> list[LayerRow]:
        """One a layer of a source, best first."""
        return self.record.rows

    @property
    def best(self) -> LayerRow:
        """The first row."""
        return self.record.best

    @property
    def report(self) -> Path:
        """The page, one HTML file."""
        return self.folder / PAGE_FILE


@dataclass(frozen=True)
class RateSuggestion:
    """What a learning-rate range test suggests.

    Attributes:
        method: The method's name.
        settings: `learning_rate` and `head_learning_rate`, for `adapt` and `compare`.
        test: What each step saw.
    """

    method: str
    settings: dict[str, float]
    test: RangeTest

    def write_plot(self, path: str | Path) -> None:
        """Draw loss by rate into an SVG file."""
        from bequest.core.results import atomic_open
        from bequest.report.plots import learning_rates
        from bequest.report.svg import standalone

        test = self.test
        drawing = learning_rates(test.rates, test.losses, test.smoothed, test.suggestion, self.method)
        with atomic_open(Path(path)) as file:
            file.write(standalone(drawing).encode())


def compare(
    data: Any,
    source: str | Source | nn.Module,
    methods: Sequence[str] | None = None,
    *,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    seeds: int | Sequence[int] = 3,
    train_size: int | None = None,
    train_sizes: str | Sequence[int] | None = None,
    test_size: int | float = DEFAULT_TEST_SIZE,
    split_seed: int = 0,
    folds: int | None = None,
    source_data: Any = None,
    select_by: SelectBy = "metric",
    tune: int | None = None,
    budget: str | float | None = None,
    out: str | Path | None = None,
    task: TaskChoice = "auto",
    text_column: str | None = None,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    split_column: str | None = None,
    group_column: str | None = None,
    encoding: str = "utf-8",
    skip_bad: bool = False,
    max_tokens: int | None = None,
    image_size: int | None = None,
    source_head: str | None = None,
    pooling: str | None = None,
    cut_at: str | None = None,
    adapter: str | Path | None = None,
    init_from: str | None = None,
    init_layers: int | None = None,
    init_width: int | None = None,
    selection: Selection | None = None,
    precision: Precision = "auto",
    views: int | str | None = None,
    augment: str | None = None,
    cut: bool = True,
    teacher: Teacher | Sequence[Teacher] | None = None,
    distillation: Mapping[str, Any] | None = None,
    temperatures: str | Sequence[float] | None = None,
    unlabelled: Any = None,
    measure_memory: bool = False,
    track: str | Sequence[str] | None = None,
    on: str | None = None,
    resources: str | None = None,
    cache: str | Path | None = None,
    observer: Observer | None = None,
    progress: bool = True,
) -> Run:
    """Compare methods on your data; the same labels and splits for all at one seed.

    Killed at any moment, the same call goes on where it stopped.

    Args:
        data: A path: a folder of class folders (images or .txt files), a table (.csv, .tsv, .jsonl, .json, .parquet),
            a folder or a list of tables, or a Hugging Face dataset (`hf:NAME`), all as `load_task` takes them; a task
            from `load_task`, `task_from_arrays` or `task_from_dataset`; a pair (inputs, labels); or a Hugging Face or
            PyTorch dataset.
        source: A source's name (`bequest ls sources`), a `Source`, or an `nn.Module`.
        methods: Names (`bequest ls methods`); None for linear_probe, full, freeze and lora, as far as they apply.
        settings: Hyperparameters by method, e.g. `{"lora": {"rank": 4}}`.
        seeds: How many, or which; each redraws labels, initialisation and order.
        train_size: How many labels a method may see before the test; None for all that are not test.
        train_sizes: For learning curves: the same comparison at each of these numbers of labels, on the same test part,
            in one folder. The leaderboard and the best model are those of the largest; None for one number,
            `train_size`.
        test_size: Test samples, or their fraction below 1.
        split_seed: Chooses the test part.
        folds: Of a cross-validation in the place of one test part: each seed divides the samples anew, and every one is
            tested on by the network that was trained without its fold.
        source_data: Labelled data that the source was trained on, or like them, for methods that learn from them
            (pro2); as `data`, with the same columns.
        select_by: Which score on held-out labels ranks the rows: `metric`, or `worst-group` for the lowest accuracy of
            a group. Training, early stopping and finished trials do not depend on it.
        tune: How many settings of each method are tried on held-out labels, of a seed of its own, before the best of
            each is compared; hyperparameters in `settings` stay. None tries none. Needs the package optuna.
        budget: Instead of `tune`, how long each method may try settings: seconds, or e.g. `10m`.
        out: The run's folder; None for one under `runs/` that is named after the run.
        task: `classification`, `multi-label` or `regression`; `auto` goes by the labels. `causal-lm` is for texts
            without labels, or prompts and completions, of which a language model predicts each token.
        text_column: A table's column of texts; None to recognise it.
        image_column: A table's column of paths of images; None to recognise it.
        label_column: A table's column of labels, or several with commas between; None to recognise it.
        split_column: A table's column that says train, validation or test; None where splits are made.
        group_column: A table's column of groups, for worst-group accuracy; None for no groups.
        encoding: Of text files.
        skip_bad: Leave out images and text files that cannot be decoded, and say which.
        max_tokens: Token limit of a text source; None for its default.
        image_size: Side of an image source's input, pixels; None for its default.
        source_head: Name of the source's own last layer, which is taken off; None to find it.
        pooling: From a source's tokens to one vector: `mean`, `cls` or `last`; None as it was trained.
        cut_at: Name of the layer at which the source's body ends (`bequest ls layers`); None for the whole.
        adapter: Folder of a LoRA adapter in the PEFT library's files, trained on the source: it becomes part of it.
        init_from: Name of a larger source of the same family, of whose weights the source's are a selection; None for
            the source's own.
        init_layers: The source is cut down to its first layers, its weights a selection; for transformers' networks.
        init_width: The source is cut down to this width, its weights a selection; for transformers' networks.
        selection: Which units a smaller network keeps: `uniform` (the default), `first`, `random` or `inconsistent`.
        precision: `auto`, `float32` or `bfloat16`.
        views: How many augmented views of each image training sees, the plain one among them, each computed once;
            `unlimited` for fresh ones in every epoch; None for the default. Texts and arrays have one.
        augment: How views are made: `light`, `standard`, `strong`, with changes as in `light,flip=0`; None for the
            default.
        cut: Whether frozen layers are computed once a sample; False trains the plain way, to the same result.
        teacher: What the source learns from: an earlier run's folder, or a source's name, where its own head knows the
            task's classes; several, with commas between or in a list, teach the mean of their soft targets. Each method
            that trains then has two rows, without the teacher and with it.
        distillation: Settings of `bequest.core.distillation.Distillation`, e.g. `{"temperature": 2.0}`.
        temperatures: A distilled row at each of these ρ, e.g. `[1, 2, 4, 8]`; None for one at the temperature that is
            set.
        unlabelled: Samples without labels that a student is trained on too: a folder of images or .txt files, or inputs
            as `task_from_arrays` takes them. Those that are among the task's own are left out.
        measure_memory: Run each method once more, at one seed, in a process of its own with nothing stored, and record
            how much memory that takes at its peak.
        track: Trackers that are told each trial's course and result, with commas between or in a list: `tensorboard`,
            `mlflow` (an SQLite file), `wandb` (offline). They write into the run's folder, under `tracking/`.
        on: Where trials are carried out: `ray` for the cluster that this machine is part of, or else one of this
            machine alone; `ray://HOST:PORT` for one elsewhere (docs/scale.md); None for this process, one by one. Needs
            the package ray.
        resources: With `on`, what a trial has for itself: `cpus`, which is also how many threads it computes with,
            `gpus`, `memory`, e.g. `cpus=2,gpus=0.5,memory=4GB`; None for one core.
        cache: Folder of stored frozen outputs; None for the user's. With `on` each machine has its own.
        observer: Hears of progress; None shows it in the terminal if `progress`.
        progress: Whether to show anything.

    Returns:
        The run, whose best model is loaded when it is first asked for.

    Raises:
        bequest.core.errors.BequestError: One of its kinds, for everything that the input or the machine can cause.
    """
    chosen, trackers, asked = check_seeds(seeds), check_trackers(track), _resources(on, resources)
    train_size, test_size = check_train_size(train_size), check_test_size(test_size)
    sizes = check_train_sizes(train_sizes)
    if sizes and train_size is not None:
        raise DataError(f"--train-size {train_size} and --train-sizes are both given; expected one of them.")
    train_size = sizes[-1] if sizes else train_size
    split_seed, sweep = check_seed("--split-seed", split_seed), check_temperatures(temperatures)
    columns = {
        "text_column": text_column,
        "image_column": image_column,
        "label_column": label_column,
        "split_column": split_column,
        "group_column": group_column,
    }
    options = {**columns, "encoding": encoding, "skip_bad": skip_bad}
    loaded = _task(data, task, options)
    select_by = check_select_by(select_by, loaded)
    limit = _budget(tune, budget)
    source_task = (
        None if source_data is None else _task(source_data, "classification", {**options, "group_column": None})
    )
    source = _source(
        source,
        loaded,
        max_tokens,
        image_size,
        source_head,
        pooling,
        cut_at,
        adapter=adapter,
        init_from=init_from,
        init_layers=init_layers,
        init_width=init_width,
        selection=selection,
    )
    check_modality(loaded, source)
    loaded = divided(loaded, source)
    methods = _default_methods(loaded) if methods is None else methods
    protocol = Protocol(
        chosen,
        train_size,
        test_size,
        split_seed,
        precision,
        cut=cut,
        source_task=source_task,
        select_by=select_by,
        smaller_sizes=sizes[:-1],
        budget=limit,
        folds=_folds(folds, limit, test_size),
    )
    entries = enter(methods, settings or {}, source, protocol.sealed(loaded).public)
    teaching = _teaching(teacher, distillation, unlabelled, temperatures, {**options, "kind": loaded.kind})
    entries = entries if teaching is None else with_teacher(entries, teaching, sweep)
    protocol = replace(protocol, views=choose_views(views, augment, loaded.modality), teaching=teaching)
    recorded = {
        "data": loaded.origin,
        "source": source.request or {"name": source.name},
        "methods": list(methods),
        "settings": {name: dict(values) for name, values in (settings or {}).items()},
        "seeds": list(chosen),
        "train_size": None if sizes else train_size,
        "train_sizes": list(sizes) or None,
        "test_size": test_size,
        "split_seed": split_seed,
        "folds": protocol.folds,
        "select_by": select_by,
        "tune": limit and limit.trials,
        "budget": limit and limit.seconds,
        "precision": precision,
        "views": views,
        "augment": augment,
        "cut": cut,
        "source_data": source_task and source_task.origin,
        "teacher": teaching and [t.request for t in teaching.teachers],
        "distillation": teaching and teaching.settings.describe(),
        "temperatures": list(sweep) or None,
        "unlabelled": os.path.abspath(unlabelled) if isinstance(unlabelled, str | Path) else None,
        "measure_memory": measure_memory,
        "replayable": bool(loaded.origin and source.request and (source_task is None or source_task.origin))
        and (teaching is None or all(t.request for t in teaching.teachers))
        and (unlabelled is None or isinstance(unlabelled, str | Path)),
    }
    if measure_memory and not recorded["replayable"]:
        raise RunError(
            "--measure-memory runs each method again in a process of its own, which cannot have data or a module that "
            "only this one has; expected a data path and a named source."
        )
    folder = Path(out) if out is not None else _default_folder(loaded, source.name, recorded)
    with (
        _watching(observer, progress) as watcher,
        Tracked(watcher, trackers if launched().is_main else (), folder) as tracked,
        _runner(on, asked) as runner,
    ):
        store = Store(Path(cache) if cache is not None else None, note=watcher.note)
        if on is not None and teaching is not None:
            teaching.check(loaded, source)
            context = Context(source, loaded, store, choose_runtime(precision), watcher)
            _teach_elsewhere(replace(context, views=protocol.views, teaching=teaching), protocol, on, asked)
        board = run_comparison(
            loaded,
            source,
            entries,
            protocol,
            folder,
            tracked,
            store=store,
            settings=recorded,
            measure=partial(_memory_alone, folder, watcher) if measure_memory else None,
            advise=advice,
            report=_write_report,
            runner=runner,
        )
    return Run(folder, board, source, loaded)


def _folds(folds: int | None, budget: Budget | None, test_size: int | float) -> int | None:
    if folds is None:
        return None
    if budget is not None:
        raise DataError(
            "--folds is given with --tune or --budget; expected one of them: what is chosen on held-out labels of one "
            "fold has seen what others are tested on. Leave --folds out."
        )
    if test_size != DEFAULT_TEST_SIZE:
        raise DataError(
            f"--folds and --test-size {test_size} are both given; expected one of them, since every sample is "
            "tested on in some fold. Leave one out."
        )
    return check_count("--folds", folds, 2)


def _resources(on: str | None, resources: str | None) -> Resources:
    if on is None and resources is not None:
        raise DataError(f"--resources is {resources!r}, but the work is done in this process. Say where: --on ray.")
    return read_resources(resources)


def _teach_elsewhere(context: Context, protocol: Protocol, on: str, asked: Resources) -> None:
    """Have workers compute what teachers make, before training begins; it is found in the store then."""
    draws = [draw for seed in protocol.seeds for draw in protocol.draws(context.task, seed)]
    with connected(on) as ray, closing(Workers(ray, asked)) as workers:
        taught = replace(context, workers=workers)
        teach_ahead(taught, [draw.train for draw in draws], protocol.tested(context.task))


@contextmanager
def _runner(on: str | None, asked: Resources) -> Iterator[Runner]:
    if on is None:
        yield in_process
        return
    with connected(on) as ray:
        yield partial(on_ray, ray, asked)


def _budget(tune: int | None, budget: str | float | None) -> Budget | None:
    if tune is not None and budget is not None:
        raise DataError(f"--tune is {tune} and --budget is {budget}; expected one of them. Leave the other out.")
    if tune is not None:
        return Budget(trials=check_count("--tune", tune, 1))
    return None if budget is None else Budget(seconds=check_duration("--budget", budget))


def adapt(
    data: Any,
    source: str | Source | nn.Module,
    method: str | None = None,
    *,
    seed: int = 0,
    out: str | Path | None = None,
    train_size: int | None = None,
    test_size: int | float = DEFAULT_TEST_SIZE,
    split_seed: int = 0,
    source_data: Any = None,
    task: TaskChoice = "auto",
    text_column: str | None = None,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    split_column: str | None = None,
    group_column: str | None = None,
    encoding: str = "utf-8",
    skip_bad: bool = False,
    max_tokens: int | None = None,
    image_size: int | None = None,
    source_head: str | None = None,
    pooling: str | None = None,
    cut_at: str | None = None,
    adapter: str | Path | None = None,
    init_from: str | None = None,
    init_layers: int | None = None,
    init_width: int | None = None,
    selection: Selection | None = None,
    precision: Precision = "auto",
    views: int | str | None = None,
    augment: str | None = None,
    cut: bool = True,
    track: str | Sequence[str] | None = None,
    cache: str | Path | None = None,
    observer: Observer | None = None,
    progress: bool = True,
    **hyperparameters: Any,
) -> Run:
    """Adapt a source by one method: a comparison with one row and one seed.

    Args:
        data: As for `compare`.
        source: As for `compare`.
        method: The method's name; None for linear_probe, or full where there are no labels to solve for.
        seed: Redraws labels, initialisation and order.
        out: As for `compare`.
        train_size: As for `compare`.
        test_size: As for `compare`.
        split_seed: As for `compare`.
        source_data: As for `compare`.
        task: As for `compare`.
        text_column: As for `compare`.
        image_column: As for `compare`.
        label_column: As for `compare`.
        split_column: As for `compare`.
        group_column: As for `compare`.
        encoding: As for `compare`.
        skip_bad: As for `compare`.
        max_tokens: As for `compare`.
        image_size: As for `compare`.
        source_head: As for `compare`.
        pooling: As for `compare`.
        cut_at: As for `compare`.
        adapter: As for `compare`.
        init_from: As for `compare`.
        init_layers: As for `compare`.
        init_width: As for `compare`.
        selection: As for `compare`.
        precision: As for `compare`.
        views: As for `compare`.
        augment: As for `compare`.
        cut: As for `compare`.
        track: As for `compare`.
        cache: As for `compare`.
        observer: As for `compare`.
        progress: As for `compare`.
        **hyperparameters: Of the method, e.g. `rank=4`.

    Returns:
        The run; `run.best` is the adapted model.

    Raises:
        bequest.core.errors.BequestError: One of its kinds, as for `compare`.
    """
    # Before the data are read for a method's sake; `compare` does what remains.
    check_seed("--seed", seed)
    check_train_size(train_size)
    check_test_size(test_size)
    if method is None:
        names = ("text_column", "image_column", "label_column", "split_column", "group_column")
        columns = dict(zip(names, (text_column, image_column, label_column, split_column, group_column), strict=True))
        data = _task(data, task, {**columns, "encoding": encoding, "skip_bad": skip_bad})
        method = _default_methods(data)[0]
    get_method(method)
    return compare(
        data,
        source,
        [method],
        settings={method: hyperparameters},
        seeds=[seed],
        train_size=train_size,
        test_size=test_size,
        split_seed=split_seed,
        source_data=source_data,
        out=out,
        task=task,
        text_column=text_column,
        image_column=image_column,
        label_column=label_column,
        split_column=split_column,
        group_column=group_column,
        encoding=encoding,
        skip_bad=skip_bad,
        max_tokens=max_tokens,
        image_size=image_size,
        source_head=source_head,
        pooling=pooling,
        cut_at=cut_at,
        adapter=adapter,
        init_from=init_from,
        init_layers=init_layers,
        init_width=init_width,
        selection=selection,
        precision=precision,
        views=views,
        augment=augment,
        cut=cut,
        track=track,
        cache=cache,
        observer=observer,
        progress=progress,
    )


def distill(
    data: Any,
    teacher: Teacher | Sequence[Teacher],
    student: str | Source | nn.Module,
    method: str = "full",
    *,
    temperatures: str | Sequence[float] | None = None,
    unlabelled: Any = None,
    seeds: int | Sequence[int] = 3,
    train_size: int | None = None,
    test_size: int | float = DEFAULT_TEST_SIZE,
    split_seed: int = 0,
    out: str | Path | None = None,
    task: TaskChoice = "auto",
    text_column: str | None = None,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    split_column: str | None = None,
    group_column: str | None = None,
    encoding: str = "utf-8",
    skip_bad: bool = False,
    max_tokens: int | None = None,
    image_size: int | None = None,
    source_head: str | None = None,
    pooling: str | None = None,
    cut_at: str | None = None,
    adapter: str | Path | None = None,
    init_from: str | None = None,
    init_layers: int | None = None,
    init_width: int | None = None,
    selection: Selection | None = None,
    precision: Precision = "auto",
    views: int | str | None = None,
    augment: str | None = None,
    cut: bool = True,
    track: str | Sequence[str] | None = None,
    on: str | None = None,
    resources: str | None = None,
    cache: str | Path | None = None,
    observer: Observer | None = None,
    progress: bool = True,
    **settings: Any,
) -> Run:
    """Train a student with a teacher, and the same student without: a comparison with these two rows.

    Args:
        data: As for `compare`.
        teacher: As for `compare`; may also be a `Run`, an `AdaptedModel` or a `Source`.
        student: As the source of `compare`.
        method: How the student is trained: any method that trains by gradient descent.
        temperatures: As for `compare`: a sweep over ρ.
        unlabelled: As for `compare`.
        seeds: As for `compare`.
        train_size: As for `compare`.
        test_size: As for `compare`.
        split_seed: As for `compare`.
        out: As for `compare`.
        task: As for `compare`; a classification, or a causal language model.
        text_column: As for `compare`.
        image_column: As for `compare`.
        label_column: As for `compare`.
        split_column: As for `compare`.
        group_column: As for `compare`.
        encoding: As for `compare`.
        skip_bad: As for `compare`.
        max_tokens: As for `compare`, of the student.
        image_size: As for `compare`, of the student.
        source_head: As for `compare`, of the student.
        pooling: As for `compare`, of the student.
        cut_at: As for `compare`, of the student.
        adapter: As for `compare`, of the student.
        init_from: As for `compare`: the student may begin with some of a larger network's weights, e.g. its teacher's.
        init_layers: As for `compare`, of the student.
        init_width: As for `compare`, of the student.
        selection: As for `compare`, of the student.
        precision: As for `compare`.
        views: As for `compare`; the teacher sees the same ones.
        augment: As for `compare`.
        cut: As for `compare`.
        track: As for `compare`.
        on: As for `compare`.
        resources: As for `compare`.
        cache: As for `compare`.
        observer: As for `compare`.
        progress: As for `compare`.
        **settings: Of the distillation (`temperature=2.0`, `hard_weight`, `soft_weight`, `soft_loss`, …: all fields of
            `bequest.core.distillation.Distillation`), and hyperparameters of the method.

    Returns:
        The run; `run.best` is the better of the two, as `run.board` tells.

    Raises:
        bequest.core.errors.BequestError: One of its kinds, as for `compare`; the teacher does not fit the task.
    """
    get_method(method)
    own = {h.name for h in DISTILLATION.hyperparameters}
    return compare(
        data,
        student,
        [method],
        settings={method: {name: value for name, value in settings.items() if name not in own}},
        teacher=teacher,
        distillation={name: value for name, value in settings.items() if name in own},
        temperatures=temperatures,
        unlabelled=unlabelled,
        seeds=seeds,
        train_size=train_size,
        test_size=test_size,
        split_seed=split_seed,
        out=out,
        task=task,
        text_column=text_column,
        image_column=image_column,
        label_column=label_column,
        split_column=split_column,
        group_column=group_column,
        encoding=encoding,
        skip_bad=skip_bad,
        max_tokens=max_tokens,
        image_size=image_size,
        source_head=source_head,
        pooling=pooling,
        cut_at=cut_at,
        adapter=adapter,
        init_from=init_from,
        init_layers=init_layers,
        init_width=init_width,
        selection=selection,
        precision=precision,
        views=views,
        augment=augment,
        cut=cut,
        track=track,
        on=on,
        resources=resources,
        cache=cache,
        observer=observer,
        progress=progress,
    )


def probe(
    data: Any,
    sources: str | Source | nn.Module | Sequence[str | Source | nn.Module],
    *,
    taps: str | Sequence[str] = "layers",
    linear: bool = True,
    seed: int = 0,
    train_size: int | None = None,
    test_size: int | float = DEFAULT_TEST_SIZE,
    split_seed: int = 0,
    out: str | Path | None = None,
    task: TaskChoice = "auto",
    text_column: str | None = None,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    split_column: str | None = None,
    group_column: str | None = None,
    encoding: str = "utf-8",
    skip_bad: bool = False,
    max_tokens: int | None = None,
    image_size: int | None = None,
    source_head: str | None = None,
    pooling: str | None = None,
    cut_at: str | None = None,
    precision: Precision = "auto",
    cache: str | Path | None = None,
    observer: Observer | None = None,
    progress: bool = True,
) -> Probe:
    """Say before any training which source, and which of its layers, suits your data, from one pass a source.

    Every layer gets each score that is defined for the task (docs/scores.md) and a linear probe, on the labels that a
    method may see; labels of the test part are not read. docs/probe.md tells how to read the outcome.

    Args:
        data: As for `compare`.
        sources: Names, with commas between where they are one text; or `Source`s and modules.
        taps: `layers` for one tap a step of depth, `all` for every place that can be read, or names of modules, each
            whole or its end; in one text with commas between. The embedding is always among them.
        linear: Whether to fit a linear probe on each layer; False leaves the scores.
        seed: Chooses labels and what is held out, as in `compare`.
        train_size: As for `compare`.
        test_size: As for `compare`; what is drawn for the test is left out.
        split_seed: As for `compare`.
        out: The folder; None for one under `runs/` that is named after the probe.
        task: As for `compare`.
        text_column: As for `compare`.
        image_column: As for `compare`.
        label_column: As for `compare`.
        split_column: As for `compare`.
        group_column: As for `compare`.
        encoding: As for `compare`.
        skip_bad: As for `compare`.
        max_tokens: As for `compare`, of every source.
        image_size: As for `compare`, of every source.
        source_head: As for `compare`, of every source.
        pooling: As for `compare`, of every source.
        cut_at: As for `compare`, of every source.
        precision: As for `compare`.
        cache: As for `compare`.
        observer: As for `compare`.
        progress: As for `compare`.

    Raises:
        bequest.core.errors.BequestError: One of its kinds, as for `compare`.
    """
    chosen, train_size = check_seed("--seed", seed), check_train_size(train_size)
    test_size, split_seed = check_test_size(test_size), check_seed("--split-seed", split_seed)
    columns = {
        "text_column": text_column,
        "image_column": image_column,
        "label_column": label_column,
        "split_column": split_column,
        "group_column": group_column,
    }
    loaded = _task(data, task, {**columns, "encoding": encoding, "skip_bad": skip_bad})
    _refuse_language(loaded, "probe")
    options = {"max_tokens": max_tokens, "image_size": image_size, "head": source_head}
    candidates = choose(
        _words(sources) if isinstance(sources, str) else sources if isinstance(sources, Sequence) else [sources],
        loaded,
        taps if taps in ("layers", "all") else _words(taps) if isinstance(taps, str) else taps,
        {**options, "pooling": pooling, "cut_at": cut_at},
    )
    protocol = Protocol((chosen,), train_size, test_size, split_seed, precision)
    recorded = {
        "data": loaded.origin,
        "sources": [c.source.request or {"name": c.source.name} for c in candidates],
        "taps": taps if isinstance(taps, str) else list(taps),
        "linear": linear,
        "seed": chosen,
        "train_size": train_size,
        "test_size": test_size,
        "split_seed": split_seed,
        "precision": precision,
    }
    names = "-".join(c.source.name for c in candidates[:3])
    folder = Path(out) if out is not None else _default_folder(loaded, f"probe-{names}", recorded)
    with _watching(observer, progress) as watcher:
        record = run_probe(
            loaded,
            candidates,
            protocol,
            folder,
            watcher,
            linear=linear,
            store=Store(Path(cache) if cache is not None else None, note=watcher.note),
            settings=recorded,
            report=_write_page,
        )
    return Probe(folder, record)


def _default_methods(task: Task) -> list[str]:
    """Those of the default methods that have something to fit on the task."""
    return [name for name in DEFAULT_METHODS if task.kind != "causal-lm" or get_method(name).trains]


def _refuse_language(task: Task, command: str) -> None:
    if task.kind == "causal-lm":
        raise DataError(
            f"bequest {command} reads one embedding a sample, which a language model task has not; expected labelled "
            "data. Name its kind: --task classification."
        )


def _words(text: str) -> list[str]:
    """What stands between commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def suggest_learning_rate(
    data: Any,
    source: str | Source | nn.Module,
    method: str = "full",
    *,
    start: float = 1e-7,
    end: float = 1.0,
    num_steps: int = 100,
    seed: int = 0,
    train_size: int | None = None,
    test_size: int | float = DEFAULT_TEST_SIZE,
    split_seed: int = 0,
    task: TaskChoice = "auto",
    text_column: str | None = None,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    split_column: str | None = None,
    group_column: str | None = None,
    encoding: str = "utf-8",
    skip_bad: bool = False,
    max_tokens: int | None = None,
    image_size: int | None = None,
    source_head: str | None = None,
    pooling: str | None = None,
    cut_at: str | None = None,
    adapter: str | Path | None = None,
    init_from: str | None = None,
    init_layers: int | None = None,
    init_width: int | None = None,
    selection: Selection | None = None,
    precision: Precision = "auto",
    cache: str | Path | None = None,
    observer: Observer | None = None,
    progress: bool = True,
    **hyperparameters: Any,
) -> RateSuggestion:
    """Train a method for some steps at rates that rise geometrically, and suggest the rate where the loss falls best.

    A range test (Smith 2017, arXiv:1506.01186) of the method's last training stage. It ends when the smoothed loss has
    come to four times its lowest. The suggestion is the middle of the longest stretch over which the smoothed loss
    falls, rounded to two digits. The head's rate keeps its proportion to the body's. The network is not kept.

    Args:
        data: As for `compare`.
        source: As for `compare`.
        method: The method's name.
        start: First rate of the body.
        end: Rate of the last step.
        num_steps: Optimizer steps, 20 or more.
        seed: As for `adapt`.
        train_size: As for `compare`.
        test_size: As for `compare`; what is drawn for the test is left out.
        split_seed: As for `compare`.
        task: As for `compare`.
        text_column: As for `compare`.
        image_column: As for `compare`.
        label_column: As for `compare`.
        split_column: As for `compare`.
        group_column: As for `compare`.
        encoding: As for `compare`.
        skip_bad: As for `compare`.
        max_tokens: As for `compare`.
        image_size: As for `compare`.
        source_head: As for `compare`.
        pooling: As for `compare`.
        cut_at: As for `compare`.
        adapter: As for `compare`.
        init_from: As for `compare`.
        init_layers: As for `compare`.
        init_width: As for `compare`.
        selection: As for `compare`.
        precision: As for `compare`.
        cache: As for `compare`.
        observer: As for `compare`.
        progress: As for `compare`.
        **hyperparameters: Of the method, e.g. `batch_size=8`.

    Raises:
        bequest.core.errors.BequestError: One of its kinds, as for `compare`; the loss falls at no rate.
    """
    columns = {
        "text_column": text_column,
        "image_column": image_column,
        "label_column": label_column,
        "split_column": split_column,
        "group_column": group_column,
    }
    loaded = _task(data, task, {**columns, "encoding": encoding, "skip_bad": skip_bad})
    source = _source(
        source,
        loaded,
        max_tokens,
        image_size,
        source_head,
        pooling,
        cut_at,
        adapter=adapter,
        init_from=init_from,
        init_layers=init_layers,
        init_width=init_width,
        selection=selection,
    )
    check_modality(loaded, source)
    loaded = divided(loaded, source)
    [entry] = enter([method], {method: hyperparameters}, source, loaded)
    missing = {"learning_rate", "head_learning_rate"} - entry.settings.keys()
    if missing:
        raise MethodError(f"{method} has no learning rate to suggest; expected a method that trains, e.g. full.")
    with _watching(observer, progress) as watcher:
        context = Context(
            source, loaded, Store(Path(cache)) if cache is not None else Store(), choose_runtime(precision), watcher
        )
        test = range_test(
            context,
            entry.method,
            loaded.draw(seed, train_size=train_size, test_size=test_size, split_seed=split_seed),
            seed=seed,
            learning_rate=entry.settings["learning_rate"],
            start=start,
            end=end,
            num_steps=num_steps,
        )
    factor = test.suggestion / entry.settings["learning_rate"]
    rates = ("learning_rate", "head_learning_rate")
    return RateSuggestion(method, {name: float(f"{entry.settings[name] * factor:.2g}") for name in rates}, test)


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
    task = divided(_load(settings["data"], data), source)
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
    task = divided(_load(settings["data"]), source)
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
        source_data=own and _load(own),
        teacher=teachers and [get_source(**request) for request in teachers],
        **{name: settings[name] for name in names.split()},
        **place,
    )


@dataclass(frozen=True)
class FeatureFile:
    """A file of features, or a folder of shards.

    Attributes:
        path: Where it lies; an address as it was given.
        num_samples: Its rows.
        columns: Names of the features' columns; in shards those of one layer are one list.
    """

    path: Path | str
    num_samples: int
    columns: tuple[str, ...]


def features(
    data: Any,
    source: str | Source | nn.Module,
    out: str | Path,
    *,
    layers: str | Sequence[str] = "last",
    pool_to: int = 0,
    task: TaskChoice = "auto",
    text_column: str | None = None,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    split_column: str | None = None,
    group_column: str | None = None,
    encoding: str = "utf-8",
    skip_bad: bool = False,
    max_tokens: int | None = None,
    image_size: int | None = None,
    source_head: str | None = None,
    pooling: str | None = None,
    cut_at: str | None = None,
    adapter: str | Path | None = None,
    batch_size: int = 32,
    precision: Precision = "auto",
    on: str | None = None,
    resources: str | None = None,
    shard_size: int = 4096,
    cache: str | Path | None = None,
    observer: Observer | None = None,
    progress: bool = True,
) -> FeatureFile:
    """Write what layers of the frozen source make of every sample into a file, or a folder of shards.

    Its columns are `id` (the sample's file or row), `label` (of several targets or labels one column each,
    `label:<name>`), `split` and `group` where the data give them, and `<layer>:<i>` for every feature, float32. An .npz
    file holds the features as one array, `features`, and their names as `columns`. `FeatureExtractor` gives features
    in memory.

    Where `out` is a folder, the data may be larger than any disk of yours: nothing of them is kept, each shard of them
    becomes one Parquet file, and a pass that was killed goes on with the shards that are lacking. Their columns are
    `key`, `label` (where the data give it), `hash` (of the content) and a list of numbers for each layer.
    docs/scale.md has the rest.

    Args:
        data: As for `compare`. For a folder of shards a folder or pattern of images, .txt files, Parquet files or
            WebDataset's tars, at any address that fsspec knows.
        source: As for `compare`.
        out: A file that ends in .parquet, .csv or .npz; or a folder, or the address of one.
        layers: `last` for the embedding; `all` for every layer of depth and the embedding; or layers' names, with
            commas between or in a list (`bequest ls layers SOURCE --taps`).
        pool_to: Numbers to pool each layer's output to, about; 0 for the mean over its places.
        task: As for `compare`.
        text_column: As for `compare`.
        image_column: As for `compare`.
        label_column: As for `compare`.
        split_column: As for `compare`.
        group_column: As for `compare`.
        encoding: As for `compare`.
        skip_bad: As for `compare`.
        max_tokens: As for `compare`.
        image_size: As for `compare`.
        source_head: As for `compare`.
        pooling: As for `compare`.
        cut_at: As for `compare`.
        adapter: As for `compare`.
        batch_size: Samples in a forward pass.
        precision: As for `compare`.
        on: Who makes a folder of shards: `ray`, or `ray://HOST:PORT`, for an actor pool of Ray Data; None for this
            process.
        resources: With `on`, what each worker has for itself, e.g. `cpus=2,gpus=0.5,memory=4GB`; None for one core.
        shard_size: Samples in a shard of a folder, about; a tar is one shard.
        cache: As for `compare`; a folder of shards does not use it.
        observer: As for `compare`.
        progress: As for `compare`.

    Returns:
        The file, or the folder.

    Raises:
        bequest.core.errors.BequestError: One of its kinds, as for `compare`; there is no such layer; the file cannot
            be written.
    """
    path, is_folder = Path(out), not Path(out).suffix
    if is_folder:
        _refuse_for_shards({"--split-column": split_column, "--group-column": group_column, "--cache": cache})
    else:
        check_suffix(path)
        _refuse_for_file({"--on": on, "--resources": resources}, path)
    pool_to, batch_size = check_count("--pool-to", pool_to, 0), check_count("--batch-size", batch_size, 1)
    if is_folder:
        options = {"max_tokens": max_tokens, "image_size": image_size, "pooling": pooling, "cut_at": cut_at}
        source = _named_source(source, head=source_head, adapter=adapter, **options)
        sample = image_column if source.modality == "image" else text_column
        with _watching(observer, progress) as watcher:
            return _shards_of_features(
                data,
                FeaturePass.of(
                    source,
                    named_taps(source, layers, target=pool_to),
                    str(out) if "://" in str(out) else path.expanduser().absolute(),
                    ShardColumns(sample, label_column if isinstance(label_column, str) else None),
                    batch_size=batch_size,
                    precision=precision,
                    skip_bad=skip_bad,
                ),
                source,
                check_count("--shard-size", shard_size, 1),
                on,
                _resources(on, resources),
                watcher,
            )
    columns = {
        "text_column": text_column,
        "image_column": image_column,
        "label_column": label_column,
        "split_column": split_column,
        "group_column": group_column,
    }
    loaded = _task(data, task, {**columns, "encoding": encoding, "skip_bad": skip_bad})
    _refuse_language(loaded, "features")
    source = _source(source, loaded, max_tokens, image_size, source_head, pooling, cut_at, adapter=adapter)
    check_modality(loaded, source)
    taps = named_taps(source, layers, target=pool_to, task=loaded)
    with _watching(observer, progress) as watcher:
        store = Store(Path(cache) if cache is not None else None, note=watcher.note)
        context = Context(source, loaded, store, choose_runtime(precision), watcher, batch_size=batch_size)
        for note in loaded.notes:
            watcher.note(note)
        found = embeddings(context, range(len(loaded.samples)), Tapped(source.body, taps))
    names = column_names(taps)
    table = FeatureTable(len(found), names, partial(_known, loaded), lambda start, stop: found[start:stop].stack())
    write_features(table, path)
    return FeatureFile(path, len(found), tuple(names))


def _refuse_for_shards(given: Mapping[str, Any]) -> None:
    named = [flag for flag, value in given.items() if value is not None]
    if named:
        raise DataError(
            f"{' and '.join(named)} given, but --out is a folder, of whose shards each sample has a key and a label "
            "alone; expected none of these. Leave it out, or give a file that ends in .parquet, .csv or .npz as --out."
        )


def _refuse_for_file(given: Mapping[str, Any], path: Path) -> None:
    named = [flag for flag, value in given.items() if value is not None]
    if named:
        raise DataError(
            f"{' and '.join(named)} given, but --out is one file, {path}; expected a folder, into which every worker "
            "writes shards. Give a name without a suffix."
        )


def _named_source(source: Any, **options: Any) -> Source:
    """A source that is there before any sample is seen."""
    if isinstance(source, Source):
        return source
    if not isinstance(source, str):
        raise DataError(
            "A module cannot be sent to workers as it is; expected a source's name or a Source. Make one: "
            "bequest.from_module(module, example=batch, preprocess=...)."
        )
    return get_source(source, **options)


def _shards_of_features(
    data: Any,
    work: FeaturePass,
    source: Source,
    size: int,
    on: str | None,
    asked: Resources,
    watcher: Observer,
) -> FeatureFile:
    if not isinstance(data, str | Path):
        raise DataError("For a folder of shards the data are one address; expected a folder, a file or a pattern.")
    extraction = Extraction(work, find_shards(data, source.modality, size), watcher)
    if on is None:
        manifest = extraction.carry_out(made_here)
    else:
        with connected(on) as ray:
            manifest = extraction.carry_out(OnRay(ray, asked, watcher))
    place = work.out if "://" in work.out else Path(work.out)
    return FeatureFile(place, manifest["num_samples"], tuple(column_names(work.taps)))


@dataclass(frozen=True)
class PredictionFile:
    """A file of predictions.

    Attributes:
        path: Where it lies.
        num_samples: Its rows.
        num_skipped: Samples that could not be read and were left out.
    """

    path: Path
    num_samples: int
    num_skipped: int


Asked = str | Path | Sequence[str | Path]
"""Files, folders, tables; `-` is standard input."""


def predict_each(
    run: str | Path | Run | AdaptedModel,
    inputs: Asked,
    *,
    text_column: str | None = None,
    image_column: str | None = None,
    encoding: str = "utf-8",
    batch_size: int = 32,
    skip_unreadable: bool = False,
    observer: Observer | None = None,
    progress: bool = True,
) -> Iterator[tuple[str, AnyPrediction]]:
    """What a model says of every sample in files, one after another; a few batches are in memory at a time.

    Args:
        run: A run, its folder or a saved model's, or a model.
        inputs: Images, or text files, each one text; folders, of which all images or .txt files below are taken; tables
            (.csv, .tsv, .jsonl, .json, .parquet) with a sample a row; or `-` for standard input, with a text, an
            image's path or a JSON object a line.
        text_column: A table's column of texts; None to recognise it.
        image_column: A table's column of paths of images; None to recognise it.
        encoding: Of text files.
        batch_size: Samples in a forward pass.
        skip_unreadable: Leave out samples that cannot be read, and say which; otherwise the first one is an error.
        observer: As for `compare`.
        progress: As for `compare`.

    Yields:
        What the sample is called, and the prediction.

    Raises:
        bequest.core.errors.BequestError: One of its kinds: there is no model or no such file, or a sample cannot be
            read.
    """
    model = _model(run)
    found = _inputs(model, inputs, text_column, image_column, encoding)
    with _watching(observer, progress) as watcher:
        predictor = Predictor(model, watcher, check_count("--batch-size", batch_size, 1), skip_unreadable)
        for item, prediction in predictor.predictions(found):
            yield item.place, prediction


def predict_file(
    run: str | Path | Run | AdaptedModel,
    inputs: Asked,
    out: str | Path,
    *,
    probabilities: bool = False,
    text_column: str | None = None,
    image_column: str | None = None,
    encoding: str = "utf-8",
    batch_size: int = 32,
    skip_unreadable: bool = False,
    observer: Observer | None = None,
    progress: bool = True,
) -> PredictionFile:
    """Write what a model says of every sample into a file, one row a sample.

    Rows of tables keep their columns; of other samples the column `input` says where they lie. Added are `predicted`
    and, of a classification, `probability`; of several labels those that are above one half with `|` between, and every
    one's as `probability:<label>`; of several targets `predicted:<target>`.

    Args:
        run: As for `predict_each`.
        inputs: As for `predict_each`.
        out: A file that ends in .csv, .tsv, .jsonl or .parquet.
        probabilities: Whether to add every class's probability as `probability:<class>`.
        text_column: As for `predict_each`.
        image_column: As for `predict_each`.
        encoding: As for `predict_each`.
        batch_size: As for `predict_each`.
        skip_unreadable: As for `predict_each`.
        observer: As for `compare`.
        progress: As for `compare`.

    Raises:
        bequest.core.errors.BequestError: As for `predict_each`; or a table has a column of an added one's name, or the
            file cannot be written.
    """
    path = Path(out)
    check_rows_suffix(path)
    model = _model(run)
    found = _inputs(model, inputs, text_column, image_column, encoding)
    added = result_columns(model, probabilities=probabilities)
    taken = [name for name in added if name in found.columns]
    if taken:
        raise DataError(
            f"The data have a column {taken[0]!r} already; expected none of {', '.join(added[:3])}. Rename it."
        )
    with _watching(observer, progress) as watcher:
        predictor = Predictor(model, watcher, check_count("--batch-size", batch_size, 1), skip_unreadable)
        rows = (
            [*map(item.cells.get, found.columns), *result_cells(prediction, probabilities=probabilities)]
            for item, prediction in predictor.predictions(found)
        )
        count = write_rows([*found.columns, *added], rows, path)
    return PredictionFile(path, count, len(found.items) - count)


def _model(run: str | Path | Run | AdaptedModel) -> AdaptedModel:
    if isinstance(run, AdaptedModel):
        return run
    return run.best if isinstance(run, Run) else load(run)


def _inputs(
    model: AdaptedModel, inputs: Asked, text_column: str | None, image_column: str | None, encoding: str
) -> Inputs:
    names = [inputs] if isinstance(inputs, str | Path) else inputs
    columns = {"text_column": text_column, "image_column": image_column}
    return read_inputs(names, model.source.modality, **columns, encoding=encoding, stdin=sys.stdin)


FormatName = Literal["onnx", "torch-export", "safetensors", "hf", "timm", "peft"]


def export(
    run: str | Path | Run,
    path: str | Path,
    *,
    format: FormatName | None = None,
    method: str | None = None,
    seed: int | None = None,
    source: Source | None = None,
    data: Any = None,
    tolerance: float = TOLERANCE,
) -> Exported:
    """Write what a run trained for other tools; nothing is trained again.

    What was written is loaded with the tool that users load it with, and computes on 32 real samples what PyTorch
    computes, before it takes its name. docs/shipping.md tells what each format holds and how it is used:

    - `onnx`: head included, any batch, any length of texts; preprocessing and labels as metadata;
    - `torch-export`: the same as a program of PyTorch's, without Bequest's code;
    - `safetensors`: a plain state dict, with the same metadata;
    - `hf`: a folder for `from_pretrained` of transformers, where the source is from there and the head fits;
    - `timm`: a folder for `timm.create_model`, where the source is from there;
    - `peft`: a folder with a low-rank method's updates and its head, for `peft.PeftModel.from_pretrained`.

    Args:
        run: A run, or the folder of one, or of a saved model.
        path: Where the file goes, or the files; a folder must be new or empty.
        format: One of those; None goes by the suffix of the path (.onnx, .pt2, .safetensors).
        method: The method's name; None for the best one, of `peft` the best that has low-rank layers.
        seed: The trial's; None for the median one by the held-out score.
        source: Needed where the run was made from an `nn.Module` of yours.
        data: Real samples to try the file on, as for `compare`; None for the run's own. Needed where the run was made
            from data that only Python had, or they have been moved.
        tolerance: How far outputs may be from PyTorch's: this part of the largest output, or of 1 where that is more.

    Raises:
        bequest.core.errors.BequestError: One of its kinds: the run has no such trial, the format has no place for the
            model, a package is missing, outputs differ by more than the tolerance, or a file cannot be written.
    """
    place, path = run.folder if isinstance(run, Run) else Path(run), Path(path)
    form = choose_format(path, format)
    if not 0 < tolerance < 1:
        raise RunError(f"--tolerance is {tolerance}; expected a number between 0 and 1, e.g. {TOLERANCE:g}.")
    made_from = source or (run._source if isinstance(run, Run) else None)  # pyright: ignore[reportPrivateUsage]
    known = run._task if isinstance(run, Run) else None  # pyright: ignore[reportPrivateUsage]
    task = known if known is not None and data is None else _samples_of(place, data)
    return run_export(place, path, task, form=form, method=method, seed=seed, source=made_from, tolerance=tolerance)


def _samples_of(folder: Path, data: Any) -> Task:
    """The data that a run was made from, or those that are given in their place."""
    origin = (RunFolder(folder).settings.get("data") or {}) if (folder / RUN_FILE).is_file() else {}
    if data is None and not origin:
        raise RunError(
            f"{folder} does not say where its data lie, and a file is tried on real samples; expected some. Give "
            "them: --data PATH, or bequest.export(run, path, data=...)."
        )
    if origin and (data is None or isinstance(data, str | Path)):
        return _load(origin, data)
    return _task(data, "auto", {})


def _known(task: Task, start: int, stop: int) -> dict[str, list[Any]]:
    """What a task says of some samples, as columns."""
    rows = range(start, stop)
    columns: dict[str, list[Any]] = {"id": [task.samples.describe(i) for i in rows]}
    if task.kind == "classification":
        columns["label"] = [task.classes[i] for i in task.labels[start:stop]]
    else:
        values = task.labels[start:stop].astype(np.int64 if task.kind == "multi-label" else np.float64)
        columns |= {f"label:{name}": values[:, i].tolist() for i, name in enumerate(task.classes)}
    if task.split:
        columns["split"] = list(task.split[start:stop])
    if task.groups is not None:
        groups = task.groups[start:stop].tolist()
        columns["group"] = [task.group_names[i] for i in groups] if task.group_names else groups
    return columns


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


def _load(origin: Mapping[str, Any], path: str | Path | None = None) -> Task:
    """What a run recorded of its data, loaded again; from another path where one is given."""
    return bequest_data.load(path or origin["path"], **{k: v for k, v in origin.items() if k != "path"})


def _task(data: Any, task: TaskChoice, options: Mapping[str, Any]) -> Task:
    if isinstance(data, Task):
        return data
    if isinstance(data, tuple):
        inputs, labels = data
        return bequest_data.from_arrays(inputs, labels, task=task)
    paths = data if isinstance(data, list) else [data]
    if all(isinstance(path, str | os.PathLike) for path in paths) or is_dataset(data):
        return bequest_data.load(data, task=task, **options)
    return bequest_data.from_dataset(data, task=task)


def _source(
    source: Any,
    task: Task,
    max_tokens: int | None,
    image_size: int | None,
    head: str | None,
    pooling: str | None,
    cut_at: str | None,
    **start: Any,
) -> Source:
    options = {"max_tokens": max_tokens, "image_size": image_size, "head": head, "pooling": pooling, "cut_at": cut_at}
    return resolve(source, task, **options, **start)


def _teaching(
    teacher: Any, settings: Mapping[str, Any] | None, unlabelled: Any, temperatures: Any, options: Mapping[str, Any]
) -> Teaching | None:
    """Who teaches, what, and on which samples; None without a teacher."""
    if teacher is None:
        values = {"distillation": settings, "--unlabelled": unlabelled, "--temperatures": temperatures}
        given = [flag for flag, value in values.items() if value]
        if given:
            raise MethodError(f"Settings for {' and '.join(given)} are given, but no teacher. Name one: --teacher.")
        return None
    words = _words(teacher) if isinstance(teacher, str) else teacher
    teachers = words if isinstance(words, list | tuple) else [words]
    if not teachers:
        raise MethodError(f"--teacher is {teacher!r}; expected an earlier run's folder, or a source's name.")
    transfer = unlabelled
    if isinstance(unlabelled, str | Path):
        own = {name: options[name] for name in ("encoding", "skip_bad")}
        transfer = read_unlabelled(Path(unlabelled).expanduser(), **own)
    elif unlabelled is not None:
        transfer = read_samples(unlabelled, "unlabelled")
    found = tuple(_teacher(one, options["kind"]) for one in teachers)
    return Teaching(make_distillation(settings or {}), found, transfer)


def _teacher(teacher: Teacher, kind: Kind) -> Source:
    if isinstance(teacher, Source):
        return teacher
    if isinstance(teacher, str | Path):
        return get_source(str(teacher), kind=kind)
    model, name = (teacher.best, str(teacher.folder)) if isinstance(teacher, Run) else (teacher, teacher.source.name)
    request = {"name": str(teacher.folder.resolve())} if isinstance(teacher, Run) else {}
    return replace(
        model.source,
        name=name,
        pretrained=lambda: model.network,
        head_kind=model.kind,
        classes=model.classes,
        request=request,
    )


def _memory_alone(folder: Path, observer: Observer, method: str, seed: int) -> int:
    """Peak memory of a process that runs one trial of a run alone, bytes; 0 where it failed, which is told."""
    words = [sys.executable, "-m", "bequest.alone", str(folder), method, str(seed)]
    observer.note("Each method is run once more, alone, to measure its memory.")
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=alone())
    if done.returncode == 0:
        return int(done.stdout)
    reason = (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
    observer.note(f"The memory of {method} alone was not measured: {reason}")
    return 0


def _default_folder(task: Task, what: str, recorded: dict[str, Any]) -> Path:
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{task.name}-{what}")
    return Path("runs") / f"{name}-{digest({**recorded, 'task': task.fingerprint})[:8]}"


def _watching(observer: Observer | None, progress: bool) -> Any:
    if not launched().is_main:
        return nullcontext(Silent())
    if observer is not None:
        return nullcontext(observer)
    if not progress:
        return nullcontext(Silent())
    from bequest.ui.terminal import Terminal

    return Terminal()


def _write_report(board: Leaderboard, folder: Path) -> None:
    from bequest.report.html import write

    write(board, folder / REPORT_FILE, RunFolder(folder).examples())


def _write_page(record: ProbeRecord, folder: Path) -> None:
    from bequest.report.probing import write

    write(record, folder / PAGE_FILE)
