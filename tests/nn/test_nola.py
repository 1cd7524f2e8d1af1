"""NOLA's body against its equation, and against a file of an earlier run.

`PYTHONPATH=src python tests/nn/test_nola.py` writes the file again, which no change of the code should ask for: files
of users would no longer mean what they meant.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bequest.nn.lowrank import targets
from bequest.nn.network import set_modes
from bequest.nn.nola import Nola, make_basis, uniform

GOLDEN = Path(__file__).parent / "golden" / "nola.safetensors"


def body() -> nn.Sequential:
    """Linear layers of two shapes and a convolution; the weights are the same on every machine."""
    made = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.Flatten(), nn.Linear(96, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 40)
    )
    with torch.no_grad():
        for name, p in made.named_parameters():
            p.copy_(uniform(tuple(p.shape), name) / math.sqrt(p[0].numel()))
    return made.requires_grad_(False)


def wrapped(seed: int = 5, num_basis: int = 16) -> Nola:
    plain = body()
    return Nola(plain, targets(plain), rank=4, alpha=8.0, num_basis=num_basis, seed=seed)


def filled(network: Nola, scale: float = 0.5) -> Nola:
    with torch.no_grad():
        for name, p in network.named_parameters():
            if p.requires_grad:
                p.copy_(scale * uniform(tuple(p.shape), f"filled {name}"))
    return network


def images(count: int = 4) -> torch.Tensor:
    return uniform((count, 3, 6, 6), "images")


def by_hand(network: Nola, num_basis: int = 16) -> dict[str, torch.Tensor]:
    """Every weight by the equation, layer by layer."""
    found: dict[str, torch.Tensor] = {}
    for name in network.names:
        layer: Any = network.body.get_submodule(name)
        factors: dict[str, torch.Tensor] = {}
        for factor, coefficients in (("A", layer.alpha), ("B", layer.beta)):
            start = getattr(layer, factor)
            basis = make_basis(factor, tuple(start.shape), num_basis, 5)
            total = start.double()
            for c, matrix in zip(coefficients, basis, strict=True):
                total = total + c.double() * matrix.double().view(start.shape)
            factors[factor] = total.flatten(1)
        update = 8.0 / 4 * (factors["B"] @ factors["A"])
        found[name] = layer.base.weight.double() + update.view(layer.base.weight.shape)
    return found


def test_the_papers_equation() -> None:
    network = filled(wrapped())
    plain = body().double()
    with torch.no_grad():
        for name, weight in by_hand(network).items():
            plain.get_submodule(name).weight.copy_(weight)
    x = images()
    assert not torch.allclose(network(x), body()(x), atol=0.1)
    torch.testing.assert_close(network(x).double(), plain(x.double()), rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_the_equation() -> None:
    network = filled(wrapped())
    plain, x = body().double(), images().double()
    weights = {f"{name}.weight": weight for name, weight in by_hand(network).items()}
    torch.func.functional_call(plain, weights, (x,)).square().sum().backward()
    expected = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    network(images()).square().sum().backward()
    trained = {name: p.grad for name, p in network.named_parameters() if p.requires_grad}
    assert set(trained) == set(expected) and len(trained) == 8
    for name, gradient in trained.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5, msg=name)


def test_it_starts_as_the_body_and_learns_from_the_first_step() -> None:
    """With α = β = 0 and no A₀ the gradient would vanish; with A at Kaiming's spread B moves at full size."""
    network, x = wrapped(), images()
    assert torch.equal(network(x), body()(x))
    a = network.body.get_submodule("4").A
    assert float(a.std()) == pytest.approx(1 / math.sqrt(3 * 40), rel=0.15)
    network(x).square().sum().backward()
    for name in network.names:
        layer: Any = network.body.get_submodule(name)
        assert layer.beta.grad.abs().sum() > 0 and layer.alpha.grad.abs().sum() == 0
    with torch.no_grad():
        for p in network.parameters():
            p -= 0 if p.grad is None else 0.1 * p.grad
    network.zero_grad()
    network(x).square().sum().backward()
    assert all(network.body.get_submodule(name).alpha.grad.abs().sum() > 0 for name in network.names)


def test_merging_changes_nothing_and_leaves_the_plain_body() -> None:
    network, x = filled(wrapped()), images()
    expected = network(x)
    merged = network.merged()
    assert set(merged.state_dict()) == set(body().state_dict())
    torch.testing.assert_close(merged(x), expected, rtol=1e-5, atol=1e-5)


def test_coefficients_are_all_that_is_trained_and_bases_are_in_no_state() -> None:
    network = wrapped()
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert trained == {f"body.{name}.{kind}" for name in network.names for kind in ("alpha", "beta")}
    assert not [name for name in network.state_dict() if "basis" in name]


def test_one_matrix_product_a_shape() -> None:
    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            calls[function.overloadpacket.__name__] += 1
            return function(*args, **(kwargs or {}))

    calls: Counter[str] = Counter()
    network = wrapped()
    with Counting():
        network.factors()
    assert len(network.names) == 4
    assert calls["mm"] == len(network.shapes("A")) + len(network.shapes("B")) == 3 + 2


def test_layers_of_a_shape_share_a_basis_and_narrow_ones_have_fewer_coefficients() -> None:
    network = wrapped(num_basis=16)
    assert network.shapes("A") == {(4, 3, 3, 3): ["0"], (4, 96): ["2"], (4, 40): ["4", "6"]}
    assert network.body[0].alpha.shape == (4 * 27 // 8,)
    assert network.body[0].beta.shape == (6 * 4 // 8,)
    assert network.body[2].alpha.shape == (16,)
    assert wrapped(num_basis=1000).body[4].alpha.shape == (4 * 40 // 8,)


def test_a_basis_depends_on_its_seed_and_shape_alone_and_touches_no_generator() -> None:
    plain = body()
    ours, theirs = torch.get_rng_state(), np.random.get_state()[1].copy()
    one = Nola(plain, targets(plain), rank=4, alpha=8.0, num_basis=16, seed=5)
    assert torch.equal(torch.get_rng_state(), ours) and (np.random.get_state()[1] == theirs).all()
    alone = nn.Sequential(nn.Linear(40, 7))
    torch.manual_seed(123)
    other = Nola(alone, ("0",), rank=4, alpha=1.0, num_basis=16, seed=5)
    assert torch.equal(one.basis_A_4x40, other.basis_A_4x40)
    assert torch.equal(one.basis_A_4x40, make_basis("A", (4, 40), 16, 5))
    assert not torch.equal(one.basis_A_4x40, wrapped(seed=6).basis_A_4x40)
    assert not torch.equal(make_basis("A", (4, 4), 2, 0), make_basis("B", (4, 4), 2, 0))
    again = wrapped()
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), again.parameters(), strict=True))


def test_numbers_are_uniform_and_exact() -> None:
    values = uniform((200, 500), "some key")
    assert values.dtype == torch.float32 and float(values.min()) >= -1 and float(values.max()) < 1
    assert float(values.mean()) == pytest.approx(0, abs=0.01)
    assert float(values.std()) == pytest.approx(1 / math.sqrt(3), rel=0.01)
    assert torch.equal(values * 2**23, (values * 2**23).round()), "multiples of 2^-23"
    histogram = torch.histc(values, 20, -1, 1)
    assert float((histogram / 5000 - 1).abs().max()) < 0.06


def test_it_can_be_exported_for_any_number_of_samples() -> None:
    network = filled(wrapped())
    set_modes(network)
    dynamic = torch.export.Dim.DYNAMIC
    exported = torch.export.export(network, (images(3),), dynamic_shapes=(({0: dynamic},),), strict=False)
    torch.testing.assert_close(exported.module()(images(5)), network(images(5)))
    assert {name for name, _ in exported.named_parameters()} == {name for name, _ in network.named_parameters()}


def test_modes_follow_the_layers_that_are_trained() -> None:
    plain = nn.Sequential(nn.BatchNorm1d(8), nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)))
    network = Nola(plain.requires_grad_(False), ("1.0",), rank=2, alpha=1.0, num_basis=4)
    set_modes(network)
    assert network.body[1][1].training and not network.body[0].training


def test_a_copy_is_a_network_of_its_own() -> None:
    network = filled(wrapped())
    other = filled(copy.deepcopy(network), 1.0)
    assert not torch.allclose(network(images()), other(images()))
    torch.testing.assert_close(network(images()), filled(wrapped())(images()), rtol=0, atol=0)


def digests(network: Nola) -> dict[str, str]:
    named = [*network.named_buffers(), *((n, p) for n, p in network.named_parameters() if n.endswith(".A"))]
    return {name: hashlib.sha256(t.detach().contiguous().numpy().tobytes()).hexdigest() for name, t in named}


def test_a_file_of_coefficients_is_the_model_on_every_machine() -> None:
    """Frozen matrices to the bit, outputs to 1e-6."""
    stored = load_file(GOLDEN)
    with safe_open(GOLDEN, "pt") as file:
        expected_digests = file.metadata()
    outputs = stored.pop("outputs")
    assert sum(t.numel() for t in stored.values()) * 4 < 1024
    network = wrapped()
    assert digests(network) == expected_digests
    missing = network.load_state_dict(stored, strict=False)
    assert not missing.unexpected_keys
    torch.testing.assert_close(network(images()), outputs, rtol=0, atol=1e-6)
    torch.testing.assert_close(network.merged()(images()), outputs, rtol=0, atol=1e-6)


if __name__ == "__main__":
    golden = filled(wrapped(), 0.2)
    content = {name: p.detach() for name, p in golden.named_parameters() if p.requires_grad}
    GOLDEN.parent.mkdir(exist_ok=True)
    save_file({**content, "outputs": golden(images()).detach()}, GOLDEN, digests(golden))
