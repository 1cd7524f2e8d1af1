"""Training from the cut on real architectures: the plain loop's trajectory, what is said, and what is stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import nn

from bequest import sources
from bequest.core.observe import Silent
from bequest.core.registry import get_method
from bequest.data.views import Views, parse_recipe
from bequest.engine import cut as engine_cut
from bequest.engine.context import Context
from bequest.engine.run import Outcome, run
from bequest.engine.runtime import choose_runtime
from bequest.engine.store import Store


class Notes(Silent):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def custom() -> Any:
    torch.manual_seed(0)
    stem = [nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout(0.1)]
    block = [nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return sources.from_module(nn.Sequential(*stem, *block, nn.Linear(16, 4)), name="custom")


def source(name: str, **options: Any) -> Callable[[], Any]:
    return lambda: sources.get(name, **options)


CASES: dict[str, tuple[Callable[[], Any], str]] = {
    "EfficientNet-Lite0": (source("efficientnet_lite0", image_size=64), "blocks.6.0"),
    "ViT": (source("timm:vit_tiny_patch16_224", image_size=64, pretrained=False), "blocks.9"),
    "ResNet": (source("timm:resnet18", image_size=64, pretrained=False), "layer4.0"),
    "MiniLM": (source("minilm_l3", max_tokens=24), "layer.2"),
    "custom": (custom, "4"),
}


def trial(case: str, task: Any, folder: Path, observer: Any = None, **changes: Any) -> Outcome:
    make, first = CASES[case]
    context = Context(make(), task, Store(folder), choose_runtime("float32"), observer or Silent(), **changes)
    settings = {"from_depth": first, "epochs": 3, "batch_size": 8, "patience": 0, "head_init": "random"}
    return run(context, get_method("freeze").build(settings), task.draw(0, train_size=18, test_size=9), seed=0)


def task_for(case: str, tiny_tasks: Any) -> Any:
    if case == "custom":
        return tiny_tasks["image"]
    return tiny_tasks["text"] if case == "MiniLM" else tiny.photo_task(64, 64)


@pytest.mark.parametrize(
    "case",
    [
        "custom",
        "MiniLM",
        *(pytest.param(case, marks=pytest.mark.slow) for case in ("EfficientNet-Lite0", "ViT", "ResNet")),
    ],
)
def test_the_plain_loops_trajectory(case: str, tiny_tasks: Any, tmp_path: Path) -> None:
    """Losses and final weights are the plain loop's up to rounding.

    Kernels may sum in an order that depends on a batch's shape, and the prefix runs in other batches than the plain
    loop's. Measured with AVX-512: bit for bit for the image networks; for MiniLM losses are the same and weights differ
    by 2.4e-7 at most, since its batches are padded to other lengths. With AVX2 2 of 410,000 weights of a convolution,
    whose gradients are next to nothing, differ by 3e-5, a hundredth of what Adam moves a weight.
    """
    task = task_for(case, tiny_tasks)
    ours = trial(case, task, tmp_path / "cut")
    plain = trial(case, task, tmp_path / "plain", cut=False)
    assert len(ours.frozen_shares) == 1 and not plain.frozen_shares
    for a, b in zip(ours.history, plain.history, strict=True):
        assert a.validation_loss == pytest.approx(b.validation_loss, rel=2e-5)
        assert (a.train_loss or 0) == pytest.approx(b.train_loss or 0, rel=2e-5)
    assert set(ours.trained) == set(plain.trained)
    for name, tensor in plain.trained.items():
        if not name.endswith("key.bias"):  # its gradient is rounding noise, of which Adam makes whole steps
            torch.testing.assert_close(ours.trained[name], tensor, rtol=1e-4, atol=1e-4, msg=f"{case} {name}")
    torch.testing.assert_close(ours.test, plain.test, rtol=1e-4, atol=1e-4)


def test_bit_for_bit_where_the_suffix_sees_identical_inputs(tiny_tasks: Any, tmp_path: Path) -> None:
    """One batch holds all, in training and in the pass, so that even the kernels' order is the same."""
    task = tiny_tasks["image"]
    draw = task.draw(0, train_size=10, test_size=3)
    draw = replace(draw, validation=draw.train, train=draw.train)
    outcomes = []
    for cut in (True, False):
        context = Context(
            custom(), task, Store(tmp_path / str(cut)), choose_runtime("float32"), Silent(), cut=cut, batch_size=64
        )
        settings = {"from_depth": "4", "epochs": 3, "batch_size": 64, "patience": 0, "head_init": "random"}
        outcomes.append(run(context, get_method("freeze").build(settings), draw, seed=0))
    ours, plain = outcomes
    assert ours.frozen_shares
    assert all(torch.equal(ours.trained[name], tensor) for name, tensor in plain.trained.items())


@pytest.mark.parametrize("num_views", [1, 2])
def test_a_head_alone_needs_no_graph(num_views: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads embeddings, those that other methods share, and trains as on the whole network."""

    def analysed(*_: Any, **__: Any) -> None:
        raise AssertionError("a graph was asked for")

    monkeypatch.setattr(engine_cut, "_analysed", analysed)
    task, body = tiny.photo_task(32, 40), sources.get("timm:test_vit", pretrained=False, image_size=160)
    draw = task.draw(0, train_size=18, test_size=9)
    settings = {"from_depth": "1", "epochs": 3, "batch_size": 8, "patience": 0, "head_init": "random"}
    outcomes: list[Outcome] = []
    for cut in (True, False):
        views = Views(num_views, parse_recipe("light"))
        store = Store(tmp_path / str(cut))
        context = Context(body, task, store, choose_runtime("float32"), Silent(), views=views, cut=cut)
        outcomes.append(run(context, get_method("freeze").build(settings), draw, seed=0))
        if cut:
            computed = context.passes.computed
            assert computed == len(draw.labelled) + (num_views - 1) * len(draw.train) + len(draw.test)
            run(context, get_method("linear_probe").build({}), draw, seed=0)
            assert context.passes.computed == computed
    ours, plain = outcomes
    assert set(ours.trained) == set(plain.trained) == {"head.weight", "head.bias"}
    for name, tensor in plain.trained.items():
        torch.testing.assert_close(ours.trained[name], tensor, rtol=1e-4, atol=1e-6)
    for a, b in zip(ours.history, plain.history, strict=True):
        assert a.validation_loss == pytest.approx(b.validation_loss, rel=1e-5)
    torch.testing.assert_close(ours.test, plain.test, rtol=1e-4, atol=1e-5)


def test_it_is_said_once(tiny_tasks: Any, tmp_path: Path) -> None:
    notes = Notes()
    make, first = CASES["custom"]
    task = tiny_tasks["image"]
    context = Context(make(), task, Store(tmp_path), choose_runtime("float32"), notes)
    method = get_method("freeze").build({"from_depth": first, "epochs": 1, "head_init": "random"})
    for seed in range(2):
        run(context, method, task.draw(0, train_size=18, test_size=9), seed=seed)
    told = [text for text in notes.texts if "of the forward pass is frozen" in text]
    assert len(told) == 1 and "computed once a sample" in told[0] and "MB on disk" in told[0]


def test_what_cannot_be_exported_trains_the_plain_way_and_says_so(tiny_tasks: Any, tmp_path: Path) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = [self.second(self.first(x[i : i + 1]).relu()) for i in range(len(x))]
            return self.fc(torch.cat(rows).mean((2, 3)))

    notes, task = Notes(), tiny_tasks["image"]
    torch.manual_seed(0)
    context = Context(
        sources.from_module(Counting(), name="counting"), task, Store(tmp_path), choose_runtime("float32"), notes
    )
    method = get_method("freeze").build({"from_depth": "second", "epochs": 1, "head_init": "random"})
    for seed in range(2):
        outcome = run(context, method, task.draw(0, train_size=18, test_size=9), seed=seed)
        assert not outcome.frozen_shares and outcome.test.isfinite().all()
    [told] = [text for text in notes.texts if "computed anew in every epoch" in text]
    assert "(its forward pass takes the number of samples or tokens for a constant)" in told


def test_no_room_in_the_store(tiny_tasks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes()
    monkeypatch.setattr(Store, "room", lambda self, num_bytes, **_: False)
    outcome = trial("custom", tiny_tasks["image"], tmp_path, notes)
    assert not outcome.frozen_shares
    assert any("but computed anew in every epoch: what it makes would take" in text for text in notes.texts)


def test_another_rate_is_the_same_graph_and_another_head_is_not(
    context_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    exported: list[str] = []
    analyse = engine_cut.analyse
    monkeypatch.setattr(engine_cut, "_graphs", {})
    monkeypatch.setattr(engine_cut, "analyse", lambda net, *a, **k: exported.append(repr(net)) or analyse(net, *a, **k))
    for settings in ({}, {"learning_rate": 3e-3, "epochs": 2}, {"head": "mlp"}):
        context = context_of("text")
        tried = get_method("freeze").build({"epochs": 1, "batch_size": 8, "patience": 0, **settings})
        draw = context.task.draw(0, train_size=18, test_size=9)
        found = run(context, tried, draw, seed=0)
        plain = run(replace(context, cut=False), tried, draw, seed=0)
        assert found.frozen_shares
        torch.testing.assert_close(found.test, plain.test, rtol=1e-4, atol=1e-4)
    assert len(exported) == 2


def test_methods_share_the_graph_as_it_is_scored(
    context_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    exported: list[bool] = []
    told: list[int] = []
    export = engine_cut.export
    monkeypatch.setattr(engine_cut, "_graphs", {})
    monkeypatch.setattr(engine_cut, "export", lambda net, *a: exported.append(net.training) or export(net, *a))
    context = context_of("image")
    draw = context.task.draw(0, train_size=18, test_size=9)
    # Biases are learned from the first layer on: nothing is frozen that is worth a graph.
    for name, depth in (("freeze", "blocks.1"), ("freeze", "blocks.2"), ("bitfit", "")):
        settings = {"epochs": 1, "batch_size": 8, "patience": 0, "head_init": "random"}
        tried = get_method(name).build({**settings, **({"from_depth": depth} if depth else {})})
        found = run(context, tried, draw, seed=0)
        plain = run(replace(context, cut=False), tried, draw, seed=0)
        torch.testing.assert_close(found.test, plain.test, rtol=1e-4, atol=1e-4)
        told.append(len(exported))
    assert exported == [False, True, True] and told == [2, 3, 3]


def test_what_hangs_onto_a_body_is_another_structure(context_of: Callable[..., Any]) -> None:
    context = context_of("image")
    network = context.source.network()
    network.head = torch.nn.Linear(context.source.width, 2)
    assert engine_cut._structure(context, network, "a") == engine_cut._structure(context, network, "b")
    hook = network.body.register_forward_hook(lambda _module, _inputs, output: 2 * output)
    assert engine_cut._structure(context, network, "a") != engine_cut._structure(context, network, "b")
    hook.remove()
    network.head = Unlike()
    assert engine_cut._structure(context, network, "a") != engine_cut._structure(context, network, "b")


class Unlike(torch.nn.Module):
    """A head of a user's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :2]


def test_another_image_size_is_another_graph(tmp_path: Path) -> None:
    """Padding as TensorFlow pads depends on the size, and a graph has it baked in."""
    settings = {"from_depth": "blocks.6.0", "epochs": 1, "batch_size": 8, "patience": 0, "head_init": "random"}
    for size in (64, 72):
        tests = []
        for cut in (True, False):
            source, task = sources.get("efficientnet_lite0", image_size=size), tiny.photo_task(64, 64)
            folder = tmp_path / f"{size} {cut}"
            context = Context(source, task, Store(folder), choose_runtime("float32"), Silent(), cut=cut)
            draw = task.draw(0, train_size=18, test_size=9)
            tests.append(run(context, get_method("freeze").build(settings), draw, seed=0).test)
        torch.testing.assert_close(*tests, rtol=1e-4, atol=1e-4)
