"""Checkpoints: what was saved comes back, and of what was damaged nothing does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from faulting import fault

from bequest.core.errors import RunError
from bequest.engine.checkpoint import Checkpoint


class Loop:
    """Has weights that count."""

    def __init__(self, first: float) -> None:
        self.weights = torch.full((1000,), first)

    def state(self) -> dict[str, Any]:
        return {"weights": self.weights}

    def load(self, state: dict[str, Any]) -> None:
        self.weights = state["weights"]


def test_what_was_saved_comes_back_to_the_same_stage_alone(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "a.ckpt", {"stage": 1}, 0.0).save(Loop(3.0))
    loop = Loop(0.0)
    assert not Checkpoint(tmp_path / "a.ckpt", {"stage": 2}, 0.0).restore(loop)
    assert not Checkpoint(tmp_path / "b.ckpt", {"stage": 1}, 0.0).restore(loop)
    assert loop.weights.sum() == 0
    assert Checkpoint(tmp_path / "a.ckpt", {"stage": 1}, 0.0).restore(loop)
    assert loop.weights.sum() == 3000


@fault(
    "one bit of a checkpoint is flipped, anywhere",
    happens="its digest does not fit: the file is named before anything is taken from it",
    outcome="no changed weights are ever trained on; the stage is repeated once the file is removed",
)
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 0.999])
def test_a_flipped_bit_is_found(tmp_path: Path, share: float) -> None:
    file, loop = tmp_path / "a.ckpt", Loop(0.0)
    Checkpoint(file, {}, 0.0).save(Loop(3.0))
    content = bytearray(file.read_bytes())
    content[int(share * len(content))] ^= 1
    file.write_bytes(content)
    with pytest.raises(RunError, match=r"a\.ckpt is damaged \(its digest does not fit\).*Remove it and run again"):
        Checkpoint(file, {}, 0.0).restore(loop)
    assert loop.weights.sum() == 0
