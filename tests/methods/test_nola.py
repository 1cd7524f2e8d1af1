from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save

from bequest.core.errors import MethodError
from bequest.core.plan import Solve
from bequest.core.registry import get_method
from bequest.engine.features import encoded, forward
from bequest.engine.run import make_plan, restore, run

TASK: Any = SimpleNamespace(classes=("a", "b", "c"))
QUICK = {"epochs": 3, "batch_size": 8, "patience": 0, "head_init": "random", "learning_rate": 5e-2}


def trial(context: Any, **settings: Any) -> Any:
    method = get_method("nola").build({**QUICK, **settings})
    return run(context, method, context.task.draw(0, train_size=40, test_size=30), seed=0)


def test_trains_coefficients_and_head_after_the_head_alone(tiny_sources: dict[str, Any]) -> None:
    plan = get_method("nola").build({"learning_rate": 0.2, "head_learning_rate": 0.1}).plan(tiny_sources["text"], TASK)
    solve, stage = plan.stages
    assert isinstance(solve, Solve)
    coefficients, head = stage.groups
    assert {name.rpartition(".")[2] for name in coefficients.names} == {"alpha", "beta"}
    assert (coefficients.learning_rate, head.learning_rate) == (0.2, 0.1)
    assert set(head.names) == {"head.weight", "head.bias"}
    assert plan.coding is None


@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_trial_is_kilobytes_without_a_basis(kind: str, context_of: Callable[..., Any]) -> None:
    outcome = trial(context_of(kind, cut=False))
    assert {name.rpartition(".")[2] for name in outcome.trained} == {"alpha", "beta", "weight", "bias"}
    assert all(name.startswith("head.") for name in outcome.trained if not name.endswith(("alpha", "beta")))
    lora = get_method("lora").build({"epochs": 1, "batch_size": 8, "head_init": "random"})
    context = context_of(kind, cut=False)
    theirs = run(context, lora, context.task.draw(0, train_size=40, test_size=30), seed=0)
    assert outcome.trainable_parameters < theirs.trainable_parameters / 3


@pytest.mark.parametrize(("bits", "kind"), [(8, "text"), (4, "image")])
def test_what_is_scored_is_what_is_stored(bits: int, kind: str, context_of: Callable[..., Any]) -> None:
    context = context_of(kind, cut=False)
    draw = context.task.draw(0, train_size=40, test_size=30)
    whole, rounded = trial(context), trial(context, bits=bits)
    assert len(save(rounded.trained)) < len(save(whole.trained)) / 2
    assert rounded.trainable_parameters == whole.trainable_parameters
    assert not torch.equal(rounded.test, whole.test)
    again = restore(
        make_plan(context, get_method("nola").build({**QUICK, "bits": bits}), 0), rounded.trained, rounded.head
    )
    expected = rounded.network.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.state_dict().items())
    torch.testing.assert_close(forward(context, again, encoded(context, draw.test)), rounded.test, rtol=1e-4, atol=1e-5)
    # Of the history's losses, which are those of the numbers before they were rounded, none is touched.
    assert [e.validation_loss for e in rounded.history] == [e.validation_loss for e in whole.history]


def test_another_seed_of_the_bases_is_another_model(context_of: Callable[..., Any]) -> None:
    context = context_of("text", cut=False)
    assert not torch.equal(trial(context).test, trial(context, basis_seed=1).test)


def test_faults_are_named_at_once(tiny_sources: dict[str, Any]) -> None:
    with pytest.raises(MethodError) as caught:
        settings = {"rank": 0, "lora_alpha": 0.0, "lora_dropout": 1.0, "num_basis": 0, "basis_seed": -1, "bits": 16}
        get_method("nola").build(settings).plan(tiny_sources["text"], TASK)
    assert str(caught.value) == (
        "rank is 0, expected 1 or more; lora_alpha is 0.0, expected above 0; lora_dropout is 1.0, expected from 0 to "
        "below 1; num_basis is 0, expected 1 or more; basis_seed is -1, expected 0 or more; bits is 16, expected 32, 8 "
        "or 4."
    )
