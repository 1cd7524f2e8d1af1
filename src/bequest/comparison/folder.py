"""A run's folder: its settings, its trials, and what came of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from bequest.core.errors import RunError
from bequest.core.results import Leaderboard, TrialRecord, atomic_open, read_json, write_json

RUN_FILE, BOARD_FILE, REPORT_FILE, BEST = "run.json", "leaderboard.json", "report.html", "best"
_RECORD, _TRAINED = "record.json", "trained.safetensors"


def digest(identity: dict[str, Any]) -> str:
    """Short hex digest of plain data."""
    return hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=8).hexdigest()


class RunFolder:
    """Reads and writes a run's folder; every file appears whole or not at all.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def claim(self, settings: dict[str, Any], identity: dict[str, Any]) -> None:
        """Make the folder this run's, or go on with it if it already is.

        Args:
            settings: What the run was asked to do; kept for `bequest replay`.
            identity: What must agree for trials to be comparable (task, source, sizes, precision).

        Raises:
            RunError: The folder belongs to another task, source or protocol, holds foreign files, or cannot be
                written.
        """
        file = self.path / RUN_FILE
        if file.is_file():
            earlier = read_json(file).get("identity", {})
            differing = [k for k in identity if earlier.get(k) != identity[k]]
            if differing:
                told = "; ".join(f"{k}: {earlier.get(k)} there, {identity[k]} now" for k in differing)
                raise RunError(
                    f"{self.path} holds another run ({told}); expected the same task, source and protocol, or an empty "
                    "folder. Choose another --out, or remove the folder."
                )
        elif self.path.is_dir() and any(self.path.iterdir()):
            raise RunError(
                f"{self.path} is not empty and holds no run of bequest; expected a new or empty folder. Choose another "
                "--out."
            )
        write_json(file, {"identity": identity, "settings": settings})

    def trial(self, method: str, seed: int) -> Path:
        """Folder of one trial."""
        return self.path / "trials" / method / f"seed{seed}"

    def finished(self, method: str, seed: int, identity: str) -> TrialRecord | None:
        """The record of a trial that ended well, if it is of this identity."""
        folder = self.trial(method, seed)
        if not (folder / _RECORD).is_file() or not (folder / _TRAINED).is_file():
            return None
        content = read_json(folder / _RECORD)
        if content.get("identity") != identity:
            return None
        try:
            return TrialRecord.from_json(content["record"])
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"{folder / _RECORD} was changed by hand or is damaged ({error}); expected what bequest wrote. Remove "
                f"{folder} and run again: only this trial is repeated."
            ) from error

    def finish(self, record: TrialRecord, identity: str, trained: dict[str, Tensor], head: dict[str, Any]) -> None:
        """Keep a trial's outcome; its checkpoints are no longer needed."""
        folder = self.trial(record.method, record.seed)
        with atomic_open(folder / _TRAINED) as file:
            file.write(save({k: v.contiguous() for k, v in trained.items()}, {"head": json.dumps(head)}))
        # The record comes last: a trial without one is not finished.
        write_json(folder / _RECORD, {"identity": identity, "record": asdict(record), "head": head})
        for file in folder.glob("*.ckpt"):
            file.unlink()

    def trained(self, method: str, seed: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a trial trained, and its head's description."""
        folder = self.trial(method, seed)
        return load_file(folder / _TRAINED), read_json(folder / _RECORD)["head"]

    def write_board(self, board: Leaderboard) -> None:
        """Write the leaderboard."""
        write_json(self.path / BOARD_FILE, board.to_json())

    @property
    def settings(self) -> dict[str, Any]:
        """What the run was asked to do."""
        return read_json(self.path / RUN_FILE)["settings"]

    def board(self) -> Leaderboard:
        """The leaderboard so far."""
        return Leaderboard.from_json(read_json(self.path / BOARD_FILE))
