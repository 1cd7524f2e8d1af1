"""One comparison in several processes: the main one leads, and trials are carried out by all of them.

Only the main process knows the run's folder: it decides which trials run, keeps what comes of them and measures. The
others wait for a trial to begin, take part in it, and wait for the next one.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from bequest.core.errors import BequestError, MethodError, RunError, TrainingError
from bequest.core.plan import Method
from bequest.core.processes import launched
from bequest.core.results import Leaderboard
from bequest.core.task import Draw
from bequest.engine.context import Context
from bequest.engine.memory import enough_memory
from bequest.engine.ranks import LostProcess, Ranks, is_shared
from bequest.engine.run import Outcome, run
from bequest.engine.runtime import choose_runtime

ENDS_A_TRIAL = (TrainingError, MethodError, MemoryError)
"""What a trial may end with while the comparison goes on."""

_have_met = False


@dataclass(frozen=True)
class Part:
    """What all processes carry out together: training on one draw.

    Attributes:
        row: Whose.
        method: The method.
        draw: Which samples are seen, and tested on.
        seed: Redraws initialisation and order.
        tested: Whether the draw's test part is predicted.
    """

    row: str
    method: Method
    draw: Draw
    seed: int
    tested: bool = True


class ContextOf(Protocol):
    """From a row, a draw and whether the draw's test part is used to what the method sees."""

    def __call__(self, name: str, draw: Draw, *, tested: bool = True) -> Context:
        """The context."""
        ...


@dataclass
class Team:
    """The processes of a comparison.

    Attributes:
        ranks: All of them.
    """

    ranks: Ranks = field(default_factory=Ranks)
    _apart: bool = False

    def meet(self, fingerprints: Mapping[str, str]) -> None:
        """Before a comparison begins: what went wrong in any process until here is raised in all.

        Args:
            fingerprints: Of what must be the same in all of them; one on another machine may have read other files.

        Raises:
            RunError: They are not.
        """
        global _have_met
        _have_met = True
        self.ranks.exchange(None)
        expected = self.ranks.from_main(lambda: dict(fingerprints))
        differing = [name for name, found in fingerprints.items() if expected[name] != found]
        self.ranks.exchange(_differs(differing) if differing else None)

    def run(self, context: Context, part: Part, folder: Path | None = None, identity: Any = None) -> Outcome:
        """In the main process: carry out a part, all together; its errors are those of `engine.run`.

        Args:
            context: What the method sees.
            part: What to do.
            folder: Where checkpoints lie; None keeps none.
            identity: What the trial is, so that a checkpoint of another is not taken for its own.

        Raises:
            MemoryError: Memory did not suffice, in all processes or this only one.
            RunError: It did not in this process, while the others wait for it.
        """
        self.ranks.from_main(lambda: part)
        try:
            return self._run(context, part, folder, identity)
        except BaseException as error:
            self._apart = not (self.ranks.alone or _is_everywhere(error))
            if self._apart and isinstance(error, MemoryError):
                raise RunError(
                    f"{error} The other processes are in the midst of the trial, so that the run ends here; the same "
                    "command goes on where it was."
                ) from error
            raise

    def lead(self, carry_out: Callable[[], Leaderboard]) -> Leaderboard:
        """In the main process: what `carry_out` returns; the others hear when it ends, and how."""
        try:
            board = carry_out()
        except BaseException as error:
            # In the middle of a trial the others wait for something else, and find that this process is gone.
            if not self._apart:
                told = error if isinstance(error, Exception) else RunError("The main process was stopped.")
                with suppress(Exception):
                    self.ranks.from_main(partial(_raise, told))
            raise
        return self.ranks.from_main(lambda: board)

    def _run(self, context: Context, part: Part, folder: Path | None = None, identity: Any = None) -> Outcome:
        together = replace(context, ranks=self.ranks)
        about: dict[str, Any] = {"seed": part.seed, "folder": folder, "identity": identity, "tested": part.tested}
        with enough_memory():
            return run(together, part.method, part.draw, **about)

    def follow(self, context_of: ContextOf) -> Leaderboard:
        """In any other process: take part in all trials, until the main one has the leaderboard.

        Args:
            context_of: What a row's method sees on a draw.

        Raises:
            BequestError: What ended the comparison in the main process.
        """
        while True:
            told: Any = self.ranks.from_main(lambda: None)
            if isinstance(told, Leaderboard):
                return told
            try:
                self._run(context_of(told.row, told.draw, tested=told.tested), told)
            except Exception as error:
                if not _is_everywhere(error):
                    raise


def to_tell(error: BequestError) -> BequestError | None:
    """What this one of several processes is to say of the error that ends it: what all have, the main one says.

    Where the comparison has not begun, the others are waiting to hear that everything is well.
    """
    if not _have_met:
        try:
            choose_runtime("float32").ranks.exchange(error)
        except BequestError as raised:
            error = error if isinstance(raised, LostProcess) else raised
    silent = is_shared(error) or isinstance(error, LostProcess)
    return None if silent and not launched().is_main else error


def _is_everywhere(error: BaseException) -> bool:
    """Whether all processes come to the same error, so that none of them is left alone in the trial."""
    return isinstance(error, TrainingError | MethodError) or is_shared(error)


def _differs(names: Sequence[str]) -> RunError:
    return RunError(
        f"The {' and the '.join(names)} that the processes of this run have read differ, those on {platform.node()} "
        "from those of the main one; expected the same files on every machine. Copy them there."
    )


def _raise(error: Exception) -> None:
    raise error
