"""GaLore against numbers from a plain loop in float64, and its promises."""

from __future__ import annotations

import copy
import io
import math
import sys
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bequest.core.errors import MethodError, TrainingError
from bequest.optim.galore import GaLore
from bequest.optim.state import state_bytes
from bequest.optim.subspaces import SUBSPACE_NAMES, subspace

RATE, BETA1, BETA2, EPS, DECAY = 0.02, 0.9, 0.999, 1e-6, 0.1


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """A tall, a square and a wide matrix, a convolution's four dimensions, and layers too small to project."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3),
        nn.Flatten(),
        nn.Linear(12 * 4, 16),
        nn.Tanh(),
        nn.Linear(16, 16),
        nn.Tanh(),
        nn.Linear(16, 24),
        nn.Tanh(),
        nn.Linear(24, 3),
    ).to(dtype)


def loss_of(net: nn.Module, seed: int, samples: slice = slice(None)) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 3, 4, 4, generator=generator, dtype=torch.float64)[samples]
    y = torch.randint(3, (8,), generator=generator)[samples]
    return nn.functional.cross_entropy(net(x.to(next(net.parameters()).dtype)), y)


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss_of(net, step).backward()
        optimizer.step()


def assert_equal(ours: nn.Module, theirs: nn.Module, **tolerance: float) -> None:
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


class Plain:
    """The algorithm, one matrix after another: as the paper has it, or as the authors' package does."""

    def __init__(self, net: nn.Module, rank: int, scale: float, every: int, *, package: bool) -> None:
        self.net, self.rank, self.scale, self.every, self.package = net, rank, scale, every, package
        self.kept: dict[Tensor, dict[str, Any]] = {p: {} for p in net.parameters()}

    def zero_grad(self) -> None:
        self.net.zero_grad()

    @torch.no_grad()
    def step(self) -> None:
        for p, kept in self.kept.items():
            assert p.grad is not None
            step = kept["step"] = kept.get("step", 0) + 1
            g = p.grad.reshape(len(p), -1) if p.ndim > 1 else p.grad
            m, n = g.shape if p.ndim > 1 else (0, 0)
            projected, left = min(m, n) > self.rank, m < n or (m == n and not self.package)
            if projected:
                if (step - 1) % self.every == 0:
                    u, _, vh = torch.linalg.svd(g, full_matrices=False)
                    kept["P"] = u[:, : self.rank] if left else vh[: self.rank].T
                g = kept["P"].T @ g if left else g @ kept["P"]
            kept["M"] = BETA1 * kept.get("M", 0) + (1 - BETA1) * g
            kept["V"] = BETA2 * kept.get("V", 0) + (1 - BETA2) * g**2
            mean = kept["M"] / (1 - BETA1**step)
            if self.package:
                direction = mean * math.sqrt(1 - BETA2**step) / (kept["V"].sqrt() + EPS)
            else:
                direction = mean / ((kept["V"] / (1 - BETA2**step)).sqrt() + EPS)
            if projected:
                direction = self.scale * (kept["P"] @ direction if left else direction @ kept["P"].T)
            update = RATE * direction.reshape(p.shape)
            p.copy_((1 - RATE * DECAY) * (p - update) if self.package else (1 - RATE * DECAY) * p - update)


@pytest.mark.parametrize("convention", ["paper", "galore-torch"])
def test_exact_mode_follows_the_equations(convention: Any) -> None:
    ours, theirs = network(torch.float64), network(torch.float64)
    settings: dict[str, Any] = {"eps": EPS, "weight_decay": DECAY, "subspace": "exact", "stagger": False}
    galore = GaLore(ours.parameters(), RATE, rank=4, scale=0.5, refresh_every=5, convention=convention, **settings)
    plain: Any = Plain(theirs, 4, 0.5, 5, package=convention == "galore-torch")
    train(ours, galore, range(12))
    train(theirs, plain, range(12))
    assert_equal(ours, theirs, rtol=1e-9, atol=1e-9)


def test_the_conventions_differ() -> None:
    nets = [network(), network()]
    for net, convention in zip(nets, ("paper", "galore-torch"), strict=True):
        train(net, GaLore(net.parameters(), RATE, rank=4, convention=convention, eps=EPS), range(2))
    assert not torch.allclose(nets[0][2].weight, nets[1][2].weight, rtol=0, atol=1e-5)


def test_rank_none_is_adamw() -> None:
    ours, theirs = network(), network()
    train(ours, GaLore(ours.parameters(), RATE, rank=None, weight_decay=DECAY), range(6))
    train(theirs, torch.optim.AdamW(theirs.parameters(), RATE, weight_decay=DECAY), range(6))
    assert_equal(ours, theirs, rtol=1e-6, atol=1e-7)


def test_groups_have_options_of_their_own() -> None:
    net = network()
    head, body = [*net[8].parameters()], [*net[2].parameters()]
    optimizer = GaLore([{"params": head, "rank": None, "lr": 0.1}, {"params": body}], 0.0, rank=2)
    before = net[2].weight.clone()
    train(net, optimizer, range(1))
    assert set(optimizer.state[net[8].weight]) == {"step", "exp_avg", "exp_avg_sq"}
    assert set(optimizer.state[net[2].weight]) == {"step", "next_refresh", "projection", "exp_avg", "exp_avg_sq"}
    assert torch.equal(net[2].weight, before), "its rate is 0"


def test_adafactor_follows_its_equations() -> None:
    torch.manual_seed(1)
    weight = nn.Parameter(torch.randn(6, 9, dtype=torch.float64))
    expected = weight.detach().clone()
    optimizer = GaLore([weight], RATE, rank=3, scale=0.5, subspace="exact", inner="adafactor", weight_decay=DECAY)
    row, column, moment = torch.zeros(3).double(), torch.zeros(9).double(), torch.zeros(3, 9).double()
    for step in range(1, 5):
        weight.grad = torch.randn(6, 9, dtype=torch.float64)
        if step == 1:
            basis = torch.linalg.svd(weight.grad).U[:, :3]
        r = basis.T @ weight.grad
        share = 1 - step**-0.8
        row = share * row + (1 - share) * (r**2 + 1e-30).mean(1)
        column = share * column + (1 - share) * (r**2 + 1e-30).mean(0)
        update = r / torch.outer(row, column).div(row.mean()).sqrt()
        update = RATE * 0.5 * update / max(1.0, float(update.pow(2).mean().sqrt()))
        moment = BETA1 * moment + (1 - BETA1) * update
        expected = (1 - RATE * DECAY) * expected - basis @ moment
        optimizer.step()
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-9, atol=1e-9)


def decaying(rows: int, columns: int, seed: int) -> Tensor:
    """A matrix with singular values 1, 1/2, 1/3, …: harder than a gradient, whose values fall faster."""
    generator = torch.Generator().manual_seed(seed)
    smaller = min(rows, columns)
    u, v = (torch.linalg.qr(torch.randn(side, smaller, generator=generator)).Q for side in (rows, columns))
    return u / torch.arange(1, smaller + 1) @ v.T


@pytest.mark.parametrize("name", SUBSPACE_NAMES)
@pytest.mark.parametrize(("rows", "columns"), [(48, 80), (80, 48)])
def test_subspaces_capture_the_energy_of_the_exact_one(name: Any, rows: int, columns: int) -> None:
    gradient, is_left = decaying(rows, columns, 0), rows < columns
    earlier = gradient + 0.02 * decaying(rows, columns, 1)
    previous = subspace("exact", earlier, 8, None, is_left=is_left, seed=0)
    basis = subspace(name, gradient, 8, previous, is_left=is_left, seed=0)
    torch.testing.assert_close(basis.T @ basis, torch.eye(8), rtol=0, atol=1e-5)
    image = basis.T @ gradient if is_left else gradient @ basis
    assert float(image.square().sum()) >= 0.99 * float(torch.linalg.svdvals(gradient)[:8].square().sum())


@pytest.mark.parametrize("name", SUBSPACE_NAMES)
def test_subspaces_of_tiny_gradients_and_of_low_rank(name: Any) -> None:
    gradient = 1e-25 * torch.outer(torch.arange(1.0, 13.0), torch.ones(20))
    basis = subspace(name, gradient, 4, None, is_left=True, seed=0)
    torch.testing.assert_close(basis.T @ basis, torch.eye(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(basis @ (basis.T @ (gradient * 1e25)), gradient * 1e25, rtol=1e-4, atol=1e-3)


def test_a_subspace_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    subspace("randomised", decaying(12, 20, 0), 4, None, is_left=True, seed=3)
    assert torch.equal(before, torch.random.get_rng_state())


def refreshes(stagger: bool, steps: int) -> list[list[int]]:
    """Of each projected parameter, the steps at which its subspace changed."""
    net = network()
    optimizer = GaLore(net.parameters(), 1e-3, rank=2, refresh_every=4, stagger=stagger)
    changed: dict[Tensor, list[int]] = {}
    for step in range(steps):
        before = {p: s["projection"] for p, s in optimizer.state.items() if "projection" in s}
        train(net, optimizer, range(step, step + 1))
        for p, state in optimizer.state.items():
            if "projection" in state and state["projection"] is not before.get(p):
                changed.setdefault(p, []).append(step)
    return list(changed.values())


def test_refreshes_come_together_or_staggered() -> None:
    assert refreshes(False, 10) == [[0, 4, 8]] * 5
    staggered = refreshes(True, 14)
    assert all(steps[0] == 0 for steps in staggered)
    assert all(b - a == 4 for steps in staggered for a, b in pairwise(steps[1:]))
    assert len({steps[1] % 4 for steps in staggered}) > 2


@pytest.mark.parametrize(
    ("inner", "betas"), [("adamw", (0.9, 0.999)), ("adafactor", (0.9, 0.999)), ("adafactor", (0.0, 0.999))]
)
@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (16, 5, 3, 3)])
def test_state_bytes_are_the_formulas(shape: tuple[int, ...], inner: Any, betas: tuple[float, float]) -> None:
    weight, r = nn.Parameter(torch.randn(shape)), 4
    m, n = sorted((shape[0], weight.numel() // shape[0]))
    optimizer = GaLore([weight], rank=r, inner=inner, betas=betas)
    assert state_bytes(optimizer) == 0
    weight.grad = torch.randn(shape)
    optimizer.step()
    moments = 2 * n * r if inner == "adamw" else r + n + (n * r if betas[0] else 0)
    assert state_bytes(optimizer) == 4 * (m * r + moments + 2), "and the two counts of steps"


def test_state_bytes_count_any_optimizers() -> None:
    weight = nn.Parameter(torch.ones(3, 5))
    weight.grad = torch.ones(3, 5)
    optimizer = torch.optim.AdamW([weight])
    optimizer.step()
    assert state_bytes(optimizer) == 4 * (2 * 15 + 1)


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    "settings",
    [{}, {"subspace": "randomised"}, {"subspace": "exact"}, {"inner": "adafactor"}, {"states": "8bit"}],
    ids=lambda settings: "-".join(settings.values()) or "default",
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loaded_state_goes_on_to_the_same_bits(settings: dict[str, Any], dtype: torch.dtype) -> None:
    if "states" in settings:
        pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    # Large enough for states of 8 bits.
    whole = nn.Sequential(nn.Flatten(), nn.Linear(48, 600), nn.Tanh(), nn.Linear(600, 3)).to(dtype)
    first = copy.deepcopy(whole)
    settings = {"rank": 8, "refresh_every": 3, **settings}
    train(whole, GaLore(whole.parameters(), RATE, **settings), range(9))
    interrupted = GaLore(first.parameters(), RATE, **settings)
    train(first, interrupted, range(4))
    state = through_a_file(interrupted.state_dict())
    resumed = GaLore(first.parameters(), RATE, **settings)
    resumed.load_state_dict(state)
    for before, after in zip(interrupted.state.values(), resumed.state.values(), strict=True):
        assert {n: v.dtype for n, v in before.items()} == {n: v.dtype for n, v in after.items()}
    train(first, resumed, range(4, 9))
    assert_equal(first, whole, rtol=0, atol=0)


@pytest.mark.parametrize("in_backward", ["project", "update"])
def test_in_backward_equals_an_ordinary_step_and_keeps_no_gradient(in_backward: Any) -> None:
    ours, theirs = network(), network()
    settings: dict[str, Any] = {"rank": 4, "refresh_every": 3, "weight_decay": DECAY}
    layerwise = GaLore(ours.parameters(), RATE, in_backward=in_backward, **settings)
    ordinary = GaLore(theirs.parameters(), RATE, **settings)
    for step in range(7):
        loss_of(ours, step).backward()
        kept = [p.grad is not None for p in ours.parameters() if p.ndim > 1 and min(len(p), p[0].numel()) > 4]
        assert len(kept) == 4 and not any(kept)
        layerwise.step()
        layerwise.zero_grad()
        train(theirs, ordinary, range(step, step + 1))
    assert_equal(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("in_backward", ["off", "project", "update"])
def test_accumulation_equals_one_big_batch(in_backward: Any) -> None:
    """While the subspace stays, that is: a refresh sees the first gradient alone, so it falls in a step before."""
    ours, theirs = network(), network()
    settings: dict[str, Any] = {"rank": 4, "refresh_every": 100}
    parts = GaLore(ours.parameters(), RATE, in_backward=in_backward, accumulate=2, **settings)
    whole = GaLore(theirs.parameters(), RATE, **settings)
    for step in range(4):
        # The first step's two halves are alike, so that both sides find one subspace.
        halves = [slice(4), slice(4)] if step == 0 else [slice(4), slice(4, None)]
        for half in halves:
            (loss_of(ours, step, half) / 2).backward()
        parts.step()
        parts.zero_grad()
        whole.zero_grad()
        loss_of(theirs, step, slice(4) if step == 0 else slice(None)).backward()
        whole.step()
    assert_equal(ours, theirs, rtol=1e-4, atol=1e-5)


def test_clipping_in_the_backward_pass_is_by_the_whole_gradients_norm() -> None:
    ours, theirs = network(), network()
    settings: dict[str, Any] = {"rank": 2, "betas": (0.0, 0.999), "eps": 1.0}
    layerwise = GaLore(ours.parameters(), RATE, in_backward="project", **settings)
    ordinary = GaLore(theirs.parameters(), RATE, **settings)
    loss_of(ours, 0).backward()
    loss_of(theirs, 0).backward()
    norm = layerwise.clip_grad_norm_(0.1)
    expected = nn.utils.clip_grad_norm_(theirs.parameters(), 0.1)
    assert float(norm) == pytest.approx(float(expected), rel=1e-5) and float(norm) > 0.1
    layerwise.step()
    ordinary.step()
    assert_equal(ours, theirs, rtol=1e-5, atol=1e-7)


def test_clipping_comes_too_late_for_updates_in_the_backward_pass() -> None:
    optimizer = GaLore(network().parameters(), in_backward="update")
    with pytest.raises(MethodError, match=r"norm of the whole gradient is known after.*in_backward='project'"):
        optimizer.clip_grad_norm_(1.0)


def test_a_network_outlives_its_optimizer() -> None:
    net = network()
    optimizer = GaLore(net.parameters(), rank=4, in_backward="update")
    del optimizer
    before = net[2].weight.clone()
    loss_of(net, 0).backward()
    assert net[2].weight.grad is not None and torch.equal(before, net[2].weight)


@pytest.mark.parametrize("name", SUBSPACE_NAMES)
def test_zero_gradients_change_nothing_and_the_first_other_one_gives_the_subspace(name: Any) -> None:
    weight = nn.Parameter(torch.ones(8, 12))
    optimizer = GaLore([weight], 0.1, rank=2, scale=1.0, subspace=name)
    for _ in range(2):
        weight.grad = torch.zeros(8, 12)
        optimizer.step()
    assert torch.equal(weight, torch.ones(8, 12))
    weight.grad = torch.outer(torch.arange(8.0), torch.ones(12))
    optimizer.step()
    basis = optimizer.state[weight]["projection"]
    torch.testing.assert_close(basis @ (basis.T @ weight.grad), weight.grad)
    assert not torch.equal(weight, torch.ones(8, 12))


@pytest.mark.parametrize("at", [0, 2], ids=["refresh", "between"])
@pytest.mark.parametrize("named", [True, False])
def test_a_gradient_that_is_no_number_is_named_and_nothing_changes(at: int, named: bool) -> None:
    net = network()
    parameters: Any = net.named_parameters() if named else net.parameters()
    optimizer = GaLore(parameters, rank=4)
    train(net, optimizer, range(at))
    before = [p.detach().clone() for p in net.parameters()]
    optimizer.zero_grad()
    loss_of(net, 0).backward()
    assert net[4].weight.grad is not None
    net[4].weight.grad[3, 5] = math.nan
    called = "'4.weight'" if named else r"parameter 4, shape \(16, 16\),"
    with pytest.raises(TrainingError, match=rf"gradient of {called} holds NaN or infinity at step {at + 1}; expected"):
        optimizer.step()
    for p, q in zip(net.parameters(), before, strict=True):
        assert torch.equal(p, q)


def test_sparse_gradients_are_refused() -> None:
    table = nn.Embedding(10, 8, sparse=True)
    optimizer = GaLore(table.parameters(), rank=2)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(TrainingError, match=r"is sparse, expected a dense one. Make the embedding with sparse=False"):
        optimizer.step()


def test_channels_last_weights_take_the_same_steps() -> None:
    ours, theirs = network(), network()
    ours.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    assert not ours[0].weight.is_contiguous()
    for net in (ours, theirs):
        train(net, GaLore(net.parameters(), RATE, rank=4, weight_decay=DECAY), range(4))
    assert_equal(ours, theirs, rtol=1e-4, atol=1e-5)


def test_states_of_8_bits_are_small_and_train_alike() -> None:
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    sides = [nn.Parameter(torch.zeros(64, 640)) for _ in range(2)]
    target = torch.randn(64, 8) @ torch.randn(8, 640)
    optimizers = [GaLore([w], 0.5, rank=8, scale=1.0, states=s) for w, s in zip(sides, ("8bit", "32bit"), strict=True)]
    for _ in range(30):
        for weight, optimizer in zip(sides, optimizers, strict=True):
            weight.grad = weight.detach() - target
            optimizer.step()
    numbers, scales = 2 * 8 * 640, 2 * 8 * 640 // 256
    assert state_bytes(optimizers[0]) == numbers + 4 * (scales + 64 * 8 + 2)
    eight, full = ((w - target).detach().norm() for w in sides)
    assert float(full) < 0.7 * float(target.norm())
    assert float(eight) == pytest.approx(float(full), rel=0.05)


def test_8_bits_without_the_library_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MethodError, match=r"bitsandbytes, which cannot be imported.*pip install 'bequest\[eightbit\]'"):
        GaLore(network().parameters(), states="8bit")


def test_8_bits_on_a_device_without_them() -> None:
    pytest.importorskip("bitsandbytes")
    with pytest.raises(MethodError, match=r"asked for on 'meta', expected cpu, cuda or xpu"):
        GaLore([nn.Parameter(torch.ones(3, 3, device="meta"))], states="8bit")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"lr": -1.0}, "lr is -1.0, expected 0 or more"),
        ({"rank": 0}, "rank is 0, expected 1 or more, or None"),
        ({"scale": 0.0}, "scale is 0.0, expected above 0"),
        ({"refresh_every": 0}, "refresh_every is 0, expected 1 or more"),
        ({"betas": (1.0, 0.9)}, r"betas is \(1.0, 0.9\), expected two numbers from 0 to below 1"),
        ({"eps": 0.0}, "eps is 0.0, expected above 0"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1, expected 0 or more"),
        ({"subspace": "svd"}, "subspace is 'svd', expected warm or randomised or exact"),
        ({"inner": "sgd"}, "inner is 'sgd', expected adamw or adafactor"),
        ({"states": "4bit"}, "states is '4bit', expected 32bit or 8bit"),
        ({"convention": "theirs"}, "convention is 'theirs', expected paper or galore-torch"),
        ({"in_backward": True}, "in_backward is True, expected off or project or update"),
        ({"accumulate": 0}, "accumulate is 0, expected 1 or more"),
        ({"inner": "adafactor", "states": "8bit"}, "states is '8bit' with inner 'adafactor'"),
        ({"rank": 0, "scale": -1.0}, "rank is 0, .*; scale is -1.0"),
    ],
)
def test_options_out_of_range(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(MethodError, match=text):
        GaLore(network().parameters(), **settings)


def test_it_is_public() -> None:
    import bequest

    assert bequest.GaLore is GaLore


def test_closures_are_called_with_gradients() -> None:
    net = network()
    optimizer = GaLore(net.parameters(), RATE, rank=4)

    def closure() -> float:
        optimizer.zero_grad()
        loss = loss_of(net, 0)
        loss.backward()
        return float(loss.detach())

    first, second = optimizer.step(closure), optimizer.step(closure)
    assert second < first
