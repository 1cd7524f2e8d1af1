"""Teacher against student: what a smaller network keeps of a larger one, and what it spares."""

from __future__ import annotations

import math
from typing import Any

from bequest.core.distillation import AGREEMENT, DISTILLED, taught_by
from bequest.core.results import Leaderboard, Row
from bequest.report.units import gap, metric_name, quantity, rate, score, size

TEMPERATURES = (1, 2, 4, 8)
_SHOWN = 4


def in_words(board: Leaderboard) -> list[str]:
    """A paragraph on the teacher, and one on each student; none where nothing was distilled."""
    teacher = board.protocol.get("teacher")
    found = _students(board)
    if not teacher or not found:
        return []
    metric = next(iter(found.values()))[0].metric
    names = " and ".join(teacher["names"])
    first = (
        f"Teacher {names}: test {metric_name(metric)} {score(teacher['test'], metric)}, "
        f"{quantity(teacher['parameters'])} parameters, {size(teacher['bytes'])}, {rate(teacher['inference_per_s'])}."
    )
    return [first, *(_told(board, teacher, method, rows) for method, rows in found.items())]


def _students(board: Leaderboard) -> dict[str, list[Row]]:
    """The rows with a teacher that have a result, by method, the best first."""
    found: dict[str, list[Row]] = {}
    for row in board.rows:  # a teacher has no score by groups to be held against
        if DISTILLED in row.method and row.test is not None:
            found.setdefault(taught_by(row.method), []).append(row)
    return found


def _told(board: Leaderboard, teacher: dict[str, Any], method: str, rows: list[Row]) -> str:
    plain = next((row for row in board.rows if row.method == method and row.test), None)
    text = _student(board, teacher, plain, rows[0])
    if len(rows) == 1:
        return text
    by_rho = sorted(rows, key=_temperature)
    swept = ", ".join(f"{_temperature(row):g}" for row in by_rho)
    tests = [row.test.mean for row in rows if row.test]
    lowest, highest = (score(value, rows[0].metric) for value in (min(tests), max(tests)))
    rho = f"{_temperature(rows[0]):g}"
    return f"{text} That is at ρ = {rho}, best by validation of {swept}; on test they go from {lowest} to {highest}."


def _temperature(row: Row) -> float:
    return float(row.settings["temperature"])


def sweep(board: Leaderboard) -> dict[str, Any] | None:
    """What the plot over temperatures shows; None where there is no sweep.

    Returns:
        The metric, the teacher's score, and of each method the score without a teacher (None where it has none) and
        temperature, mean and standard error (None for one seed) of each row.
    """
    teacher, swept = board.protocol.get("teacher"), {m: rows for m, rows in _students(board).items() if len(rows) > 1}
    if not teacher or not swept:
        return None
    plain = {row.method: row.test.mean for row in board.rows if row.test}
    return {
        "metric": next(iter(swept.values()))[0].metric,
        "teacher": teacher["test"],
        "methods": {
            method: {
                "plain": plain.get(method),
                "rows": [
                    (_temperature(row), row.test.mean, row.test.sem)
                    for row in sorted(rows, key=_temperature)
                    if row.test
                ],
            }
            for method, rows in swept.items()
        },
    }


def _student(board: Leaderboard, teacher: dict[str, Any], plain: Row | None, distilled: Row) -> str:
    metric, method = distilled.metric, taught_by(distilled.method)
    assert distilled.test is not None
    after = distilled.test.mean
    text = f"Student {board.source.get('name')} by {method}: {score(after, metric)} with the teacher"
    if plain is not None and plain.test is not None:
        before = plain.test.mean
        text += f", {score(before, metric)} without ({gap(after - before, metric, signed=True)}"
        sign = 1 if distilled.higher_is_better else -1
        whole, gained = sign * (teacher["test"] - before), sign * (after - before)
        # A gap that reads as zero cannot be closed by a share.
        closed = whole >= 5e-4 and gained > 0
        text += f"; {100 * gained / whole:.0f} % of the gap to the teacher)" if closed else ")"
    agreements = [r.metrics[AGREEMENT].mean for r in (distilled, plain) if r is not None and AGREEMENT in r.metrics]
    if agreements:
        text += f". It agrees with the teacher on {score(agreements[0], AGREEMENT)} of the test samples"
        text += f", without it on {score(agreements[1], AGREEMENT)}" if len(agreements) > 1 else ""
    parameters, speed = board.source.get("parameters"), distilled.inference_per_s
    costs: list[str] = []
    if parameters:
        costs.append(f"{quantity(parameters)} parameters, {_times(teacher['parameters'] / parameters)}")
    if speed:
        costs.append(f"{rate(speed)}, {speed / teacher['inference_per_s']:.1f} times the teacher's speed")
    return text + (f". It has {'; and runs '.join(costs)}." if costs else ".")


def _times(factor: float) -> str:
    """How many of the student's parameters the teacher has, in words; what reads as once is no saving."""
    if f"{factor:.1f}" == "1.0":
        return "as many as the teacher" if factor == 1 else "about as many as the teacher"
    return f"{factor:.1f} times fewer" if factor > 1 else f"{1 / factor:.1f} times the teacher's"


def similarities(board: Leaderboard) -> dict[str, Any] | None:
    """The teacher's softened outputs for the test samples that it is most in doubt about; None without a teacher.

    Of each sample its name and class, and a row a temperature: the probabilities of the classes that are largest.
    """
    teacher = board.protocol.get("teacher")
    if not teacher or not teacher["examples"]:
        return None
    classes = [str(name) for name in board.task.get("classes", ())]
    samples: list[dict[str, Any]] = []
    for example in teacher["examples"]:
        logits = example["logits"]
        largest = sorted(range(len(logits)), key=lambda i: -logits[i])[:_SHOWN]
        rows = [
            {"temperature": str(rho), "shares": [f"{100 * softened(logits, rho)[i]:.1f} %" for i in largest]}
            for rho in TEMPERATURES
        ]
        samples.append({**example, "classes": [classes[i] for i in largest], "rows": rows})
    return {"names": " and ".join(teacher["names"]), "samples": samples}


def softened(logits: list[float], temperature: float) -> list[float]:
    """σ(z, ρ)."""
    top = max(logits)
    powers = [math.exp((value - top) / temperature) for value in logits]
    return [power / sum(powers) for power in powers]
