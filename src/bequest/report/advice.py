"""What to take from a comparison: advice by rules over the measured rows, each sentence with its numbers.

Methods are compared on the test part, paired by seed and sample; ± is half an interval at 95 % that counts both as
drawn at random. A rule speaks only where that interval bears it out, so with one seed almost none does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from bequest.core.distillation import DISTILLED, taught_by
from bequest.core.intervals import Difference, paired, seeds_for
from bequest.core.questions import FAMILY, FULL
from bequest.core.results import Leaderboard, Row
from bequest.report import units
from bequest.report.verdict import criterion

MARGIN = 0.01
"""What one may give up for a lower cost: a point of a share, one per cent of a metric of any size."""

LOW_AFFINITY = 0.1
"""A linear probe that is at most this much better than training from scratch knows the domain little."""

_MOST_SEEDS = 1000


@dataclass(frozen=True)
class _Lead:
    """By how much one row is better than another, whatever the metric's direction.

    Attributes:
        row: The one.
        other: The other.
        mean: Over the seeds, above 0 where `row` is better.
        half: Half the width of its interval at 95 %.
        seeds: How many.
    """

    row: Row
    other: Row
    mean: float
    half: float
    seeds: int

    @property
    def is_ahead(self) -> bool:
        """Whether the row is told to be better."""
        return self.mean - self.half > 0

    @property
    def is_open(self) -> bool:
        """Whether which is better cannot be told."""
        return abs(self.mean) <= self.half

    @property
    def is_enough(self) -> bool:
        """Whether the row is told to be at most the margin worse."""
        return self.mean - self.half >= -_margin(self.other)

    @property
    def in_words(self) -> str:
        """Its size, e.g. `0.3 ± 0.5 points`."""
        return units.spread(abs(self.mean), self.half, self.row.metric)

    @property
    def standing(self) -> str:
        """Where the row stands, e.g. `0.3 ± 0.5 points behind`; level where no difference is to be seen."""
        if not any(digit in "123456789" for digit in self.in_words.partition(" ± ")[0]):
            return f"level (± {self.in_words.partition(' ± ')[2]}) with"
        return f"{self.in_words} {'behind' if self.mean < 0 else 'ahead of'}"


def advice(board: Leaderboard) -> list[str]:
    """A sentence of each rule that has something to say, in the order of `RULES`."""
    return [sentence for rule in RULES if (sentence := rule(board)) is not None]


def probe_is_enough(board: Leaderboard) -> str | None:
    """A linear probe is nearly as good as full fine-tuning, and costs a part of it."""
    lead = _lead(board, "linear_probe", FULL)
    if lead is None or not lead.is_enough or not _is_cheap(lead.row, lead.other) or not _is_near_best(board, lead.row):
        return None
    return f"linear_probe is {lead.standing} full fine-tuning at {_training(lead)}: take it."


def efficient_is_enough(board: Leaderboard) -> str | None:
    """A parameter-efficient method is nearly as good as full fine-tuning, and less is to be stored."""
    names = [row.method for row in board.rows if row.family == FAMILY and row.method == taught_by(row.method)]
    leads = [lead for name in names if (lead := _lead(board, name, FULL)) is not None and lead.is_enough]
    leads = [lead for lead in leads if _is_near_best(board, lead.row)]
    lead = min(leads, key=lambda found: found.row.stored_bytes, default=None)
    if lead is None or not 0 < 2 * lead.row.stored_bytes <= lead.other.stored_bytes:
        return None
    own, whole = lead.row.stored_bytes, lead.other.stored_bytes
    return (
        f"{lead.row.method} is {lead.standing} full fine-tuning and stores {100 * own / whole:.2g} % of its bytes "
        f"({units.size(own)} against {units.size(whole)}): where many models are kept, keep that."
    )


def cheaper_is_enough(board: Leaderboard) -> str | None:
    """The best method cannot be told from one that costs a part of it, or is hardly better."""
    best = _best(board)
    if best is None:
        return None
    cheap = (row for row in board.judged() if row.validation is not None and _is_cheap(row, best))
    leads = [lead for row in cheap if (lead := _lead(board, row.method, best.method)) is not None and lead.is_enough]
    lead = min(leads, key=lambda found: found.row.train_s, default=None)
    if lead is None or (lead.row.method, best.method) == ("linear_probe", FULL):  # said already
        return None
    told = f"is {lead.standing} {best.method}, the best by {criterion(board)},"
    if lead.is_open:
        apart = f"{lead.in_words} apart over {units.plural(lead.seeds, 'seed')}"
        told = f"cannot be told from {best.method}, the best by {criterion(board)} ({apart}),"
    return f"{lead.row.method} {told} at {_training(lead)}: take it."


def layers_matter(board: Leaderboard) -> str | None:
    """Features of intermediate layers add to those of the last."""
    lead = _lead(board, "head2toe", "linear_probe")
    if lead is None or not lead.is_ahead:
        return None
    gain = f"head2toe gains {lead.in_words} over linear_probe"
    affinity = _lead(board, "linear_probe", "from_scratch")
    if affinity is not None and affinity.mean + affinity.half < LOW_AFFINITY:
        gain = f"Domain affinity is low ({affinity.in_words}) and {gain}" if affinity.mean >= 0 else gain
    return f"{gain}: intermediate layers matter here."


def teacher_is_worth_it(board: Leaderboard) -> str | None:
    """A student is better with its teacher than without."""
    student = _student(board)
    lead = student and _lead(board, student.method, taught_by(student.method))
    if lead is None or not lead.is_ahead:
        return None
    return f"The teacher is worth {lead.in_words} to {lead.other.method}: keep it."


def student_is_fast(board: Leaderboard) -> str | None:
    """A distilled student is faster than its teacher; what it keeps of the teacher's score."""
    teacher, student = board.protocol.get("teacher"), _student(board)
    if not teacher or student is None or not student.inference_per_s or board.select_by != "metric":
        return None
    tested = board.tested(student.method)
    found = paired(tested, dict.fromkeys(tested, float(teacher["test"])))
    half, speed = _half(found), student.inference_per_s / teacher["inference_per_s"]
    if found is None or half is None or speed < 1.2:
        return None
    worse = found.mean < 0 if student.higher_is_better else found.mean > 0
    apart = units.spread(abs(found.mean), half, student.metric)
    return (
        f"The student ({student.method}) is {apart} {'behind' if worse else 'ahead of'} its teacher at "
        f"{speed:.1f} times the speed ({units.rate(student.inference_per_s)} against "
        f"{units.rate(teacher['inference_per_s'])})."
    )


def more_labels(board: Leaderboard) -> str | None:
    """What the latest labels of a learning curve were worth."""
    curves, best = board.learning_curves, _best(board)
    curve = next((c for c in curves.curves if best and c.method == best.method), None) if curves else None
    if curve is None or best is None or len(curve.points) < 2:
        return None
    fewer, more = curve.points[-2:]
    scores = [dict(zip(point.seeds, point.values, strict=True)) for point in (more, fewer)]
    found = paired(*scores)
    half = _half(found)
    if found is None or half is None:
        return None
    gain, margin = found.mean if best.higher_is_better else -found.mean, _margin(best)
    told = f"From {fewer.labels:,} to {more.labels:,} labels {best.method}"
    if abs(gain) + half < margin:
        change = units.spread(abs(gain), half, best.metric)
        return f"{told} {'lost' if gain < 0 else 'gained'} {change}: more labels would hardly pay."
    if gain - half > 0:
        return f"{told} gained {units.spread(gain, half, best.metric)}: label more."
    return None


def more_seeds(board: Leaderboard) -> str | None:
    """The two best methods cannot be told apart, and the interval is wider than the margin."""
    rows = [row for row in board.judged() if row.validation is not None]
    lead = _lead(board, rows[0].method, rows[1].method) if len(rows) > 1 else None
    if lead is None or not lead.is_open or lead.half <= _margin(rows[0]):
        return None
    return (
        f"{rows[0].method} and {rows[1].method}, the two best by {criterion(board)}, are {lead.in_words} apart over "
        f"{units.plural(lead.seeds, 'seed')}, which cannot tell them apart: {_what_would_narrow(board, lead)} that to "
        f"± {units.gap(_margin(rows[0]), lead.row.metric)}."
    )


RULES: tuple[Callable[[Leaderboard], str | None], ...] = (
    probe_is_enough,
    cheaper_is_enough,
    efficient_is_enough,
    layers_matter,
    teacher_is_worth_it,
    student_is_fast,
    more_labels,
    more_seeds,
)
"""Each gives a sentence, or None where the rows do not bear it out."""


def _what_would_narrow(board: Leaderboard, lead: _Lead) -> str:
    """How many seeds would narrow a lead's interval to the margin, or that no number would: samples do not change."""
    margin = _margin(lead.row)
    of_seeds = _half(paired(board.tested(lead.row.method), board.tested(lead.other.method))) or 0.0
    of_samples = math.sqrt(max(lead.half**2 - of_seeds**2, 0.0))
    if of_samples >= margin:
        return "more test samples are needed, whatever the number of seeds, to narrow"
    needed = seeds_for(of_seeds, lead.seeds, math.sqrt(margin**2 - of_samples**2))
    return f"{f'about {needed:,}' if needed <= _MOST_SEEDS else f'more than {_MOST_SEEDS:,}'} seeds would narrow"


def _lead(board: Leaderboard, method: str, other: str) -> _Lead | None:
    """None where a method is missing, or there is no interval."""
    rows = {row.method: row for row in board.judged() if row.validation is not None}
    found = board.difference(method, other)
    half = _half(found)
    if method not in rows or other not in rows or found is None or half is None:
        return None
    sign = 1 if rows[method].higher_is_better else -1
    return _Lead(rows[method], rows[other], sign * found.mean, half, found.seeds)


def _half(found: Difference | None) -> float | None:
    """Half the width of a difference's interval."""
    return None if found is None or found.low is None or found.high is None else (found.high - found.low) / 2


def _margin(row: Row) -> float:
    """Of a row's metric."""
    if units.has_any_size(row.metric) and row.test is not None:
        return MARGIN * abs(row.test.mean)
    return MARGIN


def _is_cheap(row: Row, other: Row) -> bool:
    """Whether a row takes at most half of another's training time."""
    return 0 < 2 * row.train_s <= other.train_s


def _training(lead: _Lead) -> str:
    own, whole = lead.row.train_s, lead.other.train_s
    return f"{units.fraction(own, whole)} of its training time ({units.duration(own)} against {units.duration(whole)})"


def _best(board: Leaderboard) -> Row | None:
    return next((row for row in board.judged() if row.validation is not None), None)


def _is_near_best(board: Leaderboard, row: Row) -> bool:
    """Whether a row is the best, or told to be at most the margin worse."""
    best = _best(board)
    if best is None or best.method == row.method:
        return True
    lead = _lead(board, row.method, best.method)
    return lead is not None and lead.is_enough


def _student(board: Leaderboard) -> Row | None:
    """The best row that has a teacher."""
    return next((row for row in board.judged() if row.validation is not None and DISTILLED in row.method), None)
