"""In which precision networks run."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from torch import nn

from bequest.engine import runtime
from bequest.engine.runtime import choose_runtime


@pytest.fixture
def with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_bfloat16_in_hardware", lambda: True)


def trains_in(chosen: Any, network: nn.Module) -> torch.dtype:
    layer = nn.Linear(2, 2)
    with chosen.training(network)():
        return layer(torch.ones(1, 2)).dtype


@pytest.mark.parametrize(("source", "expected"), [("text_source", torch.bfloat16), ("image_source", torch.float32)])
def test_left_to_itself_training_is_in_what_the_hardware_multiplies_fast(
    source: str, expected: torch.dtype, with_bfloat16: None
) -> None:
    chosen, network = choose_runtime(), getattr(tiny, source)().pretrained()
    assert chosen.frozen == "bfloat16" and trains_in(chosen, network) == expected
    assert chosen.describe()["training_precision"] == "bfloat16, of convolutions float32"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_asked_for_holds_for_all_networks(precision: Any, with_bfloat16: None) -> None:
    chosen = choose_runtime(precision)
    for network in (tiny.text_source().pretrained(), tiny.image_source().pretrained()):
        assert str(trains_in(chosen, network)) == f"torch.{precision}"
    assert chosen.describe()["training_precision"] == precision


def test_without_the_hardware_all_is_float32() -> None:
    chosen = choose_runtime()
    assert (chosen.frozen, chosen.trained) == ("float32", "float32")
    assert trains_in(chosen, tiny.text_source().pretrained()) == torch.float32
