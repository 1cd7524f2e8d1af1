"""What every registered method must keep, whatever it does."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from bequest.core.plan import Train
from bequest.core.registry import methods
from bequest.core.task import Draw
from bequest.engine.adapted import AdaptedModel, load
from bequest.engine.features import encoded, forward
from bequest.engine.run import Outcome, _Trial, make_plan, restore, run

KINDS = ("image", "text")
NAMES = tuple(methods())
QUICK = {
    **{"epochs": 3, "batch_size": 8, "patience": 0, "learning_rate": 1e-2},
    **{"fit_on": "train", "target": 16, "folds": 2, "refits": 2, "direction_penalty": 1e-2},
}

# All tests of a method one after another: its graphs are exported once for them.
pytestmark = [
    pytest.mark.parametrize("kind", KINDS, scope="module"),
    pytest.mark.parametrize("name", NAMES, scope="module"),
]

_UNDISTURBED: dict[tuple[str, str], Outcome] = {}


@pytest.fixture
def context_of(context_of: Callable[..., Any]) -> Callable[..., Any]:
    """As everywhere, with groups that run across the classes: some methods balance them."""

    def make(kind: str, **changes: Any) -> Any:
        context = context_of(kind, **changes)
        groups = np.arange(len(context.task.labels)) // 3 % 2
        return replace(context, task=replace(context.task, groups=groups))

    return make


def build(name: str, **settings: Any) -> Any:
    info = methods()[name]
    known = {h.name for h in info.hyperparameters}
    return info.build({k: v for k, v in {**QUICK, **settings}.items() if k in known})


def trial(context: Any, name: str, *, seed: int = 0, folder: Path | None = None, **settings: Any) -> Outcome:
    draw = context.task.draw(seed, train_size=40, test_size=30)
    return run(context, build(name, **settings), draw, seed=seed, folder=folder, identity=name)


@pytest.fixture
def whole(name: str, kind: str, context_of: Callable[..., Any]) -> Outcome:
    """What a trial comes to that nothing disturbs; carried out once for all tests that only look at it."""
    if (name, kind) not in _UNDISTURBED:
        _UNDISTURBED[name, kind] = trial(context_of(kind), name)
    return _UNDISTURBED[name, kind]


def relabelled(task: Any, num_classes: int) -> Any:
    """The task with samples dealt to so many classes, three of them for the last; the first class has two groups."""
    numbers = np.arange(len(task.labels))
    labels = numbers % (num_classes - 1)
    labels[-3:] = num_classes - 1
    groups = np.where((labels == 0) & (numbers // num_classes % 2 == 1), num_classes, labels)
    return replace(task, labels=labels, groups=groups, classes=tuple(f"class {c}" for c in range(num_classes)))


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {n for n in before if n in after and not torch.equal(before[n], after[n])}


def unwrapped(name: str) -> str:
    """The name that a parameter has in the source's body, without what a method put around body or layer."""
    return re.sub(r"\.base(_layer)?\.", ".", name.replace("body.body.", "body.", 1))


def test_frozen_stays_bit_identical_and_trainable_changes(name: str, kind: str, context_of: Callable[..., Any]) -> None:
    # From a random head the untouched network is never the best epoch, whose weights are kept.
    context, method = context_of(kind), build(name, head_init="random", learning_rate=1e-3)
    plan = make_plan(context, method, 0)
    source = {f"body.{n}": t.clone() for n, t in context.source.body.state_dict().items()}
    declared = {n for s in plan.stages if isinstance(s, Train) for g in s.groups for n in g.names}
    owners = {n.rpartition(".")[0] for n in declared}
    may_change = (source.keys() & declared) | {unwrapped(n) for n in plan.merged}
    may_change |= {n for n in source if n.rpartition(".")[0] in owners}  # BatchNorm statistics beside their weights

    outcome = run(context, method, context.task.draw(0, train_size=40, test_size=30), seed=0)

    after = {unwrapped(n): t for n, t in outcome.network.state_dict().items()}
    assert set(source) == {n for n in after if n.startswith("body.")}, "the finished network has the source's shape"
    assert changed(source, after) <= may_change
    assert not changed(source, {f"body.{n}": t for n, t in context.source.body.state_dict().items()}), "source touched"
    start = make_plan(context, method, 0).network.state_dict()
    assert declared <= set(outcome.trained)
    # A key's bias shifts every score of a query alike: softmax ignores it, and its gradient is rounding noise.
    still = {n for n in declared - changed(start, outcome.trained) if not n.endswith("key.bias")}
    unused = {n for n in still if "token_type" in n or "position_embeddings" in n}
    assert still == unused, "declared trainable, but nothing changed"


def test_same_seed_same_result_and_another_seed_another(
    name: str, kind: str, context_of: Callable[..., Any], whole: Outcome
) -> None:
    context = context_of(kind)
    again, other = (trial(context, name, seed=seed) for seed in (0, 1))
    assert torch.equal(whole.test, again.test)
    assert not changed(whole.trained, again.trained)
    assert not torch.equal(whole.test, other.test)


def test_outcome_restores_from_its_tensors(
    name: str, kind: str, context_of: Callable[..., Any], whole: Outcome
) -> None:
    again = restore(make_plan(context_of(kind), build(name), 0), whole.trained, whole.head)
    expected = whole.network.state_dict()
    assert set(again.state_dict()) == set(expected)
    assert not changed(expected, again.state_dict())


def test_save_load_same_predictions(
    name: str, kind: str, context_of: Callable[..., Any], whole: Outcome, tmp_path: Path
) -> None:
    context = context_of(kind)
    model = AdaptedModel(whole.network, context.source, context.task.classes, {})
    model.save(tmp_path / "model")
    loaded = load(tmp_path / "model", source=None if context.source.description else context.source)
    samples = [context.task.samples[i] for i in range(12)]
    assert torch.equal(loaded.outputs(samples), model.outputs(samples))
    assert [p.label for p in loaded.predict(samples)] == [p.label for p in model.predict(samples)]


def test_stored_features_change_nothing(name: str, kind: str, context_of: Callable[..., Any], whole: Outcome) -> None:
    """Scores that came from the store equal those of the whole network, run from the samples."""
    context = context_of(kind)
    draw = context.task.draw(0, train_size=40, test_size=30)
    plain = forward(context, whole.network, encoded(context, draw.test))
    torch.testing.assert_close(whole.test, plain, rtol=1e-4, atol=1e-5)


def test_a_frozen_sample_is_computed_once(name: str, kind: str, context_of: Callable[..., Any]) -> None:
    context = context_of(kind)
    stages = make_plan(context, build(name), 0).stages
    prefixes = sum(isinstance(stage, Train) and not stage.source_features for stage in stages)
    trial(context, name)
    computed = context.passes.computed
    assert computed <= (40 + 30) * (1 + prefixes)
    trial(context, name)
    assert context.passes.computed == computed


def test_same_trajectory_with_and_without_the_cut(
    name: str, kind: str, context_of: Callable[..., Any], whole: Outcome
) -> None:
    plain = trial(context_of(kind, cut=False), name)
    for ours, theirs in zip(whole.history, plain.history, strict=True):
        assert (ours.train_loss or 0) == pytest.approx(theirs.train_loss or 0, rel=1e-4)
        assert ours.validation_loss == pytest.approx(theirs.validation_loss, rel=1e-4)
    for tensor, values in plain.trained.items():
        # A key's bias has no gradient but rounding noise, of which Adam makes whole steps.
        if not tensor.endswith("key.bias"):
            torch.testing.assert_close(whole.trained[tensor], values, rtol=1e-3, atol=1e-4, msg=tensor)
    torch.testing.assert_close(whole.test, plain.test, rtol=1e-3, atol=1e-3)


def test_what_is_chosen_by_the_first_fit_stands_in_the_second(
    name: str, kind: str, context_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = context_of(kind)
    kept: list[list[dict[str, Any]]] = []
    carry_out = _Trial.carry_out

    def watched(self: _Trial, **options: Any) -> None:
        carry_out(self, **options)
        kept.append(list(self.solved))

    monkeypatch.setattr(_Trial, "carry_out", watched)
    trial(context, name)
    trains = any(isinstance(s, Train) for s in make_plan(context, build(name), 0).stages)
    assert len(kept) == (1 if trains else 2)
    choices = {"penalty", "strength", "fraction", "directions", "direction_penalty", "C", "layers", "dimensions"}
    for first, again in zip(kept[0], kept[-1], strict=True):
        assert {k: v for k, v in first.items() if k in choices} == {k: v for k, v in again.items() if k in choices}


class Killed(Exception):
    """Stands for the end of the process."""


def test_killed_and_resumed_ends_the_same(
    name: str, kind: str, context_of: Callable[..., Any], whole: Outcome, tmp_path: Path
) -> None:
    class Killer:
        def __init__(self, epochs: int) -> None:
            self.left = epochs

        def progress(self, label: str, done: int, total: int) -> None:
            if label.startswith("stage"):
                self.left -= 1
                if self.left < 0:
                    raise Killed

        def note(self, text: str) -> None: ...

        def trial(self, record: Any, board: Any) -> None: ...

    kills, folder = 0, tmp_path / "trial"
    for epochs in (1, 2, 2):
        try:
            resumed = trial(context_of(kind, observer=Killer(epochs), checkpoint_every_s=0.0), name, folder=folder)
        except Killed:
            kills += 1
    resumed = trial(context_of(kind, checkpoint_every_s=0.0), name, folder=folder)
    trains = any(isinstance(s, Train) for s in make_plan(context_of(kind), build(name), 0).stages)
    assert bool(kills) == trains
    assert torch.equal(resumed.test, whole.test)
    assert not changed(whole.trained, resumed.trained)
    assert [(e.epoch, e.train_loss, e.validation_loss) for e in resumed.history] == [
        (e.epoch, e.train_loss, e.validation_loss) for e in whole.history
    ]


@pytest.mark.parametrize("num_classes", [2, 20])
def test_few_classes_many_and_one_of_three_samples(
    name: str, kind: str, num_classes: int, context_of: Callable[..., Any]
) -> None:
    task = relabelled({"image": tiny.image_task, "text": tiny.text_task}[kind](160), num_classes)
    draw = Draw(np.arange(60, 160), np.arange(40, 60), np.arange(40))
    outcome = run(replace(context_of(kind, cut=False), task=task), build(name, epochs=1), draw, seed=0)
    assert outcome.test.shape == (40, num_classes)
    assert torch.isfinite(outcome.test).all() and torch.isfinite(outcome.validation).all()
