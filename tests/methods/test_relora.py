from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from events import EveryStep
from torch import nn

from bequest.core.errors import MethodError, TrainingError
from bequest.core.plan import Solve, Train, TrainState
from bequest.core.registry import get_method
from bequest.engine.run import LAST_GOOD, make_plan, run
from bequest.nn.network import Network
from bequest.optim.relora import Jagged, Restart

TASK: Any = SimpleNamespace(classes=("a", "b", "c"))


def plan_of(source: Any, **settings: Any) -> Any:
    return get_method("relora").build(settings).plan(source, TASK)


def trial(context: Any, folder: Path | None = None, **settings: Any) -> Any:
    quick = {"epochs": 3, "batch_size": 8, "patience": 0, "learning_rate": 1e-2, "rank": 1, "head_init": "random"}
    method = get_method("relora").build({**quick, **settings})
    return run(context, method, context.task.draw(0, train_size=40, test_size=30), seed=0, folder=folder)


def test_schedule_and_restarts_are_made_from_the_same_numbers(tiny_sources: dict[str, Any]) -> None:
    solve, stage = plan_of(tiny_sources["text"], cycles=3, rewarm=0.25, prune=0.9).stages
    assert isinstance(solve, Solve)
    [event] = stage.events
    assert isinstance(stage.schedule, Jagged) and isinstance(event, Restart)
    assert stage.schedule.cycles is event.cycles and event.prune == 0.9
    assert event.cycles.restarts(60) == (20, 40) and event.cycles.rising(60) == 5
    paper = plan_of(tiny_sources["text"], cycle_steps=2000, rewarm_steps=100).stages[-1].events[0].cycles
    assert paper.restarts(20000) == tuple(range(2000, 20000, 2000)) and paper.rising(20000) == 100


@pytest.mark.parametrize("kind", ["text", "image"])
def test_the_change_outgrows_the_rank(kind: str, context_of: Callable[..., Any]) -> None:
    context = context_of(kind, cut=False)
    start = context.source.network().state_dict()

    def ranks(**settings: Any) -> list[int]:
        outcome = trial(context, **settings)
        found = []
        for name in make_plan(context, get_method("relora").build({}), 0).merged:
            weight = name.replace(".base.", ".")
            change = (outcome.network.state_dict()[weight] - start[weight]).flatten(1).double()
            noise = 1e-6 * float(torch.linalg.matrix_norm(start[weight].flatten(1), 2))
            found.append(int((torch.linalg.svdvals(change) > noise).sum()))
        return found

    assert set(ranks(cycles=1)) == {1}
    grown = ranks(cycles=4)
    assert min(grown) > 1 and max(grown) <= 4 and sum(grown) > 2.5 * len(grown), (
        "the best epoch may be in an earlier cycle"
    )


def test_a_restart_in_training_leaves_function_and_foreign_state_alone(context_of: Callable[..., Any]) -> None:
    context = context_of("text", cut=False)
    plan = make_plan(context, get_method("relora").build({"epochs": 3, "batch_size": 8}), 0)
    stage = plan.stages[-1]
    [event] = stage.events
    x = context.source.preprocess.collate([context.source.preprocess.encode(context.task.samples[i]) for i in range(4)])
    seen: list[int] = []

    def watched(state: TrainState) -> None:
        state.network.eval()
        before = state.network(*x).detach()
        own = {id(p) for n, p in state.network.named_parameters() if n.endswith((".A", ".B"))}
        foreign = {
            p: {k: v.clone() for k, v in values.items()}
            for p, values in state.optimizer.state.items()
            if id(p) not in own
        }
        weights = {n: p.detach().clone() for n, p in state.network.named_parameters() if id(p) not in own}
        if event.is_due(state.step, state.num_steps):
            event(state)
        torch.testing.assert_close(state.network(*x), before, rtol=1e-5, atol=1e-5)
        for p, values in foreign.items():
            assert all(torch.equal(state.optimizer.state[p][k], v) for k, v in values.items())
        moved = {n for n, p in state.network.named_parameters() if n in weights and not torch.equal(weights[n], p)}
        assert moved == (set(plan.merged) if state.step in (3, 6, 9) else set()), state.step
        seen.append(state.step)

    class Watched:
        def plan(self, source: Any, task: Any) -> Any:
            return replace(plan, stages=(*plan.stages[:-1], replace(stage, events=(EveryStep(watched),))))

    run(context, Watched(), context.task.draw(0, train_size=40, test_size=30), seed=0)
    assert seen == list(range(1, 13))


def test_weights_that_were_merged_into_are_saved_and_not_counted(context_of: Callable[..., Any]) -> None:
    context = context_of("text", cut=False)
    plain, restarted = (trial(context, cycles=cycles) for cycles in (1, 4))
    merged = set(make_plan(context, get_method("relora").build({}), 0).merged)
    assert merged <= set(restarted.trained)
    assert restarted.trainable_parameters == plain.trainable_parameters
    factors = sum(t.numel() for n, t in restarted.trained.items() if n.endswith((".A", ".B")) or n.startswith("head."))
    assert restarted.trainable_parameters == factors


def test_the_last_good_weights_hold_what_was_merged(context_of: Callable[..., Any], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    context = context_of("text", cut=False)
    with pytest.raises(TrainingError):
        trial(context, tmp_path, learning_rate=1e30)
    kept = load_file(tmp_path / LAST_GOOD)
    assert set(make_plan(context, get_method("relora").build({}), 0).merged) <= set(kept)


def test_nothing_is_kept_of_what_a_merged_weight_made(context_of: Callable[..., Any]) -> None:
    """One adapted layer, and factors that are not trained: all that moves is what the event writes."""
    contexts = [context_of("image"), context_of("image", cut=False)]
    outcomes = []
    for context in contexts:
        plan = make_plan(context, get_method("relora").build({"epochs": 3, "batch_size": 8}), 0)
        stage = plan.stages[-1]
        head = replace(stage.groups[1], names=(*stage.groups[1].names, "body.blocks.2.norm.weight"))

        def shift(state: TrainState) -> None:
            with torch.no_grad():
                state.network.body.stem.base.weight.mul_(1.1)

        changed = replace(stage, groups=(head,), events=(EveryStep(shift),))
        made = replace(plan, stages=(changed,), merged=("body.stem.base.weight",))
        method = SimpleNamespace(plan=lambda *_, made=made: made)
        outcomes.append(run(context, method, context.task.draw(0, train_size=40, test_size=30), seed=0))
    cut, whole = outcomes
    torch.testing.assert_close(cut.test, whole.test, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(cut.history, whole.history, strict=True):
        assert ours.validation_loss == pytest.approx(theirs.validation_loss, rel=1e-4)


def test_a_warm_start_trains_the_plain_network_first(context_of: Callable[..., Any]) -> None:
    context = context_of("text", cut=False)
    settings = {"warm_start": 0.34, "epochs": 3, "batch_size": 8, "learning_rate": 1e-2}
    first, second = make_plan(context, get_method("relora").build({**settings, "head_init": "random"}), 0).stages
    assert isinstance(first, Train) and (first.epochs, second.epochs) == (1, 2)
    names = {name for group in first.groups for name in group.names}
    body = {f"body.{name}" for name, _ in context.source.network().body.named_parameters()}
    assert {name.replace(".base.", ".") for name in names if name.startswith("body.")} == body
    assert sorted({group.learning_rate for group in first.groups}) == pytest.approx([1e-3, 2e-3])
    outcome = trial(context, **settings)
    assert {e.stage for e in outcome.history} == {0, 1}
    after, before = outcome.network.state_dict(), context.source.network().state_dict()
    dense = next(name for name in before if name.endswith("layer.0.output.dense.weight"))
    rank = int((torch.linalg.svdvals((after[dense] - before[dense]).double()) > 1e-5).sum())
    assert rank > 4, "full rank, where cycles of rank 1 come to four"
    words = next(name for name in before if name.endswith("word_embeddings.weight"))
    assert not torch.equal(after[words], before[words])


def test_faults_are_named_at_once(tiny_sources: dict[str, Any]) -> None:
    settings = {
        "rank": 0,
        "cycles": 0,
        "rewarm": 0.0,
        "cycle_steps": 0,
        "rewarm_steps": 0,
        "prune": 1.5,
        "warm_start": 1,
    }
    with pytest.raises(MethodError) as caught:
        plan_of(tiny_sources["text"], **settings)
    assert str(caught.value) == (
        "rank is 0, expected 1 or more; cycles is 0, expected 1 or more; rewarm is 0.0, expected above 0, at most 1; "
        "cycle_steps is 0, expected 1 or more; rewarm_steps is 0, expected 1 or more; prune is 1.5, expected from 0 to "
        "1; warm_start is 1.0, expected from 0 to below 1."
    )


def test_a_body_without_layers_to_adapt(tiny_sources: dict[str, Any]) -> None:
    bare = replace(tiny_sources["image"], pretrained=lambda: Network(nn.Flatten(), nn.Identity()))
    for name in ("relora", "nola"):
        with pytest.raises(MethodError, match=f"{name} found nothing to adapt in 'tiny_conv'"):
            get_method(name).build({}).plan(bare, TASK)
