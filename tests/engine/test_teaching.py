"""Distillation in the engine: any training stage against teachers whose outputs are stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F

from bequest.core.distillation import Distillation, SoftLoss
from bequest.core.errors import DataError, MethodError, SourceError
from bequest.core.observe import Silent
from bequest.core.registry import get_method, methods
from bequest.data import from_arrays
from bequest.data.arrays import read_samples
from bequest.data.views import choose_views
from bequest.engine.run import Outcome, run
from bequest.engine.teaching import Teaching, soft_loss, soft_views, taught_loss, with_transfer
from bequest.engine.views import view
from bequest.nn import losses
from bequest.nn.network import Network
from bequest.sources.preprocess import ImagePreprocess
from bequest.sources.source import Source

SHORT: dict[str, Any] = {"epochs": 2, "batch_size": 16, "patience": 0, "batch_norm": "trained"}


def carried_out(context: Any, method: str = "full", seed: int = 0, **settings: Any) -> Outcome:
    built = get_method(method).build({**SHORT, **settings})
    return run(context, built, context.task.draw(seed, train_size=40, test_size=20), seed=seed)


def losses_of(outcome: Outcome) -> list[float]:
    return [epoch.train_loss for epoch in outcome.history if epoch.train_loss is not None]


def test_labels_alone_are_plain_training_to_the_bit(context_of: Callable[..., Any]) -> None:
    context = context_of("image")
    settings = Distillation(hard_weight=1.0, soft_weight=0.0)
    taught = replace(context, teaching=Teaching(settings, (tiny.teacher_of(context.source, context.task),)))
    plain, alike = carried_out(context), carried_out(taught)
    assert losses_of(plain) == losses_of(alike)
    for name, tensor in plain.trained.items():
        assert torch.equal(tensor, alike.trained[name]), name


@pytest.mark.parametrize(("kind", "method"), [("text", "full"), ("image", "freeze")])
def test_stored_equals_online(context_of: Callable[..., Any], kind: str, method: str) -> None:
    """The whole network, and what is above a cut."""
    context = context_of(kind)
    teachers = (tiny.teacher_of(context.source, context.task),)
    stored, online = (
        carried_out(replace(context, teaching=Teaching(Distillation(online=online), teachers)), method)
        for online in (False, True)
    )
    assert stored.frozen_shares == online.frozen_shares
    assert bool(stored.frozen_shares) == (method == "freeze")
    assert losses_of(stored) == pytest.approx(losses_of(online), rel=2e-3), "float16 on disk"


@pytest.mark.parametrize("name", [n for n, m in methods().items() if "epochs" in {h.name for h in m.hyperparameters}])
def test_every_method_that_trains_learns_from_its_teacher(context_of: Callable[..., Any], name: str) -> None:
    """Without labels, what a training stage minimises depends on who teaches, in every epoch of every stage."""
    context = context_of("image", cut=False)
    settings = {**SHORT, "epochs": 1}
    found: list[list[float]] = []
    for seed in range(2):
        teaching = Teaching(Distillation(hard_weight=0.0), (tiny.teacher_of(context.source, context.task, seed=seed),))
        taught, draw = replace(context, teaching=teaching), context.task.draw(0, train_size=40, test_size=20)
        found.append(losses_of(run(taught, get_method(name).build(settings), draw, seed=0)))
    assert found[0] and all(np.isfinite(found[0]))
    assert all(ours != theirs for ours, theirs in zip(*found, strict=True))


def test_the_student_approaches_its_teacher(context_of: Callable[..., Any]) -> None:
    """Without labels: α = 0."""
    context = context_of("image")
    settings = Distillation(hard_weight=0.0, soft_weight=1.0, soft_loss="kl")
    taught = replace(context, teaching=Teaching(settings, (tiny.teacher_of(context.source, context.task),)))
    rates = {"learning_rate": 1e-3, "head_learning_rate": 0.2, "head_init": "random"}
    found = losses_of(carried_out(taught, epochs=15, **rates))
    assert found[-1] < 0.3 * found[0]


def first_logits(context: Any, teaching: Teaching, number: int = 0) -> torch.Tensor:
    """What the teachers make of the first eight samples, as a stage reads it."""
    stage: Any = SimpleNamespace(epochs=3)
    context = replace(context, teaching=teaching)
    indices = np.arange(8)
    made = soft_views(context, stage, indices, context.labels(indices), context.views.number)(number)
    assert made is not None
    return made.lesson([made[i] for i in range(len(made))]).logits


def expected_logits(context: Any, teacher: Source, size: int = 8) -> torch.Tensor:
    items = [teacher.preprocess.encode(context.task.samples[i]) for i in range(size)]
    with torch.no_grad():
        return teacher.network()(*teacher.preprocess.collate(items))


def test_an_ensemble_teaches_its_mean_soft_targets(context_of: Callable[..., Any]) -> None:
    context = context_of("image")
    teachers = tuple(tiny.teacher_of(context.source, context.task, seed=seed) for seed in range(2))
    found = first_logits(context, Teaching(Distillation(temperature=2.0), teachers))
    expected = sum((expected_logits(context, t) / 2).softmax(1) for t in teachers) / 2
    torch.testing.assert_close((found / 2).softmax(1), expected, atol=1e-3, rtol=1e-3)


def test_classes_are_put_into_the_tasks_order(context_of: Callable[..., Any]) -> None:
    context = context_of("image")
    names = context.task.classes
    teacher = tiny.teacher_of(context.source, context.task, classes=(names[2], names[0], names[1]))
    found = first_logits(context, Teaching(Distillation(), (teacher,)))
    torch.testing.assert_close(found, expected_logits(context, teacher)[:, [1, 2, 0]], atol=1e-2, rtol=1e-3)


def test_top_classes_are_stored_with_the_mass_of_the_rest(context_of: Callable[..., Any]) -> None:
    context = context_of("image")
    teacher = tiny.teacher_of(context.source, context.task)
    found = first_logits(context, Teaching(Distillation(temperature=2.0, top_classes=1), (teacher,)))
    exact = (expected_logits(context, teacher) / 2).softmax(1)
    top = exact.amax(1, keepdim=True)
    expected = torch.where(exact == top, exact, (1 - top) / 2)
    torch.testing.assert_close((found / 2).softmax(1), expected, atol=1e-3, rtol=1e-3)


def test_a_teacher_that_changed_is_run_again(context_of: Callable[..., Any]) -> None:
    context = context_of("image")
    teacher = tiny.teacher_of(context.source, context.task)
    before = first_logits(context, Teaching(Distillation(), (teacher,)))
    computed = context.passes.computed
    again = first_logits(context, Teaching(Distillation(temperature=9.0), (teacher,)))
    assert torch.equal(before, again)
    assert context.passes.computed == computed, "what is stored does not depend on the temperature"
    other = tiny.teacher_of(context.source, context.task, seed=1)
    found = first_logits(context, Teaching(Distillation(), (replace(other, name=teacher.name),)))
    torch.testing.assert_close(found, expected_logits(context, other), atol=1e-2, rtol=1e-3)


def test_teacher_and_student_see_the_same_view_at_their_own_sizes(context_of: Callable[..., Any]) -> None:
    """Crops, and mixing with the same partner in the same proportion."""
    task = tiny.photo_task(40, 32)

    def source(size: int) -> Source:
        preprocess = ImagePreprocess(size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        network = Network(torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()), torch.nn.Identity())
        return Source(f"mean{size}", preprocess, 3, lambda: network, lambda: network)

    means = source(64).network()
    means.head = torch.nn.Linear(3, 3)
    torch.nn.init.eye_(means.head.weight)
    torch.nn.init.zeros_(means.head.bias)
    teacher = replace(source(64), pretrained=lambda: means, classes=task.classes)
    views = choose_views(3, "light,mixup=1", "image")
    context = replace(context_of("image"), task=task, source=source(16), views=views)
    indices, labels = np.arange(8), context.labels(np.arange(8))
    for number in range(3):
        seen = view(context, indices, labels, number)
        [x] = context.source.preprocess.collate([seen.items[i] for i in range(8)])
        found = first_logits(context, Teaching(Distillation(), (teacher,)), number)
        torch.testing.assert_close(found, x.mean((2, 3)), atol=0.05, rtol=0)
    assert not torch.allclose(first_logits(context, Teaching(Distillation(), (teacher,)), 1), found, atol=0.05)


def test_samples_without_labels_are_trained_on_the_soft_loss_alone(context_of: Callable[..., Any]) -> None:
    context = context_of("image")
    extra = np.random.default_rng(0).normal(size=(12, 3, 12, 12)).astype(np.float32)
    own = np.stack([context.task.samples[i] for i in range(5)])
    transfer = read_samples(np.concatenate([own, extra, extra[:2]]), "extra")
    teaching = Teaching(Distillation(), (tiny.teacher_of(context.source, context.task),), transfer)
    teaching.check(context.task, context.source)
    taught = replace(context, teaching=teaching)
    extended, train = with_transfer(taught, np.arange(10))
    assert len(train) == 22, "neither the task's own samples nor the same one twice"
    assert extended.task.labels[train[10:]].tolist() == [-1] * 12
    assert all(np.isfinite(losses_of(carried_out(taught))))

    outputs, teacher = torch.randn(4, 3), torch.randn(4, 3)
    labels = torch.tensor([0, -1, 2, -1])
    found = taught_loss(Distillation(), F.cross_entropy, outputs, labels, teacher)
    hard = F.cross_entropy(outputs[[0, 2]], labels[[0, 2]], reduction="sum") / 4
    soft = losses.soft_cross_entropy(outputs, teacher, 4.0)
    assert float(found) == pytest.approx(float(0.1 * hard + 0.9 * soft))
    mixed = F.one_hot(labels.clamp(min=0), 3).float()
    mixed[[1, 3]] = torch.nan
    assert float(taught_loss(Distillation(), F.cross_entropy, outputs, mixed, teacher)) == pytest.approx(float(found))


def test_every_kind_of_loss_can_be_chosen() -> None:
    outputs, teacher, labels = torch.randn(6, 4), torch.randn(6, 4), torch.arange(6) % 4
    known = labels >= 0
    for standardised in (False, True):
        values = {
            kind: float(
                soft_loss(Distillation(soft_loss=kind, standardised=standardised), outputs, labels, teacher, known)
            )
            for kind in get_args(SoftLoss)
        }
        assert len(set(values.values())) == 6
    assert values["dkd"] == pytest.approx(
        float(losses.decoupled(losses.standardised(outputs), losses.standardised(teacher), labels, 4.0))
    )


def test_a_run_that_was_stopped_goes_on(context_of: Callable[..., Any], tmp_path: Path) -> None:
    context = context_of("image", checkpoint_every_s=0.0)
    teaching = Teaching(Distillation(), (tiny.teacher_of(context.source, context.task),))
    context = replace(context, teaching=teaching)
    draw = context.task.draw(0, train_size=40, test_size=20)
    method = get_method("full").build({**SHORT, "epochs": 3})
    whole = run(context, method, draw, seed=0)

    class Stop(Exception):
        pass

    class Stopping(Silent):
        def progress(self, what: str, done: int, total: int) -> None:
            if what.startswith("stage") and done == 2:
                raise Stop

    with pytest.raises(Stop):
        run(replace(context, observer=Stopping()), method, draw, seed=0, folder=tmp_path / "t", identity="one")
    resumed = run(context, method, draw, seed=0, folder=tmp_path / "t", identity="one")
    for name, tensor in whole.trained.items():
        assert torch.equal(tensor, resumed.trained[name]), name


def test_what_is_spared_is_said_once(context_of: Callable[..., Any]) -> None:
    notes: list[str] = []

    class Listening(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    context = context_of("image", observer=Listening())
    teachers = (tiny.teacher_of(context.source, context.task),)
    first_logits(context, Teaching(Distillation(), teachers))
    first_logits(context, Teaching(Distillation(), teachers))
    first_logits(context, Teaching(Distillation(online=True), teachers))
    assert notes == [
        "The teacher runs once on each of 8 samples in 1 view, 8 forward passes where 3 epochs take 24: 0.0 MB on "
        "disk.",
        "The teacher runs in every step: --online asks for it.",
    ]


def test_outputs_that_are_no_numbers_are_refused_and_not_stored(context_of: Callable[..., Any]) -> None:
    context = context_of("image")
    sound = tiny.teacher_of(context.source, context.task)

    def broken(value: float) -> Source:
        network = sound.network()
        with torch.no_grad():
            network.head.bias[1] = value
        return replace(sound, pretrained=lambda: network)

    for online in (False, True):
        with pytest.raises(SourceError, match="no finite numbers for 8 of a batch of 8"):
            first_logits(context, Teaching(Distillation(online=online), (broken(float("nan")),)))
    with pytest.raises(SourceError, match=r"beyond what is stored .*--online true"):
        first_logits(context, Teaching(Distillation(), (broken(1e5),)))
    assert first_logits(context, Teaching(Distillation(online=True), (broken(1e5),)))[:, 1].min() > 9e4


def test_wrong_teachers_are_named(context_of: Callable[..., Any], tiny_tasks: dict[str, Any]) -> None:
    context = context_of("image")
    task = context.task
    teacher = tiny.teacher_of(context.source, task)

    def check(teacher: Source, task: Any = task, transfer: Any = None, **settings: Any) -> None:
        Teaching(Distillation(**settings), (teacher,), transfer).check(task, teacher)

    check(teacher)
    with pytest.raises(SourceError, match="the task has 'channel 2', which the teacher does not know; the teacher has"):
        check(replace(teacher, classes=(*task.classes[:2], "channel 9")))
    with pytest.raises(SourceError, match="has 3 outputs, but 'two' has 2 classes"):
        two = from_arrays(np.arange(12.0).reshape(6, 2), ["a", "b"] * 3, name="two")
        check(replace(teacher, classes=()), two)
    with pytest.raises(SourceError, match="takes samples of kind 'array', but 'tiny texts' holds 'text'"):
        check(teacher, tiny_tasks["text"])
    with pytest.raises(SourceError, match="'tiny_llama' was trained for causal-lm; expected a network that tells"):
        check(tiny.language_source(), tiny_tasks["text"])
    with pytest.raises(SourceError, match="was trained for multi-label"):
        check(replace(teacher, head_kind="multi-label"))
    with pytest.raises(SourceError, match=r"has no head; .*Adapt it first"):
        check(replace(teacher, pretrained=lambda: Network(context.source.body, torch.nn.Identity())))
    with pytest.raises(MethodError, match="a task of kind regression"):
        check(teacher, tiny_tasks["regression"])
    with pytest.raises(MethodError, match="samples without labels have nothing to be trained on"):
        check(teacher, transfer=task.samples, soft_weight=0.0, hard_weight=1.0)
    with pytest.raises(DataError, match="All unlabelled samples are among the task's own"):
        check(teacher, transfer=task.samples)
    with pytest.raises(DataError, match="unlabelled samples are of kind 'text'"):
        check(teacher, transfer=tiny_tasks["text"].samples)
