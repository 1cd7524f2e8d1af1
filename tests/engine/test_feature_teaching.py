"""Distillation of features: a tap of the student, through a map of its own, comes closer to one of its teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from bequest.core.distillation import Distillation
from bequest.core.errors import MethodError, SourceError
from bequest.core.observe import Silent
from bequest.core.registry import get_method, methods
from bequest.data.arrays import read_samples
from bequest.data.views import choose_views
from bequest.engine.feature_teaching import new_guide
from bequest.engine.run import Outcome, _Trial, run
from bequest.engine.teaching import Teaching
from bequest.nn.losses import feature_l2
from bequest.nn.network import Network
from bequest.sources.preprocess import ImagePreprocess
from bequest.sources.source import Source

SHORT: dict[str, Any] = {"epochs": 2, "batch_size": 16, "patience": 0, "batch_norm": "trained"}
INNER = {"image": {"teacher_layer": "blocks.1", "student_layer": "blocks.2"}, "text": {"student_layer": "layer.1"}}


def lesson(context: Any, *, transfer: Any = None, teachers: int = 1, **settings: Any) -> Any:
    """The run with teachers whose features are learned from."""
    given = Distillation(**{"feature_weight": 5.0, **settings})
    sources = tuple(tiny.teacher_of(context.source, context.task, seed=seed) for seed in range(teachers))
    return replace(context, teaching=Teaching(given, sources, transfer))


def carried_out(
    context: Any, method: str = "full", seed: int = 0, folder: Path | None = None, **settings: Any
) -> Outcome:
    known = {h.name for h in methods()[method].hyperparameters}
    built = get_method(method).build({k: v for k, v in {**SHORT, **settings}.items() if k in known})
    draw = context.task.draw(seed, train_size=40, test_size=20)
    return run(context, built, draw, seed=seed, folder=folder, identity=method)


def losses_of(outcome: Outcome) -> list[float]:
    return [epoch.train_loss for epoch in outcome.history if epoch.train_loss is not None]


@pytest.mark.parametrize(
    "layers", [("embedding", "embedding"), ("blocks.1", "blocks.0")], ids=["embedding", "inner layers"]
)
def test_the_students_features_come_closer(context_of: Callable[..., Any], layers: tuple[str, str]) -> None:
    """Of a student with weights of its own, on features alone but for a grain of the labels."""
    student, teacher = layers
    context = context_of("image")
    taught = lesson(context, hard_weight=1e-6, soft_weight=0.0, teacher_layer=teacher, student_layer=student)
    other = replace(context.source, pretrained=lambda: context.source.scratch(3))
    moved, still = (
        losses_of(carried_out(replace(taught, source=other), epochs=20, learning_rate=rate, head_init="random"))
        for rate in (1e-2, 1e-9)
    )
    assert moved[0] == pytest.approx(still[0], rel=0.3)
    assert moved[-1] < 0.5 * moved[0]
    assert moved[-1] < 0.7 * still[-1], "not the map alone, the body has learned"


@pytest.mark.parametrize("name", [n for n, m in methods().items() if "epochs" in {h.name for h in m.hyperparameters}])
@pytest.mark.parametrize("kind", ["image", "text"])
def test_every_method_that_trains_its_body_learns_from_features(
    context_of: Callable[..., Any], name: str, kind: str
) -> None:
    """With the cut and without: the same epochs, and others than without features; the model holds nothing of it."""
    context = context_of(kind)
    cut = carried_out(lesson(context), name, epochs=1)
    plain = carried_out(replace(lesson(context), cut=False), name, epochs=1)
    without = carried_out(replace(lesson(context, feature_weight=0.0), cut=False), name, epochs=1)
    assert losses_of(cut) == pytest.approx(losses_of(plain), rel=1e-4)
    assert losses_of(plain) != pytest.approx(losses_of(without), rel=1e-4)
    assert set(cut.trained) == set(without.trained)
    assert repr(cut.network) == repr(without.network)
    assert cut.trainable_parameters == without.trainable_parameters
    source = context.source.network().state_dict()
    for key, tensor in cut.network.state_dict().items():
        if key not in cut.trained and key in source and not cut.merged and not key.startswith("head."):
            assert torch.equal(tensor, source[key]), f"{key} was frozen"


@pytest.mark.parametrize("kind", ["image", "text"])
def test_inner_layers_above_a_cut_and_below(context_of: Callable[..., Any], kind: str) -> None:
    context = context_of(kind)
    frozen = {"freeze_norms": True}
    cut = carried_out(lesson(context, **INNER[kind]), "freeze", **frozen)
    plain = carried_out(replace(lesson(context, **INNER[kind]), cut=False), "freeze", **frozen)
    assert cut.frozen_shares and not plain.frozen_shares
    assert losses_of(cut) == pytest.approx(losses_of(plain), rel=1e-4)
    below = "stem" if kind == "image" else "embeddings"
    with pytest.raises(MethodError, match=f"no training stage changes what the student's layer '{below}' gives"):
        carried_out(lesson(context, student_layer=below), "freeze", **frozen)
    with pytest.raises(MethodError, match="no training stage changes what the student's layer 'embedding' gives"):
        carried_out(lesson(context), "freeze", from_depth="1", **frozen)


def test_stages_that_train_below_the_layer_learn_from_it(context_of: Callable[..., Any]) -> None:
    """ULMFiT thaws a layer at a time: an inner tap is learned from once something below it is trained."""
    context = lesson(context_of("image"), student_layer="blocks.0")
    draw = context.task.draw(0, train_size=40, test_size=20)
    trial = _Trial(context, get_method("ulmfit").build({}), draw, 0, None, None)
    numbers = sorted(trial.taps)
    assert numbers[0] > 0 and numbers[-1] == len(trial.plan.stages) - 1
    assert len(numbers) < len(trial.plan.stages)


@pytest.mark.parametrize("method", ["full", "freeze", "lora"])
def test_same_seed_same_result_and_a_stopped_run_goes_on(
    context_of: Callable[..., Any], tmp_path: Path, method: str
) -> None:
    context = lesson(context_of("image", checkpoint_every_s=0.0))

    class Stop(Exception):
        pass

    class Stopping(Silent):
        def progress(self, what: str, done: int, total: int) -> None:
            if what.startswith("stage") and done == 2:
                raise Stop

    whole, again = carried_out(context, method, epochs=4), carried_out(context, method, epochs=4)
    with pytest.raises(Stop):
        carried_out(replace(context, observer=Stopping()), method, folder=tmp_path, epochs=4)
    resumed = carried_out(context, method, folder=tmp_path, epochs=4)
    other = carried_out(context, method, seed=1, epochs=4)
    assert losses_of(whole) == losses_of(again) == losses_of(resumed) != losses_of(other)
    for name, tensor in whole.trained.items():
        assert torch.equal(tensor, again.trained[name]) and torch.equal(tensor, resumed.trained[name]), name


def test_stored_features_equal_online_ones_in_every_view_and_for_several_teachers(
    context_of: Callable[..., Any],
) -> None:
    """Two teachers' features lie side by side; one pass a view makes logits and features."""
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(3, 6, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    network = Network(torch.nn.Sequential(*layers), torch.nn.Identity())
    preprocess = ImagePreprocess(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    source = Source("conv", preprocess, 6, lambda: network, lambda: network)
    views = choose_views(2, "light,mixup=0.5", "image")
    context = replace(context_of("image"), task=tiny.photo_task(24, 24), source=source, views=views)
    stored, online = (
        run(
            lesson(context, teachers=2, online=online),
            get_method("full").build({**SHORT, "epochs": 3}),
            context.task.draw(0, train_size=20, test_size=5),
            seed=0,
        )
        for online in (False, True)
    )
    assert losses_of(stored) == pytest.approx(losses_of(online), rel=2e-3), "float16 on disk"


def test_samples_without_labels_teach_features(context_of: Callable[..., Any]) -> None:
    context = context_of("image")
    extra = np.random.default_rng(0).normal(size=(12, 3, 12, 12)).astype(np.float32)
    taught = lesson(context, transfer=read_samples(extra, "extra"), soft_weight=0.0, hard_weight=1.0)
    taught.teaching.check(context.task, context.source)
    assert losses_of(carried_out(taught)) != losses_of(carried_out(lesson(context, soft_weight=0.0, hard_weight=1.0)))


def test_logits_that_are_stored_serve_runs_with_features_too(context_of: Callable[..., Any]) -> None:
    context = context_of("text")

    def shelves() -> set[Path]:
        return {path.parent for path in context.store.folder.rglob("*") if path.is_file()}

    carried_out(lesson(context, feature_weight=0.0))
    before = shelves()
    carried_out(lesson(context))
    assert before and len(shelves() - before) == 1, "the features alone"


def test_features_beyond_what_is_stored_are_refused(context_of: Callable[..., Any]) -> None:
    context = context_of("image")
    sound = tiny.teacher_of(context.source, context.task)

    def broken(value: float) -> Any:
        network = sound.network()
        with torch.no_grad():
            network.body.blocks[2].norm.bias.fill_(value)
            network.head.weight.zero_()
        return replace(sound, pretrained=lambda: network)

    for value, told in (
        (1e6, r"gives features up to .*, beyond what is stored .*--online true"),
        (np.nan, "no finite"),
    ):
        teaching = Teaching(Distillation(feature_weight=1.0), (broken(value),))
        with pytest.raises(SourceError, match=told):
            carried_out(replace(context, teaching=teaching))


def test_wrong_layers_are_named(context_of: Callable[..., Any], tiny_tasks: dict[str, Any]) -> None:
    context = context_of("image")

    def check(**settings: Any) -> None:
        lesson(context, **settings).teaching.check(context.task, context.source)

    check(**INNER["image"])
    with pytest.raises(SourceError, match=r"--teacher-layer for 'teacher 0': There is no layer 'blocks.7'. Did you"):
        check(teacher_layer="blocks.7")
    with pytest.raises(SourceError, match=r"--student-layer for 'tiny_conv': There is no layer 'blokcs.1'. Did you"):
        check(student_layer="blokcs.1")
    with pytest.raises(MethodError, match="--student-layer given, but --feature-weight is 0"):
        Distillation(student_layer="blocks.1").check()
    with pytest.raises(MethodError, match="--feature-weight is -1, expected 0 or more"):
        Distillation(feature_weight=-1).check()
    language = tiny.language_source()
    with pytest.raises(MethodError, match="--feature-weight is for classification"):
        Teaching(Distillation(feature_weight=1.0), (language,)).check(tiny.language_task(), language)


def test_gradients_of_the_loss_and_its_map() -> None:
    torch.manual_seed(0)
    guide = new_guide(4, 3, seed=0, number=0).double()
    features, theirs = torch.randn(5, 4, dtype=torch.float64, requires_grad=True), torch.randn(5, 3).double()

    def loss(features: Any, weight: Any, bias: Any) -> Any:
        return feature_l2(torch.nn.functional.linear(features, weight, bias), theirs)

    assert torch.autograd.gradcheck(loss, (features, guide.weight, guide.bias))
    expected = ((features @ guide.weight.T + guide.bias - theirs) ** 2).sum() / (2 * 3 * 5)
    found = loss(features, guide.weight, guide.bias)
    assert float(found.detach()) == pytest.approx(float(expected.detach()))
    assert torch.equal(guide.weight.float(), new_guide(4, 3, seed=0, number=0).weight)
    assert not torch.equal(new_guide(4, 3, seed=0, number=1).weight, new_guide(4, 3, seed=0, number=0).weight)
