"""The labels of the test part cannot be read before a finished network is scored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bequest.comparison.comparing import compare
from bequest.comparison.entries import Entry
from bequest.comparison.protocol import Protocol
from bequest.core.errors import MethodError
from bequest.core.observe import Silent
from bequest.core.plan import Plan
from bequest.core.registry import MethodInfo, get_method
from bequest.core.sealed import SEALED, SealedLabels
from bequest.engine.context import Context
from bequest.engine.runtime import choose_runtime
from bequest.engine.store import Store

KINDS = ["text", "multi-label", "regression"]


def grouped(task: Any) -> Any:
    return replace(task, groups=np.arange(len(task.labels)) % 2, group_names=("left", "right"))


@pytest.mark.parametrize("kind", KINDS)
def test_what_methods_see_holds_no_label_of_the_test_part(tiny_tasks: Any, kind: str) -> None:
    task = grouped(tiny_tasks[kind])
    draw = task.draw(0, train_size=40, test_size=30)
    public = SealedLabels(task, draw.test).public
    gone = np.isnan(public.labels[draw.test]) if kind != "text" else public.labels[draw.test] == SEALED
    assert gone.all()
    assert {*public.groups[draw.test], *public.strata[draw.test], *public.grouping.numbers[draw.test]} == {SEALED}
    for name in ("labels", "groups", "strata", "hashes"):
        assert np.array_equal(getattr(public, name)[draw.labelled], getattr(task, name)[draw.labelled])
    assert np.array_equal(public.grouping.numbers[draw.labelled], task.grouping.numbers[draw.labelled])
    assert public.fingerprint == task.fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_gives_no_label_of_the_test_part(
    tiny_tasks: Any, tiny_sources: Any, kind: str, tmp_path: Path
) -> None:
    task = tiny_tasks[kind]
    draw = task.draw(0, train_size=40, test_size=30)
    source = tiny_sources["text" if kind == "text" else "image"]
    public = SealedLabels(task, draw.test).public
    context = Context(source, public, Store(tmp_path), choose_runtime("float32"), Silent())
    assert torch.equal(context.labels(draw.train), torch.from_numpy(task.labels[draw.train]))
    peeked = np.concatenate([draw.train, draw.test[:3]])
    with pytest.raises(MethodError, match=r"labels of 3 test samples were asked for before .* is scored; expected"):
        context.labels(peeked)


def test_only_scoring_opens_them(tiny_tasks: Any) -> None:
    task = tiny_tasks["text"]
    sealed = SealedLabels(task, task.draw(0, test_size=30).test)
    with pytest.raises(MethodError, match="The test labels were asked for before"):
        _ = sealed.task
    with sealed.opened() as opened:
        assert opened is task
    with pytest.raises(MethodError), sealed.opened():
        raise MethodError("a score that cannot be computed")
    with pytest.raises(MethodError, match="were asked for before"):
        _ = sealed.task


@dataclass(frozen=True)
class Peeking:
    """Fits its head on whatever labels the task shows of the test part."""

    seen: list[Any]
    test: Any

    def plan(self, source: Any, task: Any) -> Plan:
        self.seen.append(task.labels[self.test])
        return get_method("linear_probe").build({}).plan(source, task)


def test_a_method_that_peeks_sees_nothing(tiny_tasks: Any, tiny_sources: Any, tmp_path: Path) -> None:
    task, seen = tiny_tasks["text"], []
    method = Peeking(seen, task.draw(0, train_size=40, test_size=30).test)
    entry = Entry(MethodInfo("peeking", "", "", Peeking), method)
    protocol = Protocol(seeds=(0,), train_size=40, test_size=30)
    board = compare(task, tiny_sources["text"], [entry], protocol, tmp_path / "run", Silent(), store=Store(tmp_path))
    assert board.trials[0].test is not None, "the comparison itself scores"
    assert seen and all(set(labels.tolist()) == {SEALED} for labels in seen)
