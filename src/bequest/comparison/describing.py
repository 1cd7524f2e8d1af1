"""What records tell of a task, a source and a machine."""

from __future__ import annotations

import os
import platform
from typing import Any

import numpy as np
import torch

import bequest
from bequest.core.task import Task
from bequest.engine.context import Context
from bequest.sources import Source


def environment(context: Context) -> dict[str, Any]:
    """Versions and machine, for records."""
    return {
        "bequest": bequest.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        **({} if context.runtime.ranks.alone else {"processes": context.runtime.ranks.number}),
        **context.runtime.describe(),
    }


def describe_task(task: Task) -> dict[str, Any]:
    """What records tell of the task."""
    return {
        "name": task.name,
        "modality": task.modality,
        "kind": task.kind,
        "classes": list(task.classes),
        **_describe_labels(task),
        **_describe_groups(task),
        "samples": len(task.labels),
        "fingerprint": task.fingerprint,
        "notes": list(task.notes),
    }


def _describe_labels(task: Task) -> dict[str, Any]:
    """Samples of each class, of multi-label tasks those that carry it; of a regression each target's range.

    Of a language model's texts the number of documents.
    """
    if task.kind == "classification":
        return {"class_counts": np.bincount(task.labels, minlength=len(task.classes)).tolist()}
    if task.kind == "multi-label":
        return {"class_counts": (task.labels > 0).sum(0).tolist()}
    if task.kind == "causal-lm":
        return {"documents": len(np.unique(task.units))} if task.units is not None else {}
    labels = task.labels.astype(np.float64)
    numbers = {"mean": labels.mean(0), "sd": labels.std(0), "min": labels.min(0), "max": labels.max(0)}
    return {"targets": [{k: float(v[i]) for k, v in numbers.items()} for i in range(len(task.classes))]}


def _describe_groups(task: Task) -> dict[str, Any]:
    """Samples of each group."""
    if task.grouping is None:
        return {}
    names, numbers = task.grouping.names, task.grouping.numbers
    return {"groups": list(names), "group_counts": np.bincount(numbers, minlength=len(names)).tolist()}


def describe_source(source: Source) -> dict[str, Any]:
    """What records tell of the source."""
    return {
        "name": source.name,
        "modality": source.modality,
        "parameters": sum(p.numel() for p in source.body.parameters()),
        "width": source.width,
        "fingerprint": source.fingerprint,
        "licence": source.licence,
    }
