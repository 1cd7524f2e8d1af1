from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from bequest.core.errors import MethodError
from bequest.core.plan import Solve
from bequest.core.registry import get_method
from bequest.nn.taps import Tapped
from bequest.optim.head2toe import FRACTIONS, PENALTIES, STRENGTHS, Head2ToeSolver


def plan(source: Any, task: Any, **settings: Any) -> Any:
    return get_method("head2toe").build(settings).plan(source, task)


@pytest.mark.parametrize("kind", ["image", "text"])
def test_reads_every_layer_and_the_embedding(
    kind: str, tiny_sources: dict[str, Any], tiny_tasks: dict[str, Any]
) -> None:
    found = plan(tiny_sources[kind], tiny_tasks[kind], target=32)
    assert isinstance(found.network.body, Tapped)
    taps = found.network.body.taps
    assert len(taps) > 4 and taps[-1].name == "" and all(tap.target in (32, 0) for tap in taps)
    [stage] = found.stages
    assert isinstance(stage, Solve) and stage.source_features and stage.fit_on == ("train",)
    assert stage.solver == Head2ToeSolver(STRENGTHS, FRACTIONS, PENALTIES, 5)


def test_what_is_given_is_not_chosen(tiny_sources: dict[str, Any], tiny_tasks: dict[str, Any]) -> None:
    settings = {"fraction": 0.1, "strength": 0.02, "penalty": 0.0, "folds": 3}
    [stage] = plan(tiny_sources["text"], tiny_tasks["text"], **settings).stages
    assert stage.solver == Head2ToeSolver((0.02,), (0.1,), (0.0,), 3)


def test_faults_are_named_at_once(tiny_sources: dict[str, Any], tiny_tasks: dict[str, Any]) -> None:
    task = replace(tiny_tasks["regression"])
    settings = {"target": -1, "fraction": 0.0, "strength": 1.0, "penalty": -0.1, "folds": 1}
    with pytest.raises(MethodError) as caught:
        plan(tiny_sources["image"], task, **settings)
    assert str(caught.value) == (
        "target is -1, expected 0 or more; fraction is 0.0, expected above 0, at most 1; strength is 1.0, expected "
        "above 0, below 1; penalty is -0.1, expected 0 or more; folds is 1, expected 2 or more; head2toe selects "
        "features by classes, but the task is regression; expected classification."
    )


def test_labels_that_are_no_classes_are_refused(tiny_sources: dict[str, Any]) -> None:
    with pytest.raises(MethodError, match=r"but the task is multi-label; expected classification\."):
        plan(tiny_sources["image"], SimpleNamespace(kind="multi-label"))
