from __future__ import annotations

from typing import Any

import pytest

from bequest.core.errors import MethodError
from bequest.core.registry import get_method
from bequest.core.task import Task
from bequest.engine.run import run
from bequest.optim.projection import DIRECTION_PENALTIES, PENALTIES, ProjectionSolver


def test_learns_from_the_source_and_the_target(tiny_sources: dict[str, Any], tiny_tasks: dict[str, Any]) -> None:
    [stage] = get_method("pro2").build({"directions": 4}).plan(tiny_sources["text"], tiny_tasks["text"]).stages
    assert stage.fit_on == ("source", "train") and stage.source_features
    assert stage.solver == ProjectionSolver((4,), DIRECTION_PENALTIES, PENALTIES, 5)


@pytest.mark.parametrize("given", [True, False])
def test_the_record_says_where_directions_come_from(given: bool, context_of: Any, tiny_tasks: dict[str, Any]) -> None:
    task: Task = tiny_tasks["image"]
    context = context_of("image", source_task=task if given else None)
    draw = task.draw(0, train_size=30, test_size=30)
    outcome = run(context, get_method("pro2").build({"directions": 3}), draw, seed=0)
    assert [record["projection_from"] for record in outcome.solved] == ["source" if given else "train"]
    assert [record.get("note", "").startswith("no source data were given") for record in outcome.solved] == [not given]
    assert outcome.network.head[0].out_features == 3 and outcome.network.head[0].bias is None


def test_faults_are_named_at_once(tiny_sources: dict[str, Any], tiny_tasks: dict[str, Any]) -> None:
    settings = {"directions": 0, "direction_penalty": 0.0, "penalty": -1.0, "folds": 1}
    with pytest.raises(MethodError) as caught:
        get_method("pro2").build(settings).plan(tiny_sources["image"], tiny_tasks["multi-label"])
    assert str(caught.value) == (
        "directions is 0, expected 1 or more; direction_penalty is 0.0, expected above 0; penalty is -1.0, expected 0 "
        "or more; folds is 1, expected 2 or more; pro2 learns directions from classes, but the task is multi-label; "
        "expected classification."
    )
