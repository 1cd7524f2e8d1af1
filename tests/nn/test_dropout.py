"""Masks from bits: their probabilities, their independence, and who is served."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bequest.nn.dropout import MasksFromBits, cheap_masks, fill

NUMBER = 1 << 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_an_element_is_kept_with_the_probability_asked_for(kept: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    mask = fill(torch.full((NUMBER // 4, 4), 7.0, dtype=dtype), kept)
    assert mask.dtype == dtype and set(mask.unique().tolist()) <= {0.0, 1.0}
    spread = 5 * (kept * (1 - kept) / (NUMBER // 4)) ** 0.5
    # Of each of the four elements that share 64 bits.
    torch.testing.assert_close(mask.double().mean(0), torch.full((4,), kept, dtype=torch.float64), rtol=0, atol=spread)


def test_elements_have_nothing_to_do_with_their_neighbours() -> None:
    torch.manual_seed(1)
    mask = fill(torch.empty(NUMBER), 0.9) - 0.9
    for apart in (1, 2, 3, 4, 5, 64):
        assert abs((mask[apart:] * mask[:-apart]).mean()) < 5 * 0.09 / NUMBER**0.5, apart


@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (0, 4)])
def test_any_shape_is_filled(shape: tuple[int, ...]) -> None:
    assert fill(torch.full(shape, 7.0), 1.0).eq(1).all()


def test_layers_attention_and_graphs_are_served_and_a_seed_gives_the_same() -> None:
    layer, inputs = nn.Dropout(0.25), torch.ones(64, 512)
    query = torch.randn(2, 4, 32, 8)
    graph = torch.export.export(layer, (inputs,), strict=False).module()
    with MasksFromBits():
        for apply in (
            lambda: layer(inputs),
            lambda: graph(inputs),
            lambda: F.scaled_dot_product_attention(query, query, query, dropout_p=0.25),
        ):
            torch.manual_seed(3)
            words = torch.empty(8, dtype=torch.int64).random_()
            torch.manual_seed(3)
            first = apply()
            torch.manual_seed(3)
            assert torch.equal(apply(), first)
            assert not torch.equal(torch.empty(8, dtype=torch.int64).random_(), words), "it draws"
        assert abs(layer(inputs).eq(0).float().mean() - 0.25) < 0.02
        assert layer(inputs).unique().tolist() == pytest.approx([0.0, 4 / 3])


def test_gradients_go_through_what_was_kept() -> None:
    inputs = torch.ones(1000, requires_grad=True)
    with MasksFromBits():
        outputs = F.dropout(inputs, 0.5)
    outputs.sum().backward()
    assert torch.equal(inputs.grad, outputs.detach())


def test_what_is_not_contiguous_is_left_to_pytorch() -> None:
    with MasksFromBits():
        strided = torch.zeros(8, 8)[:, ::2].bernoulli_(1.0)
    assert strided.eq(1).all()


def test_other_devices_draw_their_own() -> None:
    with cheap_masks(torch.device("meta")) as other, cheap_masks(torch.device("cpu")) as own:
        assert other is None and isinstance(own, MasksFromBits)
