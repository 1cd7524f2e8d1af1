from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bequest.core.errors import MethodError
from bequest.core.registry import get_method
from bequest.optim.dfr import COSTS, DFRSolver


def plan(source: Any, task: Any, **settings: Any) -> Any:
    return get_method("dfr").build(settings).plan(source, task)


@pytest.mark.parametrize("part", ["validation", "train"])
def test_is_fitted_on_one_part(part: str, tiny_sources: dict[str, Any], tiny_tasks: dict[str, Any]) -> None:
    task = replace(tiny_tasks["image"], groups=np.arange(90) // 3 % 2)
    [stage] = plan(tiny_sources["image"], task, fit_on=part).stages
    assert stage.fit_on == (part,) and stage.source_features
    assert stage.solver == DFRSolver(COSTS, 20)


def test_faults_are_named_at_once(tiny_sources: dict[str, Any], tiny_tasks: dict[str, Any]) -> None:
    with pytest.raises(MethodError) as caught:
        plan(tiny_sources["image"], tiny_tasks["regression"], cost=0.0, refits=0)
    assert str(caught.value) == (
        "cost is 0.0, expected above 0; refits is 0, expected 1 or more; dfr balances classes, but the task is "
        "regression; expected classification."
    )


def test_groups_are_asked_for_before_anything_runs(tiny_sources: dict[str, Any], tiny_tasks: dict[str, Any]) -> None:
    task = tiny_tasks["text"]
    with pytest.raises(MethodError, match="dfr balances groups, and the data have none; expected a column of groups"):
        plan(tiny_sources["text"], task)
    first, second = task.classes[:2]
    text = f"dfr is undefined on these data: there are no samples of class {first} in group {second}"
    with pytest.raises(MethodError, match=text):
        plan(tiny_sources["text"], replace(task, groups=task.labels.copy(), group_names=task.classes))
