from __future__ import annotations

import pytest
import torch
from torch import nn

from bequest.core.plan import TrainState
from bequest.nn.lowrank import add_low_rank
from bequest.nn.network import Network
from bequest.optim.relora import Cycles, Jagged, Restart, prune_state, restart
from bequest.optim.schedules import WarmupCosine


def network() -> Network:
    torch.manual_seed(0)
    made = Network(nn.Sequential(nn.Linear(12, 10), nn.Tanh(), nn.Conv1d(10, 10, 1)), nn.Linear(10, 3))
    made.requires_grad_(False)
    add_low_rank(made.body, ("0",), rank=2, alpha=4.0)
    made.head.requires_grad_(True)
    return made


def trained(made: Network, steps: int, rate: float = 0.05) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW([p for p in made.parameters() if p.requires_grad], lr=rate)
    for _ in range(steps):
        loss = made.head(torch.tanh(made.body[0](torch.randn(16, 12)))).pow(2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


@pytest.mark.parametrize(
    ("cycles", "num_steps", "restarts", "rising"),
    [
        (Cycles(4), 65, (16, 32, 49), 2),
        (Cycles(4, rewarm=0.5), 12, (3, 6, 9), 2),
        (Cycles(1), 65, (), 7),
        (Cycles(4), 3, (1, 2), 1),
        (Cycles(4, cycle_steps=2000, rewarm_steps=100), 6001, (2000, 4000, 6000), 100),
        (Cycles(4, cycle_steps=2000), 6000, (2000, 4000), 200),
    ],
)
def test_where_cycles_end(cycles: Cycles, num_steps: int, restarts: tuple[int, ...], rising: int) -> None:
    assert cycles.restarts(num_steps) == restarts
    assert cycles.rising(num_steps) == rising


def test_the_rate_falls_at_each_restart_and_rises_back_onto_the_cosine() -> None:
    cycles, cosine = Cycles(4, rewarm=0.2), WarmupCosine(0.05)
    schedule, steps = Jagged(cosine, cycles), 200
    rates = [schedule(step, steps) for step in range(steps)]
    along = [cosine(step, steps) for step in range(steps)]
    assert cycles.restarts(steps) == (50, 100, 150)
    assert rates[:50] == along[:50]
    for begin in (50, 100, 150):
        for i in range(10):
            assert rates[begin + i] == pytest.approx(along[begin + i] * (i + 1) / 11)
        assert rates[begin + 10 : begin + 50] == along[begin + 10 : begin + 50]
    assert min(rates) > 0


def test_the_first_step_after_every_restart_is_small() -> None:
    """A pruned optimizer steps too far at the full rate; the schedule is made from the numbers that the event has."""
    for cycles in (Cycles(4), Cycles(3, rewarm=0.01), Cycles(cycle_steps=7), Cycles(cycle_steps=9, rewarm_steps=4)):
        schedule = Jagged(WarmupCosine(0.06), cycles)
        for after in cycles.restarts(64):
            assert schedule(after, 64) <= 0.5 * schedule(after - 1, 64)


def test_a_restart_leaves_the_function_as_it_is() -> None:
    made, x = network(), torch.randn(64, 12)
    trained(made, 20)
    before, weight = made.body[0](x), made.body[0].base.weight.clone()
    update = made.body[0].scale * made.body[0].B @ made.body[0].A
    assert float((before - made.body[0].base(x)).detach().abs().max()) > 0.1
    restart(made.body[0])
    torch.testing.assert_close(made.body[0](x), before, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(made.body[0].base.weight, weight + update)
    assert made.body[0].B.abs().sum() == 0


def test_a_begins_at_kaimings_spread_so_that_b_learns_at_once() -> None:
    """The published wrapper sets A to zero beside a B of zero: no gradient reaches either."""
    made = network()
    for again in (False, True):
        if again:
            restart(made.body[0])
        a = made.body[0].A
        assert 0.5 / 12**0.5 < float(a.detach().abs().max()) <= 1 / 12**0.5
        made.body[0](torch.randn(8, 12)).pow(2).sum().backward()
        assert made.body[0].B.grad.abs().sum() > 0
        made.zero_grad()


def test_the_change_outgrows_the_rank_of_its_factors() -> None:
    made = network()
    start = made.body[0].base.weight.clone()
    for cycle in range(1, 4):
        trained(made, 10)
        restart(made.body[0])
        values = torch.linalg.svdvals((made.body[0].base.weight - start).double())
        assert int((values > 1e-5 * values[0]).sum()) == 2 * cycle


@pytest.mark.parametrize("fraction", [0.99, 0.9, 0.5, 0.0])
def test_pruning_keeps_the_largest_entries_of_one_parameter(fraction: float) -> None:
    made = network()
    optimizer = trained(made, 5)
    a = made.body[0].A
    before = {key: value.clone() for key, value in optimizer.state[a].items()}
    others = {p: {k: v.clone() for k, v in s.items()} for p, s in optimizer.state.items() if p is not a}
    prune_state(optimizer, a, fraction)
    kept = a.numel() - int(fraction * a.numel())
    largest = before["exp_avg"].abs().flatten().topk(kept).indices
    for moment in ("exp_avg", "exp_avg_sq"):
        expected = torch.zeros(a.numel())
        expected[largest] = before[moment].flatten()[largest]
        assert torch.equal(optimizer.state[a][moment].flatten(), expected), moment
    assert optimizer.state[a]["step"] == before["step"]
    for p, state in others.items():
        assert all(torch.equal(optimizer.state[p][key], value) for key, value in state.items())


def test_a_full_reset_is_a_new_optimizer() -> None:
    made = network()
    optimizer, a = trained(made, 5), made.body[0].A
    fresh = torch.optim.AdamW([nn.Parameter(a.detach().clone())], lr=0.05)
    prune_state(optimizer, a, 1.0)
    assert len(optimizer.state[a]) == 0
    prune_state(optimizer, a, 1.0)  # nothing is left to forget
    gradient = torch.randn_like(a)
    for p in (a, fresh.param_groups[0]["params"][0]):
        p.grad = gradient.clone()
    optimizer.step()
    fresh.step()
    torch.testing.assert_close(a, fresh.param_groups[0]["params"][0], rtol=0, atol=0)


def test_an_optimizer_without_state_has_nothing_to_forget() -> None:
    made = network()
    for fraction in (0.9, 1.0):
        prune_state(torch.optim.SGD(made.head.parameters(), lr=0.1), made.head.weight, fraction)


def test_the_event_acts_where_a_cycle_ends_and_on_its_layers_alone() -> None:
    made = network()
    optimizer = trained(made, 5)
    event = Restart(("0",), Cycles(2), prune=1.0)
    head = {key: value.clone() for key, value in optimizer.state[made.head.weight].items()}
    rest = {name: value.clone() for name, value in made.state_dict().items() if not name.startswith("body.0.")}
    assert [step for step in range(1, 11) if event.is_due(step, 10)] == [5]
    event(TrainState(made, optimizer, 5, 10))
    assert made.body[0].B.abs().sum() == 0
    assert made.body[0].A not in optimizer.state and made.body[0].B not in optimizer.state
    assert all(torch.equal(optimizer.state[made.head.weight][key], value) for key, value in head.items())
    assert all(torch.equal(made.state_dict()[name], value) for name, value in rest.items())


def test_the_frozen_weight_stays_the_same_parameter() -> None:
    made = network()
    trained(made, 3)
    base = made.body[0].base.weight
    restart(made.body[0])
    assert made.body[0].base.weight is base
