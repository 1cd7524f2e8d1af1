"""Hyperparameters chosen on held-out labels, with the same budget for each method.

A seed of its own draws the labels that settings are tried on; the test part is that of every seed, and no setting sees
it. The first setting of a method is its own defaults, the others come from Optuna's tree-structured Parzen estimator
(Bergstra et al. 2011), whose trials lie in an SQLite file in the run's folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bequest.core.errors import MethodError, RunError, TrainingError, first_line
from bequest.core.registry import Hyperparameter

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, Trial

TUNING_FILE = "tuning.db"

_SCORE, _LOSS, _SECONDS, _ERROR = "score", "loss", "seconds", "error"


@dataclass(frozen=True)
class Budget:
    """What each method may spend; one of the two.

    Attributes:
        trials: Settings to try.
        seconds: Wall time, after which no further setting is begun.
    """

    trials: int | None = None
    seconds: float | None = None

    def describe(self) -> dict[str, Any]:
        """For records."""
        return {"trials": self.trials} if self.trials is not None else {"seconds": self.seconds}

    def is_spent(self, tried: int, seconds: float) -> bool:
        """Whether no further setting may be tried; one always is."""
        if self.trials is not None:
            return tried >= self.trials
        return tried > 0 and seconds >= (self.seconds or 0)


@dataclass(frozen=True)
class Tuned:
    """What tuning a method came to.

    Attributes:
        settings: The hyperparameters that were tuned, as chosen.
        tried: How many settings.
        failed: How many of them gave no result.
        seconds: That this took.
        score: On held-out labels, with the chosen settings; the higher the better.
        default_score: The same with the method's own defaults; None where those gave no result.
    """

    settings: dict[str, Any]
    tried: int
    failed: int
    seconds: float
    score: float | None
    default_score: float | None


Attempt = Callable[[Mapping[str, Any]], tuple[float, float]]
"""From settings to their score on held-out labels, the higher the better, and their loss there."""


@dataclass(frozen=True)
class Attempted:
    """What came of a setting.

    Attributes:
        seconds: That it took.
        score: On held-out labels, the higher the better; None where there is none.
        loss: There.
        error: Why there is no score; None where there is one.
    """

    seconds: float
    score: float | None = None
    loss: float | None = None
    error: str | None = None


def attempted(attempt: Attempt, settings: Mapping[str, Any]) -> Attempted:
    """Try a setting; one that cannot be trained is an outcome too."""
    began = time.perf_counter()
    try:
        score, loss = attempt(settings)
    except (MethodError, TrainingError, MemoryError) as error:
        return Attempted(time.perf_counter() - began, error=str(error) or type(error).__name__)
    return Attempted(time.perf_counter() - began, score, loss)


def ranges(
    hyperparameters: tuple[Hyperparameter, ...], resolved: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, tuple[Hyperparameter, float, float]]:
    """Each hyperparameter that is tuned, with the ends of its range.

    Args:
        hyperparameters: Of the method.
        resolved: Their values where nothing is tuned.
        given: Those that the user chose, which stay.
    """
    found: dict[str, tuple[Hyperparameter, float, float]] = {}
    for h in hyperparameters:
        ends = None if h.search is None or h.name in given else h.search.over(resolved[h.name])
        if ends is not None:
            low, high = ends if h.type is float else (max(1, round(ends[0])), round(ends[1]))
            found[h.name] = (h, low, high)
    return found


def tune(
    folder: Path,
    name: str,
    searched: Mapping[str, tuple[Hyperparameter, float, float]],
    defaults: Mapping[str, Any],
    budget: Budget,
) -> Generator[dict[str, Any], Attempted, Tuned]:
    """Choose settings until the budget is spent, or go on with a search that was stopped.

    Args:
        folder: Of the run.
        name: What the search is of; another name, another search.
        searched: From `ranges`.
        defaults: The first setting.
        budget: What may be spent.

    Yields:
        A setting to be tried; what came of it is sent back.

    Raises:
        MethodError: Optuna is not installed.
        RunError: The file of its trials is damaged, or cannot be written.
    """
    _require_optuna()
    with _undamaged(folder):
        study = _study(folder, name)
        done = _attempts(study)
    distributions = {key: _distribution(*found) for key, found in searched.items()}
    first = {key: defaults[key] for key in searched}
    while not budget.is_spent(len(done), sum(t.user_attrs[_SECONDS] for t in done)):
        with _undamaged(folder):
            trial = _ask(study, distributions, first if not done else None, len(done))
        found = yield dict(trial.params)
        with _undamaged(folder):
            _tell(study, trial, found)
            done = _attempts(study)
    best = max((t for t in done if _SCORE in t.user_attrs), key=_goodness, default=None)
    return Tuned(
        settings=first if best is None else dict(best.params),
        tried=len(done),
        failed=sum(_ERROR in t.user_attrs for t in done),
        seconds=sum(t.user_attrs[_SECONDS] for t in done),
        score=None if best is None else best.user_attrs[_SCORE],
        default_score=done[0].user_attrs.get(_SCORE),
    )


@contextmanager
def _undamaged(folder: Path) -> Iterator[None]:
    """Turns what the database raises into a message for the user."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        reason = first_line(error)
        raise RunError(
            f"{folder / TUNING_FILE} cannot be read or written ({reason}); expected what bequest wrote, and room on "
            "the disk. Restore the file, or remove it and run again: settings are then chosen anew."
        ) from error


def _require_optuna() -> None:
    try:
        import optuna
    except ImportError as error:
        raise MethodError(
            "Tuning needs the package optuna, which is not installed; expected bequest with its extra: "
            "pip install 'bequest[tune]'. Or leave --tune and --budget out."
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _study(folder: Path, name: str) -> Study:
    import optuna

    folder.mkdir(parents=True, exist_ok=True)
    storage = f"sqlite:///{folder / TUNING_FILE}"
    return optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)


def _attempts(study: Study) -> list[FrozenTrial]:
    """Settings that were tried to the end; one that a killed process was at is none, and is tried again."""
    return [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]


def _ask(
    study: Study, distributions: Mapping[str, BaseDistribution], fixed: Mapping[str, Any] | None, number: int
) -> Trial:
    from optuna.samplers import TPESampler
    from optuna.trial import TrialState

    # By what was tried alone, so that a search that was stopped goes on as one that was not.
    study.sampler = TPESampler(seed=number)
    if fixed is not None and not study.get_trials(deepcopy=False, states=[TrialState.WAITING]):
        study.enqueue_trial(dict(fixed))
    return study.ask(dict(distributions))


def _tell(study: Study, trial: Trial, found: Attempted) -> None:
    from optuna.trial import TrialState

    known = {_SCORE: found.score, _LOSS: found.loss, _ERROR: found.error, _SECONDS: found.seconds}
    for key, value in known.items():
        if value is not None:
            trial.set_user_attr(key, value)
    study.tell(trial, found.score, state=TrialState.FAIL if found.score is None else TrialState.COMPLETE)


def _distribution(h: Hyperparameter, low: float, high: float) -> BaseDistribution:
    from optuna.distributions import FloatDistribution, IntDistribution

    assert h.search is not None
    if h.type is int:
        return IntDistribution(int(low), int(high), log=h.search.log)
    return FloatDistribution(low, high, log=h.search.log)


def _goodness(trial: FrozenTrial) -> tuple[float, float]:
    """Of equal scores, of which few held-out labels give many, the one with the lower loss."""
    return trial.user_attrs[_SCORE], -trial.user_attrs[_LOSS]
