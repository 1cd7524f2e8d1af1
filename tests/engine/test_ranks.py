"""Two processes give what one gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from processes import together
from torch import nn

from bequest.core.observe import Silent
from bequest.core.plan import Train
from bequest.core.registry import methods
from bequest.engine.context import Context
from bequest.engine.run import Outcome, make_plan, run
from bequest.engine.runtime import choose_runtime
from bequest.engine.store import Store

TRAINED = tuple(name for name, info in methods().items() if info.trains)
QUICK = {"epochs": 2, "batch_size": 9, "patience": 0, "learning_rate": 1e-2, "target": 16, "refresh_every": 2}
"""40 samples in batches of 9: shares of 5 and 4, and one sample in the last batch, which is all of one process."""


def source_of(kind: str) -> Any:
    """A tiny source without dropout."""
    source = tiny.image_source() if kind == "image" else tiny.text_source()
    made = source.pretrained

    def pretrained() -> Any:
        network = made()
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return network

    return replace(source, pretrained=pretrained)


def context_of(kind: str, store: Path, **changes: Any) -> Context:
    task = tiny.image_task() if kind == "image" else tiny.text_task()
    runtime = choose_runtime("float32")
    task = replace(task, groups=np.arange(len(task.labels)) // 3 % 2)
    changes = {"ranks": runtime.ranks, **changes}
    return Context(source_of(kind), task, Store(store), runtime, Silent(), batch_size=8, **changes)


def build(name: str, **settings: Any) -> Any:
    info = methods()[name]
    known = {h.name for h in info.hyperparameters}
    return info.build({k: v for k, v in {**QUICK, **settings}.items() if k in known})


def trial(kind: str, name: str, store: Path, folder: Path | None = None, **changes: Any) -> tuple[Context, Outcome]:
    settings = changes.pop("settings", {})
    context = context_of(kind, store, **changes)
    draw = context.task.draw(0, train_size=50, test_size=30)
    return context, run(context, build(name, **settings), draw, seed=0, folder=folder, identity=name)


def several(kind: str, names: list[str], store: Path) -> dict[str, Any]:
    found = {}
    for name in names:
        context, outcome = trial(kind, name, store / name)
        found[name] = (outcome.history, outcome.trained, outcome.test, outcome.validation, context.passes.trial)
    return found
