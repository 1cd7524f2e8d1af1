"""Errors that say what happened, what was expected and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_MOST_LISTED = 20


class BequestError(Exception):
    """Base of every error that a user's input or machine can cause; its text is meant for the user."""


class DataError(BequestError):
    """The labelled data cannot be used as they are; the text names the file, row or field."""


class SourceError(BequestError):
    """The source model is unknown, not installed, or does not fit the data."""


class MethodError(BequestError):
    """A method or a hyperparameter is unknown, or its value is out of range."""


class RunError(BequestError):
    """A run's folder is missing, broken, or belongs to another task."""


class TrainingError(BequestError):
    """Training cannot go on, e.g. the loss is no longer a number."""


def first_line(error: BaseException) -> str:
    """The first line of what an error of another's says, 500 characters at most; its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), "")[:500] or type(error).__name__


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that lists the names nearest to a misspelt one; where none is near all of them, or the first.

    Args:
        name: What the user wrote.
        known: What exists.
    """
    names = sorted(known)
    close = near(name, names)
    if close:
        return f"Did you mean {' or '.join(map(repr, close))}?"
    more = f" and {len(names) - _MOST_LISTED:,} more" if len(names) > _MOST_LISTED else ""
    return f"There are: {', '.join(names[:_MOST_LISTED]) or 'none'}{more}."


def near(name: str, known: Iterable[str]) -> list[str]:
    """The names nearest to a misspelt one, three at most, regardless of case and of dashes for underscores."""
    by_fold = {_fold(k): k for k in sorted(known)}
    return [by_fold[n] for n in difflib.get_close_matches(_fold(name), by_fold, n=3, cutoff=0.6)]


def _fold(name: str) -> str:
    return name.lower().replace("-", "_")
