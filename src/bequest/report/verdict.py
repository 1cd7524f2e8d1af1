"""What the measured numbers allow to say, in sentences."""

from __future__ import annotations

from bequest.core.results import Interval, Leaderboard, Row, Versus, goodness
from bequest.report import affinity, distilling
from bequest.report.units import bounds, duration, fraction, gap, mean_sem, metric_name, plural, probability


def sentences(board: Leaderboard) -> list[str]:
    """The verdict; the first sentence names the best row by the score that ranks them, where there is one."""
    rows = [row for row in board.judged() if row.validation is not None]
    best = rows[0] if rows else None
    if best is None:
        return ["No method finished, so there is nothing to compare. The table says why."]
    others = [r for r in rows if r is not best]
    first = _first(best, others)
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


def indistinguishable(row: Row) -> bool:
    """Whether the test part, after correction for many comparisons, does not tell a row from the best one."""
    return row.versus_best is not None and row.versus_best.indistinguishable


def _first(best: Row, others: list[Row]) -> str:
    validation, name = _validation(best), metric_name(best.metric)
    number = mean_sem(validation, best.metric)
    if validation.sem is not None:
        number += f" (mean ± standard error over {plural(validation.seeds, 'seed')})"
    if not others:
        text = f"{best.method} is the only method with a result. Its validation {name} is {number}"
    else:
        first = "highest" if best.higher_is_better else "lowest"
        among = ", of the methods that finished every seed" if _is_beaten(best, others) else ""
        text = f"{best.method} has the {first} validation {name}{among}: {number}"
    cost = f"after {duration(best.train_s)} of training" + (" a seed" if validation.seeds > 1 else "")
    if best.test is None:
        return f"{text}, {cost}."
    ends = bounds(best.test, best.metric)
    test = mean_sem(best.test, best.metric) + (f" (95 % interval {ends})" if ends else "")
    return f"{text}. On the test part it reaches {test}, {cost}."


def _rivals(best: Row, others: list[Row]) -> list[str]:
    if not others:
        return []
    compared = [r for r in others if r.versus_best is not None]
    apart = [r.method for r in others if r.versus_best is None]
    if not compared and _validation(best).seeds == 1 and not best.errors:
        return ["One seed tells no difference between methods from chance; run more seeds to tell."]
    few = [f"{_join(apart)} finished fewer than two seeds together with it, which tells nothing."] if apart else []
    told = [r for r in compared if not indistinguishable(r)]
    ahead = [r for r in told if goodness(r, _versus(r).difference) > 0]
    behind = [r for r in told if r not in ahead]
    return [
        *_near([r for r in compared if indistinguishable(r)], len(compared), "that can be compared " if few else ""),
        *(f"{r.method} is better than it on the test part, by {_by_how_much(r)}." for r in ahead),
        *_behind_it(behind, len(others)),
        *few,
    ]


def _is_beaten(best: Row, others: list[Row]) -> bool:
    """Whether another row, which failed at a seed, has a better mean over those that it finished."""
    own = goodness(best, _validation(best).mean)
    return any(r.errors and goodness(r, _validation(r).mean) > own for r in others)


def _near(near: list[Row], compared: int, that: str) -> list[str]:
    if not near:
        return []
    if len(near) == compared > 1:
        who = f"All {compared} others {that}are"
    elif len(near) > 3:
        who = f"{len(near)} of the {compared} others {that}are"
    else:
        who = f"{_join([r.method for r in near])} {'is' if len(near) == 1 else 'are'}"
    closest = min(near, key=lambda r: abs(_versus(r).difference))
    found = _versus(closest)
    name = "the difference" if len(near) == 1 else f"the smallest difference, {closest.method}’s,"
    return [
        f"{who} indistinguishable from it on the test part, with {plural(found.seeds, 'seed')} and "
        f"{plural(found.samples, 'sample')}: {name} is {_signed(found.difference, closest)} ({_bounds(closest)})."
    ]


def _behind_it(behind: list[Row], others: int) -> list[str]:
    if not behind:
        return []
    closest = max(behind, key=lambda r: goodness(r, _versus(r).difference))
    if len(behind) == 1:
        return [f"{closest.method} is worse on the test part, by {_by_how_much(closest)}."]
    who = f"All {others} others" if len(behind) == others else f"{len(behind)} others"
    return [f"{who} are worse on the test part; the closest of them, {closest.method}, by {_by_how_much(closest)}."]


def _by_how_much(row: Row) -> str:
    found = _versus(row)
    return f"{gap(abs(found.difference), row.metric)} ({_bounds(row)}, p {probability(found.p)} after correction)"


def _bounds(row: Row) -> str:
    found = _versus(row)
    low, high = (_signed(end, row).removesuffix(" points") for end in (found.low, found.high))
    return f"95 % interval {low} to {high}"


def _signed(value: float, row: Row) -> str:
    return gap(value, row.metric, signed=True)


def _versus(row: Row) -> Versus:
    assert row.versus_best is not None
    return row.versus_best


def _cheapest(best: Row, others: list[Row]) -> list[str]:
    cheaper = [r for r in others if r.train_s < best.train_s]
    if not cheaper:
        return [f"It was also the cheapest to train of the {len(others) + 1}."] if others else []
    near = [r for r in cheaper if indistinguishable(r)]
    row = min(near or cheaper, key=lambda r: r.train_s)
    cost = (
        f"{row.method} costs {fraction(row.train_s, best.train_s)} of the training time "
        f"({duration(row.train_s)} against {duration(best.train_s)})"
    )
    if row.test is None or best.test is None:
        return [f"{cost}."]
    means = f"{mean_sem(row.test, row.metric)} against {mean_sem(best.test, best.metric)}"
    if near:
        return [f"{cost} and is indistinguishable from the best on the test part ({means})."]
    return [f"The cheapest, {cost}: {means} on the test part."]


def _join(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _validation(row: Row) -> Interval:
    assert row.validation is not None
    return row.validation
