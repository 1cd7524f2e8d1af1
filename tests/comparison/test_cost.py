"""Costs are measured: memory of what is held, operations as they can be counted by hand, times that are in order."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bequest.comparison.cost import PeakMemory, forward_flops, measure_inference

MB = 10**6


def test_memory_that_is_taken_and_freed_is_seen() -> None:
    with PeakMemory() as memory:
        held = np.ones(80 * MB // 8)
        time.sleep(0.05)
        del held
        time.sleep(0.05)
    assert 70 * MB < memory.added_bytes < 200 * MB
    assert memory.bytes == memory.start_bytes + memory.added_bytes
    assert memory.accelerator_bytes == 0


def test_what_was_taken_before_does_not_count() -> None:
    before = np.ones(80 * MB // 8)
    with PeakMemory() as memory:
        time.sleep(0.05)
    assert memory.added_bytes < 40 * MB
    assert len(before)


class Attends(nn.Module):
    """One head of attention over 5 tokens of width 4, by the fused operation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = x[:, None]
        return nn.functional.scaled_dot_product_attention(heads, heads, heads)[:, 0].mean(1)


@pytest.mark.parametrize(
    ("module", "shape", "expected"),
    [
        (nn.Linear(6, 4), (6,), 2 * 6 * 4),
        (nn.Conv2d(3, 8, 3), (3, 12, 12), 2 * 100 * 8 * 27),
        (Attends(), (5, 4), 2 * 2 * 5 * 5 * 4),
        # Query, key, value and output of the attention, its two products, and two linear layers.
        (
            nn.TransformerEncoderLayer(4, 1, 8, batch_first=True),
            (5, 4),
            2 * 5 * 4 * 16 + 2 * 2 * 5 * 5 * 4 + 2 * 2 * 5 * 4 * 8,
        ),
    ],
    ids=["linear", "convolution", "attention", "layer"],
)
def test_operations_are_those_that_can_be_counted_by_hand(
    context_of: Any, module: nn.Module, shape: tuple[int, ...], expected: int
) -> None:
    before = torch.backends.mha.get_fastpath_enabled()
    item = np.ones(shape, np.float32)
    assert forward_flops(context_of("image"), module.eval().requires_grad_(False), [item]) == expected
    assert torch.backends.mha.get_fastpath_enabled() == before


@pytest.mark.parametrize("kind", ["image", "text"])
def test_what_a_prediction_takes(context_of: Any, kind: str) -> None:
    context = context_of(kind)
    found = measure_inference(context, context.source.pretrained(), np.arange(40))
    assert 0 < found.latency_p50_ms <= found.latency_p95_ms
    assert found.per_s > 0 and found.forward_flops > 0
