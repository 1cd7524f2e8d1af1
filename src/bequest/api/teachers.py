"""Who teaches a student, in all the forms that a user may name it in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bequest.api.inputs import words
from bequest.api.runs import Run
from bequest.core.distillation import distillation as make_distillation
from bequest.core.errors import MethodError
from bequest.core.task import Kind
from bequest.data.arrays import read_samples
from bequest.data.folders import read_unlabelled
from bequest.engine.adapted import AdaptedModel
from bequest.engine.teaching import Teaching
from bequest.sources import Source
from bequest.sources import get as get_source

Teacher = str | Path | Run | AdaptedModel | Source
"""What a student can learn from, one of several."""


def read_teaching(
    teacher: Any, settings: Mapping[str, Any] | None, unlabelled: Any, temperatures: Any, options: Mapping[str, Any]
) -> Teaching | None:
    """Who teaches, what, and on which samples; None without a teacher."""
    if teacher is None:
        values = {"distillation": settings, "--unlabelled": unlabelled, "--temperatures": temperatures}
        given = [flag for flag, value in values.items() if value]
        if given:
            raise MethodError(f"Settings for {' and '.join(given)} are given, but no teacher. Name one: --teacher.")
        return None
    named = words(teacher) if isinstance(teacher, str) else teacher
    teachers = named if isinstance(named, list | tuple) else [named]
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
        learned=model.learned,
    )
