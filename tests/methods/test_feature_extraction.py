"""What `feature_extraction` taps, refuses, and leaves in the record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import bequest
from bequest.core.errors import MethodError
from bequest.engine.run import make_plan, run
from bequest.methods.feature_extraction import FeatureExtraction
from bequest.nn.taps import Tapped


def tapped(context: Any, layers: str) -> list[str]:
    body = make_plan(context, FeatureExtraction(layers=layers), 0).network.body
    return [tap.name for tap in body.taps] if isinstance(body, Tapped) else ["the body itself"]


def test_the_layers_that_are_asked_for(context_of: Any) -> None:
    context = context_of("image")
    depth = [layer.name for layer in context.source.layers]
    assert tapped(context, "last") == tapped(context, "embedding") == ["the body itself"]
    assert tapped(context, "all") == tapped(context, "choose")
    assert set(tapped(context, "all")) == {*depth, ""} and len(depth) == 4
    assert tapped(context, "blocks.1, stem") == ["blocks.1", "stem"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"layers": "blocks.7"}, "no layer 'blocks.7'"),
        ({"dimensions": "8,some"}, "dimensions is '8,some', expected numbers from 1 on, or all"),
        ({"dimensions": "0"}, "expected numbers from 1 on"),
        ({"dimensions": ""}, "expected numbers from 1 on"),
        ({"folds": 1}, "folds is 1, expected 2 or more"),
    ],
)
def test_what_cannot_be_is_refused(context_of: Any, settings: dict[str, Any], told: str) -> None:
    context = context_of("image")
    with pytest.raises(MethodError, match=told):
        FeatureExtraction(**settings).plan(context.source, context.task)


@pytest.mark.parametrize("kind", ["multi-label", "regression"])
def test_classes_alone(context_of: Any, kind: str) -> None:
    context = context_of(kind)
    with pytest.raises(MethodError, match=f"a {kind} task; expected classification. linear_probe"):
        FeatureExtraction().plan(context.source, context.task)


@pytest.mark.parametrize("classifier", ["knn", "random_forest", "gradient_boosting"])
def test_a_run_saves_without_pickle_and_predicts_the_same(tmp_path: Path, tiny_tasks: Any, classifier: str) -> None:
    import tiny

    source, task = tiny.text_source(), tiny_tasks["text"]
    made = bequest.adapt(
        task,
        source,
        "feature_extraction",
        classifier=classifier,
        layers="all",
        dimensions="6",
        folds=2,
        train_size=50,
        out=tmp_path / "run",
        cache=tmp_path / "cache",
        progress=False,
    )
    [trial] = made.board.trials
    assert trial.error is None and trial.test is not None and trial.test > 0.5
    loaded = bequest.load(tmp_path / "run" / "best")
    samples = [task.samples[i] for i in range(20)]
    assert isinstance(loaded.network.body, Tapped)
    assert torch.equal(loaded.outputs(samples), made.best.outputs(samples))
    assert not [p for p in tmp_path.rglob("*") if p.suffix in (".pkl", ".pt", ".pth", ".joblib")]


def test_the_record_tells_what_was_tried(context_of: Any) -> None:
    context = context_of("image")
    draw = context.task.draw(0, train_size=40, test_size=30)
    outcome = run(context, FeatureExtraction("nearest_mean", dimensions="4,all"), draw, seed=0)
    [solved] = outcome.solved
    assert solved["solver"] == "nearest_mean" and solved["layers"]
    assert {tuple(c["layers"]) for c in solved["candidates"]} >= {("stem",), ("embedding",)}
    assert all({"accuracy", "loss", "dimensions"} <= c.keys() for c in solved["candidates"])
    assert outcome.trainable_parameters == sum(t.numel() for t in outcome.trained.values())


@pytest.mark.parametrize("kind", ["image", "text"])
def test_the_whole_network_exports(context_of: Any, kind: str) -> None:
    context = context_of(kind)
    draw = context.task.draw(0, train_size=40, test_size=30)
    network = run(context, FeatureExtraction("knn", layers="all", dimensions="8", folds=2), draw, seed=0).network
    encode, collate = context.source.preprocess.encode, context.source.preprocess.collate
    few, many = (collate([encode(context.task.samples[i]) for i in range(n)]) for n in (3, 8))
    many = tuple(t[:, : f.shape[1]] if kind == "text" else t for t, f in zip(many, few, strict=True))
    batch = torch.export.Dim("batch", min=1, max=512)
    exported = torch.export.export(network, few, dynamic_shapes=(tuple({0: batch} for _ in few),)).module()
    torch.testing.assert_close(exported(*many), network(*many))
