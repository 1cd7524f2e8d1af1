"""A run's folder: its settings, its trials, and what came of them."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from bequest.core.digests import digest_of, hasher
from bequest.core.errors import RunError
from bequest.core.examples import Examples
from bequest.core.parse import parse_json
from bequest.core.results import Leaderboard, TrialRecord, atomic_open, is_temporary, read_json, write_json
from bequest.core.task import IntArray
from bequest.engine.context import PASSES_FILE
from bequest.engine.run import LAST_GOOD

RUN_FILE, BOARD_FILE, REPORT_FILE, BEST = "run.json", "leaderboard.json", "report.html", "best"
_NAME = r"\w[^/\\\0]*"
EXAMPLES_FILE = "examples.json"
SIZES = "sizes"
"""In a run's folder, where the same comparison lies at smaller numbers of labels, a folder each."""
_RECORD, _LOCK = "record.json", ".lock"
_TRAINED, _TESTED = "trained.safetensors", "test_outputs.safetensors"
_DIGESTS = {_TRAINED: "weights", _TESTED: "test_outputs"}
"""Under which name a trial's record keeps the digest of each file beside it."""
_KEPT = (*_DIGESTS, LAST_GOOD, _RECORD)
"""What stays of a trial, the record last: a trial without one is not finished."""


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

    @contextmanager
    def claimed(self, settings: dict[str, Any], identity: dict[str, Any]) -> Generator[None]:
        """Make the folder this run's, or go on with it if it is; while the context is open no other process may.

        Args:
            settings: What the run was asked to do; kept for `bequest replay`.
            identity: What must agree for trials to be comparable (task, source, sizes, precision).

        Raises:
            RunError: The folder belongs to another task, source or protocol, holds foreign files, or another process is
                at work in it.
        """
        if not (self.path / RUN_FILE).is_file() and self._foreign_files():
            raise RunError(
                f"{self.path} is not empty and holds no run of bequest ({RUN_FILE} is missing); expected a new or "
                "empty folder. Choose another --out, or restore the file."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        if (self.path / _LOCK).exists() and not (self.path / _LOCK).is_file():
            raise RunError(f"{self.path / _LOCK} is no file; expected one, or none. Remove it.")
        with (self.path / _LOCK).open("ab") as lock:
            if not locked(lock):
                raise RunError(
                    f"Another process is at work in {self.path}; expected a folder that no run uses now. Wait for it, "
                    "or choose another --out."
                )
            # Of this run alone, as the lock makes sure: what a killed process was writing.
            for file in filter(is_temporary, list(self.path.rglob(".*"))):
                file.unlink()
            self._check_identity(identity)
            _write_sealed(self.path / RUN_FILE, {"identity": identity, "settings": settings})
            yield

    def _foreign_files(self) -> bool:
        if not self.path.is_dir():
            return False
        return any(file.name != _LOCK and not is_temporary(file) for file in self.path.iterdir())

    def _check_identity(self, identity: dict[str, Any]) -> None:
        if not (self.path / RUN_FILE).is_file():
            return
        content = self._run_file()
        earlier, data = content["identity"], (content["settings"].get("data") or {}).get("path")
        differing = [k for k in identity if earlier.get(k) != identity[k]]
        if differing:
            told = "; ".join(f"{k}: {earlier.get(k)} there, {identity[k]} now" for k in differing)
            raise RunError(
                f"{self.path} holds another run{f' of {data}' if data else ''} ({told}); expected the same task, "
                "source and protocol, or an empty folder. Choose another --out, or remove the folder."
            )

    def trial(self, method: str, seed: int) -> Path:
        """Folder of one trial.

        Raises:
            RunError: The method's name, which a file may tell, would lead out of the run's folder.
        """
        if not re.fullmatch(_NAME, method) or not isinstance(seed, int):
            raise RunError(
                f"{self.path} tells of a trial of the method {method!r} at the seed {seed!r}; expected a name of "
                "letters, digits and signs that make no path, and a whole number. Choose another --out, and run again."
            )
        return self.path / "trials" / method / f"seed{seed}"

    def folds(self, method: str, seed: int, count: int | None) -> list[Path]:
        """Where a trial keeps what it needs until it ends, fold by fold of a cross-validation; None for one without."""
        folder = self.trial(method, seed)
        return [folder] if count is None else [folder / f"fold{number}" for number in range(count)]

    def finished(self, method: str, seed: int, identity: str) -> TrialRecord | None:
        """The record of a trial that ended well, if it is of this identity.

        Raises:
            RunError: The trial's files are damaged.
        """
        folder = self.trial(method, seed)
        if not all((folder / name).is_file() for name in (_RECORD, *_DIGESTS)):
            return None
        content = _read_sealed(folder / _RECORD, _again(folder))
        if content["identity"] != identity:
            return None
        for name in _DIGESTS:
            _check_file(folder / name, content)
        self._tidy(folder)
        return TrialRecord.from_json(content["record"])

    def finish(
        self,
        record: TrialRecord,
        identity: str,
        trained: dict[str, Tensor],
        head: dict[str, Any],
        outputs: Tensor,
        indices: IntArray,
    ) -> None:
        """Keep a trial's outcome; its checkpoints are no longer needed.

        Args:
            record: What is told of it.
            identity: What it is a trial of.
            trained: What it trained.
            head: Description of its head.
            outputs: On the test part (samples, outputs).
            indices: The test part's samples, int64 (samples,).
        """
        folder = self.trial(record.method, record.seed)
        tested = {"outputs": outputs.float().contiguous(), "indices": torch.from_numpy(indices).contiguous()}
        files = {
            _TRAINED: save({k: v.contiguous() for k, v in trained.items()}, {"head": json.dumps(head)}),
            _TESTED: save(tested),
        }
        for name, data in files.items():
            with atomic_open(folder / name) as file:
                file.write(data)
        digests = {_DIGESTS[name]: hasher(data).hexdigest() for name, data in files.items()}
        # The record comes last: a trial without one is not finished.
        _write_sealed(folder / _RECORD, {"identity": identity, "record": asdict(record), "head": head, **digests})
        self._tidy(folder)

    def amend(self, record: TrialRecord) -> None:
        """Put a record in the place of a finished trial's.

        Raises:
            RunError: The trial's files are missing or damaged.
        """
        folder = self.trial(record.method, record.seed)
        content = _read_sealed(folder / _RECORD, _again(folder))
        _write_sealed(folder / _RECORD, {**content, "record": asdict(record)})

    def packed(self, method: str, seed: int) -> dict[str, bytes]:
        """The files of a trial that has ended, by name."""
        folder = self.trial(method, seed)
        return {name: (folder / name).read_bytes() for name in _KEPT if (folder / name).is_file()}

    def unpack(self, method: str, seed: int, files: Mapping[str, bytes]) -> None:
        """Write the files of a trial that has ended in another folder, from `packed`."""
        folder = self.trial(method, seed)
        for name in _KEPT:
            if name in files:
                with atomic_open(folder / name) as file:
                    file.write(files[name])
        if _RECORD in files:
            self._tidy(folder)

    def keep_last_good(self, method: str, seed: int, fold: Path) -> Path:
        """Where the best weights of a fold that failed lie from now on, if it has left any: with its trial."""
        kept = self.trial(method, seed) / LAST_GOOD
        if (fold / LAST_GOOD).is_file():
            (fold / LAST_GOOD).replace(kept)
        return kept

    def _tidy(self, folder: Path) -> None:
        """Remove what a trial needed only until it ended."""
        for file in [*folder.glob("*.ckpt"), folder / PASSES_FILE, folder / LAST_GOOD]:
            file.unlink(missing_ok=True)
        for fold in folder.glob("fold*"):
            shutil.rmtree(fold)

    def trained(self, method: str, seed: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a trial trained, and its head's description.

        Raises:
            RunError: The trial's files are missing or damaged.
        """
        content = self._checked(method, seed, _TRAINED)
        return load_file(self.trial(method, seed) / _TRAINED), content["head"]

    def test_outputs(self, method: str, seed: int) -> tuple[Tensor, IntArray]:
        """What a trial's network gave for the test part, and which samples of the task these are.

        Args:
            method: The row's name.
            seed: Of the trial.

        Returns:
            float32 (samples, outputs): logits, values in the targets' units, or of a language model each window's
            negative log-likelihood and the number of tokens that it is of; and int64 (samples,).

        Raises:
            RunError: The trial's files are missing or damaged.
        """
        self._checked(method, seed, _TESTED)
        tested = load_file(self.trial(method, seed) / _TESTED)
        return tested["outputs"], tested["indices"].numpy()

    def _checked(self, method: str, seed: int, name: str) -> dict[str, Any]:
        """What stands in a trial's record, once a file beside it is known to be as it was written."""
        folder = self.trial(method, seed)
        content = _read_sealed(folder / _RECORD, _again(folder))
        _check_file(folder / name, content)
        return content

    def write_board(self, board: Leaderboard) -> None:
        """Write the leaderboard."""
        write_json(self.path / BOARD_FILE, board.to_json())

    def write_examples(self, examples: Examples | None) -> None:
        """Write the samples that a report shows, or see to it that there are none."""
        if examples is None:
            (self.path / EXAMPLES_FILE).unlink(missing_ok=True)
        else:
            write_json(self.path / EXAMPLES_FILE, examples.to_json())

    def examples(self) -> Examples | None:
        """The samples that a report shows; None where the run has none.

        Raises:
            RunError: The file that holds them is damaged.
        """
        file = self.path / EXAMPLES_FILE
        if not file.is_file():
            return None
        content = read_json(file)
        try:
            return Examples.from_json(content)
        except RunError as error:
            raise RunError(f"{file}: {error}") from error

    @property
    def settings(self) -> dict[str, Any]:
        """What the run was asked to do.

        Raises:
            RunError: The file that holds it is missing or damaged.
        """
        return self._run_file()["settings"]

    @property
    def weights(self) -> str:
        """Fingerprint of the source's weights.

        Raises:
            RunError: The file that holds it is missing or damaged.
        """
        found = self._run_file()["identity"].get("weights")
        if not isinstance(found, str):
            file, remedy = self.path / RUN_FILE, "Restore it, or choose another --out and run again."
            raise RunError(_changed(file, "it does not name the source's weights", remedy))
        return found

    def _run_file(self) -> dict[str, Any]:
        file, remedy = self.path / RUN_FILE, "Restore it, or choose another --out and run again."
        content = _read_sealed(file, remedy)
        lacking = [name for name in ("identity", "settings") if not isinstance(content.get(name), dict)]
        if lacking:
            raise RunError(_changed(file, f"it lacks {' and '.join(lacking)}", remedy))
        return content

    def board(self) -> Leaderboard:
        """The leaderboard so far.

        Raises:
            RunError: The file is missing or damaged.
        """
        content = read_json(self.path / BOARD_FILE)
        try:
            return Leaderboard.from_json(content)
        except RunError as error:
            raise RunError(f"{self.path / BOARD_FILE}: {error}") from error


def _write_sealed(file: Path, content: dict[str, Any]) -> None:
    """Write JSON with a digest of itself, so that a change by hand is found."""
    plain = json.loads(json.dumps(content))  # as it will be read: lists for tuples, names for numbers as keys
    write_json(file, {**plain, "digest": digest(plain)})


def _read_sealed(file: Path, remedy: str) -> dict[str, Any]:
    """What `_write_sealed` wrote.

    Raises:
        RunError: The file is missing, or it is not as it was written.
    """
    if not file.is_file():
        raise RunError(f"{file} is missing; expected a file that bequest wrote. Name the folder of a run.")
    try:
        content = parse_json(file.read_text(encoding="utf-8"))
        seal = content.pop("digest")
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise RunError(_changed(file, f"{type(error).__name__}: {error}", remedy)) from error
    if seal != digest(content):
        raise RunError(_changed(file, "its digest does not fit", remedy))
    return content


def _check_file(file: Path, content: dict[str, Any]) -> None:
    if not file.is_file():
        raise RunError(f"{file} is missing; expected what the trial left there. {_again(file.parent)}")
    with file.open("rb") as opened:
        same = content.get(_DIGESTS[file.name]) == digest_of(opened).hex()
    if not same:
        raise RunError(_changed(file, "its bytes are others", _again(file.parent)))


def _again(folder: Path) -> str:
    return f"Remove {folder} and run again: only this trial is repeated."


def _changed(file: Path, reason: str, remedy: str) -> str:
    return f"{file} was changed by hand or is damaged ({reason}); expected what bequest wrote. {remedy}"


def locked(file: IO[bytes]) -> bool:
    """Whether the file is now this process's alone, until it is closed or the process ends however it may."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        # Some network file systems know no locks: there nobody sees to it that two runs keep apart.
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
    return True


def disk_error(error: OSError, out: Path, cache: Path) -> RunError:
    """What to tell of a file that could not be read or written."""
    file = Path(error.filename or out)
    if file.is_relative_to(cache):
        expected, another = f"a cache that can be read and written, with room, in {cache}", "name another: --cache"
    else:
        expected, another = "a folder that can be written, with room for the run", "choose another --out"
    return RunError(
        f"Cannot read or write {file} ({error.strerror or error}); expected {expected}. Check permissions, free space, "
        f"or {another}. Finished trials are kept, and the same command goes on with them."
    )
