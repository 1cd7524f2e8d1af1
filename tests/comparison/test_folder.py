"""`bequest.comparison.folder`: what a trial leaves, here and in another folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bequest.comparison.folder import RunFolder
from bequest.core.results import TrialRecord


def test_a_trial_that_comes_from_another_folder_leaves_nothing_of_its_beginning(tmp_path: Path) -> None:
    """A run that was killed here, and then carried out on Ray."""
    there, here = RunFolder(tmp_path / "there"), RunFolder(tmp_path / "here")
    record = TrialRecord("full", 0, {}, metric="accuracy", higher_is_better=True)
    there.finish(record, "identity", {"w": torch.ones(2)}, {}, torch.zeros(3, 2), np.arange(3))
    folder = here.trial("full", 0)
    (folder / "fold0").mkdir(parents=True)
    for name in ("stage1.ckpt", "passes.json", "last_good.safetensors", "fold0/stage1.ckpt"):
        (folder / name).write_bytes(b"begun")
    here.unpack("full", 0, there.packed("full", 0))
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["record.json", "test_outputs.safetensors", "trained.safetensors"]
    assert here.finished("full", 0, "identity") == record


def test_what_a_failed_trial_left_comes_along(tmp_path: Path) -> None:
    there, here = RunFolder(tmp_path / "there"), RunFolder(tmp_path / "here")
    there.trial("full", 0).mkdir(parents=True)
    (there.trial("full", 0) / "last_good.safetensors").write_bytes(b"weights")
    here.unpack("full", 0, there.packed("full", 0))
    assert (here.trial("full", 0) / "last_good.safetensors").read_bytes() == b"weights"
