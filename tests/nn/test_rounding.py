from __future__ import annotations

import pytest
import torch

from bequest.nn.rounding import BITS, Rounded

SHAPES = {"a": (3, 5), "b": (7,), "zeros": (4,)}


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"a": torch.randn(3, 5), "b": 100 * torch.randn(7), "zeros": torch.zeros(4), "head": torch.randn(2, 2)}


@pytest.mark.parametrize("bits", BITS)
def test_every_number_is_within_half_a_step(bits: int) -> None:
    given, coding = tensors(), Rounded(SHAPES, bits)
    found = coding.decode(coding.encode(given))
    assert set(found) == set(given)
    for name in SHAPES:
        step = float(given[name].abs().max()) / (2 ** (bits - 1) - 1)
        assert found[name].shape == given[name].shape
        assert float((found[name] - given[name]).abs().max()) <= step / 2 * 1.0001
        assert float(found[name].abs().max()) == pytest.approx(float(given[name].abs().max()))
    assert torch.equal(found["head"], given["head"]), "what is not named stays as it is"


@pytest.mark.parametrize(("bits", "num_bytes"), [(8, 26), (4, 13)])
def test_numbers_take_that_many_bits(bits: int, num_bytes: int) -> None:
    stored = Rounded(SHAPES, bits).encode(tensors())
    assert set(stored) == {"rounded.values", "rounded.steps", "head"}
    assert stored["rounded.values"].numel() * stored["rounded.values"].element_size() == num_bytes
    assert stored["rounded.steps"].shape == (3,)


def test_an_odd_number_of_half_bytes() -> None:
    coding = Rounded({"x": (3,)}, 4)
    stored = coding.encode({"x": torch.tensor([7.0, -7.0, 1.0])})
    assert stored["rounded.values"].dtype == torch.uint8 and len(stored["rounded.values"]) == 2
    assert torch.equal(coding.decode(stored)["x"], torch.tensor([7.0, -7.0, 1.0]))
