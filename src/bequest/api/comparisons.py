"""Several methods on one task: `compare`. What else trains is a special case of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bequest.api.inputs import (
    DEFAULT_TEST_SIZE,
    Precision,
    default_folder,
    read_source,
    read_task,
    read_workers,
    watching,
)
from bequest.api.runs import Run
from bequest.api.teachers import Teacher, read_teaching
from bequest.comparison.comparing import compare as run_comparison
from bequest.comparison.entries import check_modality, enter, with_teacher
from bequest.comparison.folder import REPORT_FILE, RunFolder
from bequest.comparison.groups import check_select_by
from bequest.comparison.local import Runner, in_process
from bequest.comparison.on_ray import on_ray
from bequest.comparison.protocol import Protocol
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
from bequest.core.distillation import check_temperatures
from bequest.core.errors import DataError, RunError
from bequest.core.observe import Observer
from bequest.core.processes import alone, launched
from bequest.core.registry import get_method
from bequest.core.results import Leaderboard, SelectBy
from bequest.core.task import Task
from bequest.data.labels import TaskChoice
from bequest.data.views import choose_views
from bequest.engine.cluster import Resources, connected
from bequest.engine.context import Context
from bequest.engine.runtime import choose_runtime
from bequest.engine.store import Store
from bequest.engine.teaching import teach_ahead
from bequest.engine.windows import divided
from bequest.engine.workers import Workers
from bequest.nn.weight_selection import Selection
from bequest.report.advice import advice
from bequest.sources import Source
from bequest.ui.tracking import Tracked, check_trackers

if TYPE_CHECKING:
    from torch import nn

DEFAULT_METHODS = ("linear_probe", "full", "freeze", "lora")
"""Those of them that apply to the task are compared; `adapt` takes the first."""


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
            from `load_task`, `task_from_arrays` or `task_from_dataset`; a pair (inputs, labels); a DataFrame; or a
            Hugging Face or PyTorch dataset.
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
    chosen, trackers, asked = check_seeds(seeds), check_trackers(track), read_workers(on, resources)
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
    loaded = read_task(data, task, options)
    select_by = check_select_by(select_by, loaded)
    limit = _budget(tune, budget)
    source_task = (
        None if source_data is None else read_task(source_data, "classification", {**options, "group_column": None})
    )
    source = read_source(
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
    methods = default_methods(loaded) if methods is None else methods
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
    teaching = read_teaching(teacher, distillation, unlabelled, temperatures, {**options, "kind": loaded.kind})
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
    folder = Path(out) if out is not None else default_folder(loaded, source.name, recorded)
    with (
        watching(observer, progress) as watcher,
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


def default_methods(task: Task) -> list[str]:
    """Those of the default methods that have something to fit on the task."""
    return [name for name in DEFAULT_METHODS if task.kind != "causal-lm" or get_method(name).trains]


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


def _budget(tune: int | None, budget: str | float | None) -> Budget | None:
    if tune is not None and budget is not None:
        raise DataError(f"--tune is {tune} and --budget is {budget}; expected one of them. Leave the other out.")
    if tune is not None:
        return Budget(trials=check_count("--tune", tune, 1))
    return None if budget is None else Budget(seconds=check_duration("--budget", budget))


def _teach_elsewhere(context: Context, protocol: Protocol, on: str, asked: Resources) -> None:
    """Have workers compute what teachers make, before training begins; it is found in the store then."""
    draws = [draw for seed in protocol.seeds for draw in protocol.draws(context.task, seed)]
    with connected(on, asked) as ray, closing(Workers(ray, asked)) as workers:
        taught = replace(context, workers=workers)
        teach_ahead(taught, [draw.train for draw in draws], protocol.tested(context.task))


@contextmanager
def _runner(on: str | None, asked: Resources) -> Iterator[Runner]:
    if on is None:
        yield in_process
        return
    with connected(on, asked) as ray:
        yield partial(on_ray, ray, asked)


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


def _write_report(board: Leaderboard, folder: Path) -> None:
    from bequest.report.html import write

    write(board, folder / REPORT_FILE, RunFolder(folder).examples())
