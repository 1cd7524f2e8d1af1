from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bequest.core.errors import MethodError
from bequest.core.plan import Train
from bequest.core.registry import get_method
from bequest.engine.adapted import AdaptedModel, load
from bequest.engine.run import Outcome, run

MERGED: dict[str, dict[str, Any]] = {
    "a name": {"peft_type": "vera"},
    "LORA": {"peft_config": '{"peft_type": "LORA", "r": 2, "target_modules": "all-linear"}'},
    "LOHA": {"peft_config": '{"peft_type": "LOHA", "r": 2, "alpha": 4, "module_dropout": 0.1}'},
    "OFT": {"peft_config": '{"peft_type": "OFT", "oft_block_size": 8, "r": 0}'},
    "FOURIERFT": {"peft_config": '{"peft_type": "FOURIERFT", "n_frequency": 30}'},
    "LN_TUNING": {"peft_config": '{"peft_type": "LN_TUNING"}'},
}
KEPT: dict[str, dict[str, Any]] = {
    "prompt tuning": {"peft_config": '{"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3}'},
    "prefix tuning": {"peft_config": '{"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 3}'},
}


def build(**settings: Any) -> Any:
    return get_method("peft").build({"epochs": 2, "batch_size": 8, "learning_rate": 1e-2, **settings})


def trial(context: Any, **settings: Any) -> Outcome:
    return run(context, build(**settings), context.task.draw(0, train_size=40, test_size=30), seed=0)


def test_ia3_scales_outputs_and_is_merged_into_weights(context_of: Callable[..., Any]) -> None:
    """The library's choice for BERT: keys and values scaled, and the input of the second feed-forward layer."""
    context = context_of("text")
    plan = build().plan(context.source, context.task)
    vectors = {n: p for n, p in plan.network.named_parameters() if "ia3_l" in n}
    assert {n.split(".layer.")[1].split(".", 1)[1].removesuffix(".ia3_l.default") for n in vectors} == {
        *("attention.self.key", "attention.self.value", "attention.output.dense", "output.dense")
    }
    [train] = [stage for stage in plan.stages if isinstance(stage, Train)]
    assert set(train.groups[0].names) == set(vectors)
    with torch.no_grad():
        for vector in vectors.values():
            vector.uniform_(0.5, 2)
    key = "encoder.encoder.layer.0.attention.self.key"
    scale = vectors[f"body.body.{key}.ia3_l.default"].flatten()
    wanted = {part: getattr(context.source.body.get_submodule(key), part) for part in ("weight", "bias")}
    assert plan.finish is not None
    layer: Any = plan.finish(plan.network).body.get_submodule(key)
    torch.testing.assert_close(layer.weight, wanted["weight"] * scale[:, None])
    torch.testing.assert_close(layer.bias, wanted["bias"] * scale)


def test_a_network_that_the_library_does_not_know_is_wrapped_whole(context_of: Callable[..., Any]) -> None:
    context = context_of("image")
    plan = build().plan(context.source, context.task)
    wrapped = {n.removesuffix(".base_layer.weight") for n in plan.merged if n.endswith(".weight")}
    assert wrapped == {"body.body.stem", *(f"body.body.blocks.{i}.pointwise" for i in range(3))}


@pytest.mark.parametrize("settings", MERGED.values(), ids=MERGED)
def test_tuners_that_are_merged(settings: dict[str, Any], context_of: Callable[..., Any]) -> None:
    context = context_of("text")
    outcome = trial(context, **settings)
    assert outcome.merged
    assert outcome.network.body.state_dict().keys() == context.source.body.state_dict().keys()
    check_scores(context, outcome)


@pytest.mark.parametrize("settings", KEPT.values(), ids=KEPT)
def test_tuners_that_stay_are_saved_and_loaded(
    settings: dict[str, Any], context_of: Callable[..., Any], tmp_path: Path
) -> None:
    context = context_of("text")
    outcome = trial(context, **settings)
    assert not outcome.merged
    model = AdaptedModel(outcome.network, context.source, context.task.classes, {})
    model.save(tmp_path / "model")
    samples = [context.task.samples[i] for i in range(12)]
    assert torch.equal(load(tmp_path / "model").outputs(samples), model.outputs(samples))
    check_scores(context, outcome)


def test_a_merge_that_would_compute_something_else_is_left_out(context_of: Callable[..., Any]) -> None:
    """The library's OFT merges another kernel into a convolution than the one it trained."""
    context = context_of("image")
    outcome = trial(context, peft_type="oft")
    assert not outcome.merged
    check_scores(context, outcome)


def check_scores(context: Any, outcome: Outcome) -> None:
    """The finished network gives what the trial was scored by."""
    model = AdaptedModel(outcome.network, context.source, context.task.classes, {})
    test = context.task.draw(0, train_size=40, test_size=30).test
    torch.testing.assert_close(
        model.outputs([context.task.samples[i] for i in test]), outcome.test, rtol=1e-3, atol=1e-4
    )


def test_a_files_content_stands_in_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({"peft_type": "LORA", "r": 2, "inference_mode": True, "task_type": "SEQ_CLS"}))
    method = build(peft_config=str(file))
    assert json.loads(method.peft_config)["r"] == 2
    file.write_text(json.dumps({"peft_type": "LORA", "r": 3}))
    assert build(peft_config=str(file)) != method


FAULTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "no such type": ("text", {"peft_type": "vea"}, "peft_type is 'VEA', which peft .* lacks. Did you mean 'VERA'"),
    "no such field": (
        "text",
        {"peft_config": '{"peft_type": "LORA", "rnak": 2}'},
        "A configuration of peft_type LORA has no field 'rnak'",
    ),
    "no type": ("text", {"peft_config": '{"r": 2}'}, "--peft-config has no peft_type; expected the tuner's name"),
    "no JSON": ("text", {"peft_config": "{r"}, "--peft-config is no JSON"),
    "a value out of range": (
        "text",
        {"peft_config": '{"peft_type": "LORA", "r": 0}'},
        "peft_type LORA cannot be put around this network: `r` should be a positive integer",
    ),
    "no such layer": (
        "text",
        {"peft_config": '{"peft_type": "IA3", "target_modules": ["qvk"], "feedforward_modules": []}'},
        "peft_type IA3 cannot be put around this network: Target modules",
    ),
    "a tuner for another kind of layer": (
        "image",
        {"peft_type": "vera"},
        "peft_type VERA cannot be put around this network: No layers types compatible with VeRA",
    ),
    "prompts for images": (
        "image",
        {"peft_config": '{"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3}'},
        "PROMPT_TUNING puts trained tokens before a text's own, but this network is no text encoder",
    ),
    "a tuner with calls of its own": ("text", {"peft_type": "adalora"}, "ADALORA moves its ranks by calls in between"),
}


@pytest.mark.parametrize(("kind", "settings", "told"), FAULTS.values(), ids=FAULTS)
def test_faults(kind: str, settings: dict[str, Any], told: str, context_of: Callable[..., Any]) -> None:
    context = context_of(kind)
    with pytest.raises(MethodError, match=told):
        build(**settings).plan(context.source, context.task)


def test_no_such_file() -> None:
    with pytest.raises(MethodError, match=r"--peft-config 'nowhere.json' cannot be read"):
        build(peft_config="nowhere.json")


def test_without_the_library(context_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    context, imported = context_of("text"), builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "peft":
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MethodError, match=r"The PEFT library is not installed.*pip install 'bequest\[peft\]'"):
        build().plan(context.source, context.task)
