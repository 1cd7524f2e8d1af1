"""What every function is given: data and sources in all their forms, and who hears of the work."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

from bequest import data as bequest_data
from bequest.comparison.folder import digest
from bequest.core.errors import DataError
from bequest.core.observe import Observer, Silent
from bequest.core.processes import launched
from bequest.core.task import Task
from bequest.data.labels import TaskChoice
from bequest.data.loading import is_table
from bequest.engine.cluster import Resources
from bequest.engine.cluster import resources as read_resources
from bequest.sources import Source, resolve

Precision = Literal["auto", "float32", "bfloat16"]

DEFAULT_TEST_SIZE = 0.25
"""Share of the samples that is tested on where nothing else is asked for."""


def words(text: str) -> list[str]:
    """What stands between commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def read_task(data: Any, task: TaskChoice, options: Mapping[str, Any]) -> Task:
    """A task of whatever the user gave: a path or several, arrays, an address on the Hub, a data set, a task."""
    if isinstance(data, Task):
        return data
    if isinstance(data, tuple):
        inputs, labels = data
        return bequest_data.from_arrays(inputs, labels, task=task)
    paths = data if isinstance(data, list) else [data]
    if all(isinstance(path, str | os.PathLike) for path in paths) or is_table(data):
        return bequest_data.load(data, task=task, **options)
    return bequest_data.from_dataset(data, task=task)


def load_recorded(origin: Mapping[str, Any], path: str | Path | None = None) -> Task:
    """What a run recorded of its data, loaded again; from another path where one is given."""
    return bequest_data.load(path or origin["path"], **{k: v for k, v in origin.items() if k != "path"})


def read_source(
    source: Any,
    task: Task,
    max_tokens: int | None,
    image_size: int | None,
    head: str | None,
    pooling: str | None,
    cut_at: str | None,
    **start: Any,
) -> Source:
    """A source of whatever the user gave, fitted to the task; `start` says what it begins from."""
    options = {"max_tokens": max_tokens, "image_size": image_size, "head": head, "pooling": pooling, "cut_at": cut_at}
    return resolve(source, task, **options, **start)


def refuse_language(task: Task, command: str) -> None:
    """Say that a command has no use for a language model task."""
    if task.kind == "causal-lm":
        raise DataError(
            f"bequest {command} reads one embedding a sample, which a language model task has not; expected labelled "
            "data. Name its kind: --task classification."
        )


def read_workers(on: str | None, resources: str | None) -> Resources:
    """What each worker may take; an error where there are no workers."""
    if on is None and resources is not None:
        raise DataError(f"--resources is {resources!r}, but the work is done in this process. Say where: --on ray.")
    return read_resources(resources)


def default_folder(task: Task, what: str, recorded: dict[str, Any]) -> Path:
    """Where a run goes that was given no place: the same command finds the same folder."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{task.name}-{what}")
    return Path("runs") / f"{name}-{digest({**recorded, 'task': task.fingerprint})[:8]}"


def watching(observer: Observer | None, progress: bool) -> Any:
    """A context of whoever hears of the work: of several processes only the main one speaks."""
    if not launched().is_main:
        return nullcontext(Silent())
    if observer is not None:
        return nullcontext(observer)
    if not progress:
        return nullcontext(Silent())
    from bequest.ui.terminal import Terminal

    return Terminal()
