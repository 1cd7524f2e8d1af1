"""What the measured numbers allow to say, in sentences."""

from __future__ import annotations

from bequest.core.results import Interval, Leaderboard, Row, goodness
from bequest.report import affinity, distilling
from bequest.report.units import duration, fraction, gap, mean_sem, metric_name, plural, score

_TOLERANCE = 1e-9


def sentences(board: Leaderboard) -> list[str]:
    """The verdict; the first sentence names the best row by the score that ranks them, where there is one."""
    rows = [row for row in board.judged() if row.validation is not None]
    best = rows[0] if rows else None
    if best is None:
        return ["No method finished, so there is nothing to compare. The table says why."]
    others = [r for r in rows if r is not best]
    first = _first(best, alone=not others)
    return [
        first,
        *_rivals(best, others),
        *_cheapest(best, others),
        *affinity.in_words(board),
        *distilling.in_words(board),
    ]


def criterion(board: Leaderboard) -> str:
    """What rows are ranked by, in words."""
    return "validation" if board.select_by == "metric" else "worst group on validation"


def finished(board: Leaderboard) -> list[Row]:
    """The rows that have a result."""
    return [r for r in board.rows if r.validation is not None]


def within(row: Row, best: Row) -> bool:
    """Whether a row's mean on validation is no further than one standard error of the best row's from it."""
    sem = _validation(best).sem
    return sem is not None and _behind(row, best) <= sem + _TOLERANCE


def _first(best: Row, *, alone: bool) -> str:
    validation, name = _validation(best), metric_name(best.metric)
    number = mean_sem(validation, best.metric)
    if validation.sem is not None:
        number += f" (mean ± standard error over {plural(validation.seeds, 'seed')})"
    if alone:
        text = f"{best.method} is the only method with a result. Its validation {name} is {number}"
    else:
        first = "highest" if best.higher_is_better else "lowest"
        text = f"{best.method} has the {first} validation {name}: {number}"
    cost = f"after {duration(best.train_s)} of training" + (" a seed" if validation.seeds > 1 else "")
    if best.test is None:
        return f"{text}, {cost}."
    return f"{text}. On the test part it reaches {mean_sem(best.test, best.metric)}, {cost}."


def _rivals(best: Row, others: list[Row]) -> list[str]:
    if not others:
        return []
    validation = _validation(best)
    if validation.sem is None:
        return [
            "One seed gives no standard error, so no difference between methods can be told; run more seeds to tell."
        ]
    near = [r.method for r in others if within(r, best)]
    seeds = plural(validation.seeds, "seed")
    if not near:
        return [
            f"No other method comes within one standard error ({gap(validation.sem, best.metric)}) of it on "
            f"validation; with {seeds} that is a hint, not proof."
        ]
    if len(near) == len(others) > 1:
        who = f"All {len(others)} others are"
    elif len(near) > 3:
        who = f"{len(near)} of the {len(others)} others are"
    else:
        who = f"{_join(near)} {'is' if len(near) == 1 else 'are'}"
    return [
        f"{who} within one standard error of it on validation: with {seeds}, no difference between them can be told."
    ]


def _cheapest(best: Row, others: list[Row]) -> list[str]:
    cheaper = [r for r in others if r.train_s < best.train_s]
    if not cheaper:
        return [f"It was also the cheapest to train of the {len(others) + 1}."] if others else []
    near = [r for r in cheaper if within(r, best)]
    row = min(near or cheaper, key=lambda r: r.train_s)
    a, b = _validation(row), _validation(best)
    cost = (
        f"{row.method} costs {fraction(row.train_s, best.train_s)} of the training time "
        f"({duration(row.train_s)} against {duration(best.train_s)})"
    )
    means = f"{score(a.mean, row.metric)} against {mean_sem(b, best.metric)}"
    if near:
        text = f"{cost} and is within one standard error of the best on validation ({means})"
    elif _behind(row, best) <= _TOLERANCE:
        text = f"{cost} and has the same validation {metric_name(row.metric)} ({score(a.mean, row.metric)})"
    else:
        where = "lower" if row.higher_is_better else "higher"
        text = f"The cheapest, {cost} and is {gap(_behind(row, best), row.metric)} {where} on validation ({means})"
    return [text + (f"; on the test part it reaches {mean_sem(row.test, row.metric)}." if row.test else ".")]


def _join(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _behind(row: Row, best: Row) -> float:
    """By how much a row is worse than the best on validation."""
    return goodness(best, _validation(best).mean) - goodness(row, _validation(row).mean)


def _validation(row: Row) -> Interval:
    assert row.validation is not None
    return row.validation
