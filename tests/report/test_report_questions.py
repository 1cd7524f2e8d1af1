"""The open questions on the page: what is drawn, and that the words claim no more than was measured."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape

import pytest
from pages import assert_sound, text_of

from bequest.core.questions import Gap, Merging, Pace, Parity, Questions, Race, Ranks, Ratio, Reached, Spectrum, Weights
from bequest.core.results import Epoch, Leaderboard
from bequest.report import question_plots
from bequest.report.canvas import NARROW, WIDE, Size
from bequest.report.html import render
from bequest.report.questions import in_words

Make = Callable[..., Leaderboard]
EVIL = "<script>alert('x')</script>&\"$a_b$"
MERGING = Merging(Pace(0.0045, 300.0), Pace(0.003, 330.0), 900_000, 90_000_000)


def spectrum(layer: str, values: list[float], *, adaptable: bool = True) -> Spectrum:
    return Spectrum(layer, 384, 1536, adaptable, 0.01, len(values), 7.5, 3, 8, [0.5, 0.8, 0.92, 1.0], values)


def race(seed: int, own: int | None, full: int, end: int = 130) -> Race:
    there = None if own is None else Reached(own, own / 10)
    return Race(seed, 0.95, there, Reached(full, full / 20), Reached(end, end / 10))


def parity(method: str, *races: Race, steps: Ratio | None = None, seconds: Ratio | None = None) -> Parity:
    return Parity(method, list(races), steps, seconds)


def ranks(method: str, rank: float) -> Ranks:
    return Ranks(method, 0, 36, rank, rank - 1, rank + 1, 3.0, 8.0, [0.5, 0.8, 0.92, 1.0])


QUESTIONS = Questions(
    metric="accuracy",
    higher_is_better=True,
    tolerance=0.005,
    relative=False,
    gaps=[Gap("lora", 0.002, -0.012, 0.016, 3)],
    parities=[
        parity("lora", race(0, 26, 13), race(1, None, 13), steps=Ratio(2.0, True, 2), seconds=Ratio(4.0, True, 2))
    ],
    ranks=[ranks("full", 70.2), ranks("lora", 6.13)],
    suggested_rank=4,
    merging={"lora": MERGING},
)


def with_questions(board: Leaderboard, found: Questions) -> Leaderboard:
    """The board with these answers; epochs of 13 steps, and spectra of the methods that have ranks."""
    spectra = {
        "full": [
            spectrum("layer.0.<b>", [1.0 / (i + 1) for i in range(64)]),
            spectrum("words", [1.0], adaptable=False),
        ],
        "lora": [spectrum("layer.0.<b>", [1.0, 0.5, 0.25])],
    }
    trials = [
        replace(
            t,
            epochs=[replace(e, steps=13 if e.epoch else 0) for e in t.epochs],
            weights=Weights(spectra.get(t.method, []), None) if t.seed == 0 else None,
        )
        for t in board.trials
    ]
    return replace(board, trials=trials, questions=found)


@pytest.fixture
def asked(board: Leaderboard) -> Leaderboard:
    return with_questions(board, QUESTIONS)


def words_of(board: Leaderboard) -> str:
    return unescape(text_of(render(board)))


def changed(board: Leaderboard, **changes: object) -> Leaderboard:
    return with_questions(board, replace(QUESTIONS, **changes))


def test_a_board_without_questions_says_nothing_of_them(board: Leaderboard) -> None:
    assert in_words(board) == []
    page = render(board)
    assert not any(f'id="{name}"' in page for name in ("gaps", "parity", "ranks", "merging"))


def test_one_line_a_question(asked: Leaderboard) -> None:
    assert in_words(asked) == [
        "Against full fine-tuning, test accuracy: lora +0.2 points, undecided.",
        "Optimizer steps to come within 0.5 points of full fine-tuning's best validation accuracy, as multiples of its "
        "own: lora 2 times.",
        "Effective rank of what training adds to a matrix, median over 36 matrices: full 70.2, lora 6.13. Suggested "
        "rank for low-rank updates: 4.",
        "After merging, one sample alone takes: lora 67 % of the time before (3 ms).",
    ]


def test_the_page_answers_with_numbers(asked: Leaderboard) -> None:
    page = render(asked)
    assert_sound(page)
    text = unescape(text_of(page))
    for words in (
        "lora: +0.2 points against full fine-tuning, mean over 3 seeds, 95 % interval from −1.2 to +1.6 points. "
        "Undecided: the interval holds 0.",
        "lora takes 2 times the optimizer steps and 4 times the seconds of full fine-tuning to reach the mark (the "
        "middle one of 2 seeds). It did not get there with 1 of 2 seeds.",
        "Full fine-tuning changes 36 matrices, with an effective rank of 70.2 in the median, from 69.2 to 71.2; 90 % "
        "of the energy lie in 3 directions.",
        "Suggested rank for low-rank updates: 4, the smallest of 1, 2, 4, 8, … directions that hold 90 % of the energy "
        "of full fine-tuning's change in the median matrix (1 hold 50 %, 2 hold 80 %, 4 hold 92 %).",
        "lora: before merging, one sample alone takes 1.50 times and a batch 1.10 times as long as after it. Before "
        "merging 900 kB are stored beside the source, 1/100 of the merged network's 90.0 MB.",
        "4.5 ms → 3 ms",
        "not within 130",
        "384 × 1,536",
    ):
        assert words in text, words
    assert "words" not in text.split("Effective rank of each matrix")[1].split("Before and after")[0]


@pytest.mark.parametrize(
    ("gap", "higher_is_better", "told"),
    [
        (Gap("lora", 0.03, 0.01, 0.05, 3), True, "+3.0 points, better"),
        (Gap("lora", -0.03, -0.05, -0.01, 3), True, "−3.0 points, worse"),
        (Gap("lora", -0.03, -0.05, -0.01, 3), False, "−3.0 points, better"),
        (Gap("lora", 0.03, 0.01, 0.05, 3), False, "+3.0 points, worse"),
        (Gap("lora", 0.03, 0.0004, 0.06, 3), True, "+3.0 points, undecided"),
        (Gap("lora", 0.03, None, None, 1), True, "+3.0 points, undecided"),
    ],
)
def test_a_gap_is_judged_by_its_interval(board: Leaderboard, gap: Gap, higher_is_better: bool, told: str) -> None:
    asked = changed(board, gaps=[gap], higher_is_better=higher_is_better)
    assert in_words(asked)[0] == f"Against full fine-tuning, test accuracy: lora {told}."
    side = "to the right is better" if higher_is_better else "to the left is better"
    assert side in render(asked)


def test_without_an_interval_it_is_said(board: Leaderboard) -> None:
    page = words_of(changed(board, gaps=[Gap("lora", 0.0, None, None, 1)]))
    assert "lora: +0.0 points against full fine-tuning, one seed, which gives no interval. Undecided" in page


def test_a_mark_that_is_not_reached(board: Leaderboard) -> None:
    late = parity("lora", race(0, None, 13), steps=Ratio(10.0, False, 1), seconds=Ratio(20.0, False, 1))
    asked = changed(board, parities=[late])
    assert "lora not reached within 130 steps, more than 10 times." in in_words(asked)[1]
    page = words_of(asked)
    told = "lora does not reach the mark within its 130 steps: it takes more than 10 times the steps (one seed)."
    assert told in page
    assert "> 10 ×" in page


def test_where_the_head_alone_is_enough(board: Leaderboard) -> None:
    asked = changed(board, parities=[parity("lora", race(0, 0, 0), race(1, 0, 0))])
    assert "before its first optimizer step with every seed, so there is no ratio to tell." in in_words(asked)[1]
    assert "With every seed, full fine-tuning is at the mark before its first step" in words_of(asked)
    some = parity("lora", race(0, 0, 0), race(1, 26, 13), steps=Ratio(2.0, True, 1), seconds=Ratio(4.0, True, 1))
    assert "With 1 of 2 seeds, full fine-tuning is at the mark" in words_of(changed(board, parities=[some]))


def test_unequal_batches_are_told(asked: Leaderboard) -> None:
    assert "A step is of as many samples" not in render(asked)
    rows = [replace(r, settings={**r.settings, "batch_size": 32}) if r.method == "full" else r for r in asked.rows]
    told = "A step is of as many samples as the method's batch: full 32, lora 16."
    assert told in words_of(replace(asked, rows=rows))


def test_a_metric_of_any_size_has_a_mark_in_per_cent(board: Leaderboard) -> None:
    asked = changed(
        board, metric="perplexity", higher_is_better=False, relative=True, gaps=[Gap("lora", 1.5, 1.0, 2.0, 3)]
    )
    lines = in_words(asked)
    assert lines[0] == "Against full fine-tuning, test perplexity: lora +1.50, worse."
    assert "to come within 0.5 % of full fine-tuning's best validation perplexity" in lines[1]
    assert_sound(render(asked))


def test_methods_that_change_no_matrix_are_named(board: Leaderboard) -> None:
    asked = changed(board, gaps=[*QUESTIONS.gaps, Gap("freeze", 0.0, None, None, 1)])
    assert "freeze changes no such matrix." in words_of(asked)


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_drawings_are_of_the_page(asked: Leaderboard, size: Size) -> None:
    for draw in (question_plots.gaps, question_plots.parity, question_plots.spectra):
        drawn = draw(asked, size)
        assert drawn is not None and "var(--s" in drawn and not re.search(r"#[0-9a-f]{6}", drawn)
        assert f'viewBox="0 0 {size.width:g} ' in drawn
    drawn = question_plots.spectra(asked, size)
    assert drawn is not None and ">full</text>" in drawn and ">lora</text>" in drawn


def test_the_way_to_parity_is_the_best_so_far(make: Make) -> None:
    course = [Epoch(0, i, None, 1.0, metric, None, 1.0) for i, metric in enumerate([0.25, 0.75, 0.5])]
    asked = with_questions(make(["full", "lora"], 1, epochs=course), QUESTIONS)
    trials = {t.method: t for t in asked.trials}
    assert question_plots._mean_course([trials["full"]], "full", QUESTIONS) == [(0, 0.25), (13, 0.75), (26, 0.75)]
    lower = replace(QUESTIONS, higher_is_better=False)
    assert question_plots._mean_course([trials["full"]], "full", lower) == [(0, 0.25), (13, 0.25), (26, 0.25)]


def test_a_seed_that_stopped_early_keeps_its_best(make: Make) -> None:
    course = [Epoch(0, i, None, 1.0, metric, None, 1.0) for i, metric in enumerate([0.2, 0.6, 0.8])]
    asked = with_questions(make(["full"], 2, epochs=course), QUESTIONS)
    short, long = asked.trials[0], asked.trials[1]
    short = replace(short, epochs=short.epochs[:2])
    assert question_plots._mean_course([short, long], "full", QUESTIONS)[-1] == (26, pytest.approx(0.7))


def test_names_are_escaped(make: Make) -> None:
    board = make([EVIL, "full"], 2)
    found = replace(
        QUESTIONS,
        gaps=[replace(QUESTIONS.gaps[0], method=EVIL)],
        parities=[replace(QUESTIONS.parities[0], method=EVIL)],
        ranks=[ranks("full", 9.0), ranks(EVIL, 7.0)],
        merging={EVIL: MERGING},
    )
    asked = with_questions(board, found)
    trials = [
        replace(t, weights=Weights([spectrum(EVIL, [1.0])], None)) if t.method == EVIL else t for t in asked.trials
    ]
    page = render(replace(asked, trials=trials))
    assert page.count("<script") == 1, "the page has one of its own"
    assert_sound(page)
