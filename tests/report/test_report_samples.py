from __future__ import annotations

from collections.abc import Callable

from pages import assert_sound, text_of

from bequest.core.examples import Examples, Mistake, Shown, Split
from bequest.core.results import Leaderboard
from bequest.report.html import render

EVIL = "<script>alert('x')</script>&\""
PIXEL = "data:image/png;base64,iVBORw0KGgo="


def examples(text: str = "Shares fell.", image: str = "") -> Examples:
    sample = Shown("news.csv, row 3", "sport", text=text, image=image)
    return Examples(
        method="lora",
        seed=1,
        tested=555,
        wrong=20,
        mistakes=[Mistake(sample, "business", 0.912)],
        methods=["lora", "full", "freeze"],
        seeds=3,
        disagreement=[[0.0, 0.02, 0.1], [0.02, 0.0, None], [0.1, None, 0.0]],
        splits=[Split(sample, {"business": ["lora", "full"], "sport": ["freeze"]})],
    )


def test_mistakes_and_splits_are_shown_with_their_inputs(board: Leaderboard) -> None:
    page = render(board, examples())
    text = text_of(page)
    assert "What lora gets wrong" in text
    assert "The 1 sample that it was surest of, of 20 wrong ones among 555 tested. Seed 1." in text
    assert "Shares fell. sport taken for business (91 %) news.csv, row 3" in text
    assert "in truth sport business lora, full sport freeze" in text
    assert "mean over 3 seeds" in text
    assert "lora 2.0 % 10.0 % full 2.0 % – freeze 10.0 % –" in text
    assert_sound(page)


def test_texts_are_escaped(board: Leaderboard) -> None:
    page = render(board, examples(EVIL))
    assert EVIL not in page and "&lt;script&gt;alert" in page
    assert_sound(page)


def test_images_are_part_of_the_page(board: Leaderboard) -> None:
    page = render(board, examples("", PIXEL))
    assert page.count(f'<img src="{PIXEL}" alt="news.csv, row 3">') == 2
    assert "<blockquote>" not in page
    assert_sound(page)


def test_a_run_without_examples_says_nothing_of_them(make: Callable[..., Leaderboard]) -> None:
    text = text_of(render(make(["linear_probe"], 1)))
    assert "gets wrong" not in text and "disagree" not in text
