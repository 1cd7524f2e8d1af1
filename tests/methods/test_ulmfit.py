from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bequest.core.errors import MethodError
from bequest.core.plan import Solve, Train
from bequest.core.registry import get_method
from bequest.engine.run import Outcome, run
from bequest.nn.depth import Layer, bundles
from bequest.optim.schedules import SlantedTriangular

TASK: Any = SimpleNamespace(classes=("a", "b", "c"))


def phases(source: Any, **settings: Any) -> list[Any]:
    return list(get_method("ulmfit").build({"batch_norm": "trained", **settings}).plan(source, TASK).stages)


def names(stage: Train) -> set[str]:
    return {name for group in stage.groups for name in group.names}


def test_one_more_group_a_phase_and_all_at_the_end(tiny_sources: dict[str, Any]) -> None:
    first, *rest = phases(tiny_sources["image"], num_groups=4, epochs=7)
    assert isinstance(first, Solve)
    assert [stage.epochs for stage in rest] == [1, 1, 1, 7]
    layers = ("body.stem.", "body.blocks.0.", "body.blocks.1.", "body.blocks.2.", "head.")
    touched = [[layer for layer in layers if any(n.startswith(layer) for n in names(stage))] for stage in rest]
    assert touched == [list(layers[start:]) for start in (3, 2, 1, 0)]
    assert names(rest[-1]) == {name for name, _ in tiny_sources["image"].network().named_parameters()}


def test_rates_fall_by_2_6_from_group_to_group(tiny_sources: dict[str, Any]) -> None:
    last = phases(tiny_sources["image"])[-1]
    rate = {name: group.learning_rate for group in last.groups for name in group.names}
    order = ["body.stem.bias", *(f"body.blocks.{i}.norm.bias" for i in range(3)), "head.bias"]
    assert [rate[b] / rate[a] for a, b in pairwise(order)] == pytest.approx([2.6] * 4, rel=1e-3)


def test_every_phase_has_a_schedule_of_its_own(tiny_sources: dict[str, Any]) -> None:
    stages = [s for s in phases(tiny_sources["text"], head_init="random") if isinstance(s, Train)]
    assert [s.schedule for s in stages] == [SlantedTriangular(0.1)] * len(stages)
    assert stages[0].source_features and names(stages[0]) == {"head.weight", "head.bias"}
    assert stages[0].epochs == 1


def test_many_layers_are_put_together() -> None:
    layers = tuple(Layer(f"l{i}", (f"l{i}.w", f"l{i}.b")) for i in range(17))
    made = bundles(layers, 4)
    assert [len(b.parameters) // 2 for b in made] == [4, 4, 5, 4]
    assert [n for b in made for n in b.parameters] == [n for layer in layers for n in layer.parameters]
    assert bundles(layers[:2], 4) == layers[:2]
    assert bundles((), 4) == ()


def test_no_groups_are_refused(tiny_sources: dict[str, Any]) -> None:
    with pytest.raises(MethodError, match=r"num_groups is 0, expected 1 or more\."):
        phases(tiny_sources["text"], num_groups=0)


class Killed(Exception):
    pass


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize(("num_groups", "done"), [(3, 2), (4, 0)])
def test_killed_in_the_third_phase_ends_the_same(
    kind: str, num_groups: int, done: int, context_of: Callable[..., Any], tmp_path: Path
) -> None:
    settings = {"num_groups": num_groups, "epochs": 3, "batch_size": 8, "learning_rate": 1e-2}
    if kind == "text":
        settings |= {"head_init": "random", "num_groups": 2}

    class Killer:
        def progress(self, label: str, at: int, total: int) -> None:
            # A solved head is a stage, but no phase of training.
            if label == ("stage 3" if kind == "text" else "stage 4") and at == (0 if total == 1 else done):
                raise Killed

        def note(self, text: str) -> None: ...

        def trial(self, record: Any, board: Any) -> None: ...

    def trial(folder: Path | None, **changes: Any) -> Outcome:
        context = context_of(kind, checkpoint_every_s=0.0, **changes)
        draw = context.task.draw(0, train_size=40, test_size=30)
        return run(context, get_method("ulmfit").build(settings), draw, seed=0, folder=folder, identity="x")

    whole = trial(None)
    with pytest.raises(Killed):
        trial(tmp_path / "trial", observer=Killer())
    resumed = trial(tmp_path / "trial")
    assert whole.trained.keys() == resumed.trained.keys()
    assert all(torch.equal(whole.trained[name], resumed.trained[name]) for name in whole.trained)
    assert torch.equal(whole.test, resumed.test)
