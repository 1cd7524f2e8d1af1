"""Each rule speaks where the rows bear it out, with their numbers, and is silent where they do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import pytest

from bequest.core.intervals import Difference, paired
from bequest.core.learning_curves import Curve, CurvePoint, LearningCurves
from bequest.core.results import Leaderboard, Row, TrialRecord
from bequest.report import advice as told
from bequest.report.advice import RULES, advice

NEAR, FAR = [0.001, -0.002, 0.001], [-0.05, -0.06, -0.055]
"""Differences from the other method, seed by seed: at most a point worse, and told to be worse."""
BASE = [0.90, 0.92, 0.91]


@dataclass(frozen=True)
class Measured:
    """A row to make: its test score of each seed, and what it costs."""

    method: str
    values: Sequence[float]
    seconds: float = 10.0
    stored: int = 1000
    family: str = "fine-tuning"
    per_s: float | None = None


@pytest.fixture
def of(make: Callable[..., Leaderboard]) -> Callable[..., Leaderboard]:
    """A board of such rows, the first the best."""
    plain = make(["full"], 1)

    def build(*rows: Measured, **changes: Any) -> Leaderboard:
        trials = [t for row in rows for t in _trials(plain.trials[0], row)]
        made = replace(plain, rows=[_row(plain.rows[0], row) for row in rows], trials=trials, **changes)
        return replace(made, differences=differences(made))

    return build


def differences(board: Leaderboard) -> dict[str, dict[str, Difference]]:
    """As if every sample differed alike: the interval over the seeds alone."""
    found: dict[str, dict[str, Difference]] = {}
    for one, other in combinations([row.method for row in board.rows], 2):
        apart = paired(board.tested(one), board.tested(other))
        if apart is not None:
            found.setdefault(one, {})[other] = apart
    return found


def _trials(trial: TrialRecord, row: Measured) -> list[TrialRecord]:
    return [replace(trial, method=row.method, seed=seed, test=value) for seed, value in enumerate(row.values)]


def _row(row: Row, made: Measured) -> Row:
    from bequest.comparison.statistics import interval

    found = interval(made.values)
    costs = {"train_s": made.seconds, "stored_bytes": made.stored, "inference_per_s": made.per_s}
    return replace(row, method=made.method, family=made.family, validation=found, test=found, **costs)


def plus(differences: Sequence[float]) -> list[float]:
    return [base + difference for base, difference in zip(BASE, differences, strict=True)]


def test_a_linear_probe_that_is_nearly_as_good(of: Any) -> None:
    full = Measured("full", BASE, 96.0)
    [sentence] = advice(of(full, Measured("linear_probe", plus(NEAR), 2.4)))
    assert sentence == (
        "linear_probe is level (± 0.4 points) with full fine-tuning at 1/40 of its training time (2.4 s against 96 s): "
        "take it."
    )
    for board in (
        of(full, Measured("linear_probe", plus(FAR), 2.4)),  # worse
        of(full, Measured("linear_probe", plus(NEAR), 60.0)),  # not much cheaper
        of(full, Measured("linear_probe", plus([0.0, 0.05, -0.05]), 2.4)),  # who knows
        of(Measured("full", BASE[:1], 96.0), Measured("linear_probe", BASE[:1], 2.4)),  # one seed
        of(full),
    ):
        assert told.probe_is_enough(board) is None


def test_what_is_far_behind_the_best_is_not_advised(of: Any) -> None:
    best, full = Measured("freeze", plus([0.1, 0.101, 0.1]), 90.0), Measured("full", BASE, 96.0, stored=90_000_000)
    probe = Measured("linear_probe", plus(NEAR), 2.4)
    lora = Measured("lora", plus(NEAR), 80.0, family="parameter-efficient")
    assert told.probe_is_enough(of(best, full, probe)) is None
    assert told.efficient_is_enough(of(best, full, lora)) is None
    assert told.probe_is_enough(of(probe, full)) is not None


def test_a_parameter_efficient_method_that_stores_little(of: Any) -> None:
    full = Measured("full", BASE, stored=90_000_000)

    def lora(differences: Sequence[float], stored: int = 900_000) -> Measured:
        return Measured("lora", plus(differences), stored=stored, family="parameter-efficient")

    bitfit = Measured("bitfit", plus(FAR), stored=1000, family="parameter-efficient")
    assert told.efficient_is_enough(of(full, lora(NEAR), bitfit)) == (
        "lora is level (± 0.4 points) with full fine-tuning and stores 1 % of its bytes (900 kB against 90.0 MB): "
        "where many models are kept, keep that."
    )
    assert told.efficient_is_enough(of(full, lora(FAR))) is None
    assert told.efficient_is_enough(of(full, lora(NEAR, 89_000_000))) is None
    assert told.efficient_is_enough(of(full, replace(lora(NEAR), family="fine-tuning"))) is None


def test_a_cheaper_method_that_cannot_be_told_from_the_best(of: Any) -> None:
    best = Measured("lora", BASE, 90.0)
    assert told.cheaper_is_enough(of(best, Measured("freeze", plus(NEAR), 30.0))) == (
        "freeze cannot be told from lora, the best by validation (0.0 ± 0.4 points apart over 3 seeds), at 1/3 of its "
        "training time (30 s against 90 s): take it."
    )
    worse = told.cheaper_is_enough(of(best, Measured("freeze", plus([-0.005, -0.006, -0.005]), 30.0)))
    assert worse is not None and "freeze is 0.5 ± 0.1 points behind lora" in worse
    for row in (
        Measured("freeze", plus(FAR), 30.0),
        Measured("freeze", plus([0.0, 0.05, -0.05]), 30.0),
        Measured("freeze", plus(NEAR), 80.0),
    ):
        assert told.cheaper_is_enough(of(best, row)) is None
    probe = of(Measured("full", BASE, 90.0), Measured("linear_probe", plus(NEAR), 3.0))
    assert told.cheaper_is_enough(probe) is None, "another rule says that"


def test_intermediate_layers_matter(of: Any) -> None:
    gains, probe = [0.06, 0.061, 0.059], Measured("linear_probe", BASE)
    scratch = Measured("from_scratch", plus([-0.02, -0.021, -0.019]))
    head2toe = Measured("head2toe", plus(gains))
    assert told.layers_matter(of(head2toe, probe, scratch)) == (
        "Domain affinity is low (2.0 ± 0.2 points) and head2toe gains 6.0 ± 0.2 points over linear_probe: intermediate "
        "layers matter here."
    )
    near = replace(scratch, values=plus([-0.4, -0.41, -0.39]))
    for board in (of(head2toe, probe), of(head2toe, probe, near)):
        assert told.layers_matter(board) == (
            "head2toe gains 6.0 ± 0.2 points over linear_probe: intermediate layers matter here."
        )
    assert told.layers_matter(of(Measured("head2toe", plus([0.06, -0.06, 0.01])), probe, scratch)) is None
    assert told.layers_matter(of(head2toe, scratch)) is None


def test_what_a_teacher_is_worth(of: Any) -> None:
    student, plain = Measured("full, distilled", plus([0.02, 0.021, 0.022])), Measured("full", BASE)
    assert told.teacher_is_worth_it(of(student, plain)) == "The teacher is worth 2.1 ± 0.2 points to full: keep it."
    assert told.teacher_is_worth_it(of(Measured("full, distilled", plus(NEAR)), plain)) is None
    assert told.teacher_is_worth_it(of(plain)) is None


def test_a_student_that_is_faster_than_its_teacher(of: Any) -> None:
    def board(per_s: float | None, values: Sequence[float] = BASE) -> Leaderboard:
        made = of(Measured("full, distilled", values, per_s=per_s))
        return replace(made, protocol={**made.protocol, "teacher": {"test": 0.93, "inference_per_s": 100.0}})

    assert told.student_is_fast(board(210.0)) == (
        "The student (full, distilled) is 2.0 ± 2.5 points behind its teacher at 2.1 times the speed (210 /s against "
        "100 /s)."
    )
    assert told.student_is_fast(board(105.0)) is None
    assert told.student_is_fast(board(None)) is None
    assert told.student_is_fast(board(210.0, BASE[:1])) is None
    assert told.student_is_fast(of(Measured("full", BASE, per_s=210.0))) is None


def curves(method: str, *points: Sequence[float]) -> LearningCurves:
    sizes = [100 * 2**i for i in range(len(points))]
    made = [
        CurvePoint(size, sum(v) / len(v), None, None, list(range(len(v))), list(v))
        for size, v in zip(sizes, points, strict=True)
    ]
    return LearningCurves("accuracy", True, sizes, True, [Curve(method, made)], [], [])


def test_labels_that_still_pay_and_labels_that_do_not(of: Any) -> None:
    full = Measured("full", BASE)
    rising = of(full, learning_curves=curves("full", plus([-0.04, -0.041, -0.039]), BASE))
    assert told.more_labels(rising) == "From 100 to 200 labels full gained 4.0 ± 0.2 points: label more."
    for few, change in ((NEAR, "gained 0.0 ± 0.4"), ([-0.002, -0.0021, -0.0019], "gained 0.2 ± 0.0")):
        flat = of(full, learning_curves=curves("full", plus(few), BASE))
        assert told.more_labels(flat) == (f"From 100 to 200 labels full {change} points: more labels would hardly pay.")
    for board in (
        of(full),
        of(full, learning_curves=curves("lora", plus(NEAR), BASE)),
        of(full, learning_curves=curves("full", BASE)),
        of(full, learning_curves=curves("full", plus([-0.05, 0.05, 0.0]), BASE)),
        of(full, learning_curves=curves("full", plus([0.05, 0.051, 0.049]), BASE)),  # something is wrong
    ):
        assert told.more_labels(board) is None


def test_more_seeds_where_the_two_best_are_open(of: Any) -> None:
    best = Measured("lora", BASE)
    assert told.more_seeds(of(best, Measured("full", plus([0.01, -0.02, 0.0])))) == (
        "lora and full, the two best by validation, are 0.3 ± 3.8 points apart over 3 seeds, which cannot tell them "
        "apart: about 12 seeds would narrow that to ± 1.0 points."
    )
    few_samples = of(best, Measured("full", plus([0.01, -0.02, 0.0])))
    wide = {"lora": {"full": Difference(0.0033, -0.05, 0.0566, 3)}}
    assert told.more_seeds(replace(few_samples, differences=wide)) == (
        "lora and full, the two best by validation, are 0.3 ± 5.3 points apart over 3 seeds, which cannot tell them "
        "apart: more test samples are needed, whatever the number of seeds, to narrow that to ± 1.0 points."
    )
    assert told.more_seeds(of(best, Measured("full", plus(NEAR)))) is None, "near enough"
    assert told.more_seeds(of(best, Measured("full", plus(FAR)))) is None, "told apart"
    assert told.more_seeds(of(best)) is None
    assert told.more_seeds(of(Measured("lora", BASE[:1]), Measured("full", BASE[:1]))) is None


def test_where_lower_is_better_a_lower_score_is_ahead(of: Any) -> None:
    board = of(Measured("full", [20.0, 20.2, 20.1], 90.0), Measured("freeze", [20.3, 20.51, 20.4], 9.0))
    rows = [replace(row, metric="perplexity", higher_is_better=False) for row in board.rows]
    sentence = told.cheaper_is_enough(replace(board, rows=rows))
    assert sentence is None, "1.5 per cent is more than one may give up"
    near = replace(of(Measured("full", [20.0, 20.2, 20.1], 90.0), Measured("freeze", [20.05, 20.25, 20.16], 9.0)))
    rows = [replace(row, metric="perplexity", higher_is_better=False) for row in near.rows]
    sentence = told.cheaper_is_enough(replace(near, rows=rows))
    assert sentence is not None and sentence.startswith("freeze is 0.0533 ± 0.0143 behind full, the best by validation")


def test_failed_rows_and_empty_boards_are_silent(of: Any) -> None:
    board = of(Measured("full", BASE, 96.0), Measured("linear_probe", plus(NEAR), 2.4))
    failed = [board.rows[0], replace(board.rows[1], validation=None)]
    assert advice(replace(board, rows=failed)) == []
    assert advice(replace(board, rows=[], trials=[])) == []
    assert len(set(RULES)) == len(RULES)
