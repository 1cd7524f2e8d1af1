"""The linear probe of a layer reads what a hook sees there, and its model is saved whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bequest
from bequest.core.errors import MethodError
from bequest.core.registry import get_method
from bequest.engine.run import run


def test_a_named_layers_mean_is_read(context_of: Any, tmp_path: Path) -> None:
    context = context_of("image")
    draw = context.task.draw(0, train_size=60, test_size=30)
    method = get_method("linear_probe").build({"layer": "blocks.0", "penalty": "0.01"})
    outcome = run(context, method, draw, seed=0)
    assert outcome.network.head.in_features == 8
    seen: list[torch.Tensor] = []
    body = context.source.network().body
    body.get_submodule("blocks.0").register_forward_hook(lambda _m, _i, output: seen.append(output.mean((2, 3))))
    with torch.no_grad():
        body(torch.from_numpy(np.stack([context.task.samples[i] for i in draw.test])))
        by_hand = outcome.network.head(seen[0])
    torch.testing.assert_close(outcome.test, by_hand, rtol=1e-4, atol=1e-4)
    whole = run(context, get_method("linear_probe").build({"penalty": "0.01"}), draw, seed=0)
    assert not torch.allclose(whole.test, outcome.test, atol=1e-2), "the embedding is not that layer"


def test_its_model_predicts_after_loading(tiny_sources: Any, tiny_tasks: Any, cache: Path, tmp_path: Path) -> None:
    task, out = tiny_tasks["image"], tmp_path / "run"
    run = bequest.adapt(
        task, tiny_sources["image"], "linear_probe", layer="stem", train_size=60, test_size=30, out=out, progress=False
    )
    [trial] = run.board.trials
    test = task.draw(0, train_size=60, test_size=30).test
    loaded = bequest.load(out, source=tiny_sources["image"])
    found = [p.label for p in loaded.predict([task.samples[i] for i in test])]
    right = np.mean([name == task.classes[task.labels[i]] for name, i in zip(found, test, strict=True)])
    assert right == pytest.approx(trial.test)


def test_a_layer_that_is_not_there(tiny_sources: Any, tiny_tasks: Any) -> None:
    method = get_method("linear_probe").build({"layer": "block.0"})
    with pytest.raises(MethodError, match=r"layer: There is no layer 'block.0'. Did you mean .*'blocks.0'"):
        method.plan(tiny_sources["image"], tiny_tasks["image"])
