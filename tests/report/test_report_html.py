from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pages import assert_sound, text_of

from bequest.core.results import GroupScore, Interval, Leaderboard
from bequest.report.html import render, write

Make = Callable[..., Leaderboard]
EVIL = "<script>alert('x')</script>&\"$a_b$"


def test_numbers_of_every_row_appear(board: Leaderboard) -> None:
    page = text_of(render(board))
    for row in board.rows:
        assert row.validation
        assert row.validation.sem
        assert f"{100 * row.validation.mean:.1f} ± {100 * row.validation.sem:.1f} %" in page
        assert row.family in page
    for words in (
        "lora",
        "solved",
        "9.3 / 10",
        "224 k",
        "22.7 M",
        "7.7 kB",
        "210 MB added",
        "1.4 GB alone",
        "412 /s",
        "8.1 / 9.7 ms",
        "425 MFLOPs",
        "2.1 s shared",
    ):
        assert words in page, words
    assert "Of 200 labels, each seed fits on 160 and holds 40 out" in page
    assert "scored once per final model and chose nothing" in page
    assert "1,234 passes of a sample through frozen layers asked for, 617 computed" in page
    assert "bequest replay DIR" in page
    assert "bequest predict DIR FILES" in page


def test_further_metrics_stand_under_the_test_score_and_beside_each_run(make: Make) -> None:
    board = make(["lora"], 2)
    trials = [replace(t, metrics={"macro-F1": 0.9 + 0.0123 * t.seed}) for t in board.trials]
    rows = [replace(r, metrics={"macro-F1": Interval(0.906, 0.0062, 2, [0.9, 0.9123])}) for r in board.rows]
    page = render(replace(board, rows=rows, trials=trials))
    assert re.search(r"macro-F1 +90.6 ± 0.6 %", text_of(page))
    assert all(words in text_of(page) for words in ("test macro-F1", "90.00 %", "91.23 %"))
    assert_sound(page)


def with_groups(board: Leaderboard, scores: dict[str, float], **protocol: str) -> Leaderboard:
    """Groups of 10, 11, … test samples with these accuracies, of every method and seed."""
    groups = {name: GroupScore(score, 10 + i) for i, (name, score) in enumerate(scores.items())}
    lowest = min(scores.values())
    over = {name: Interval(score, 0.01, 2, [score] * 2) for name, score in scores.items()}
    worst = Interval(lowest - 0.05, 0.02, 2, [lowest - 0.05] * 2)
    further = {"metrics": {"worst_group_accuracy": worst}, "validation_worst_group": Interval(0.4321, None, 1, [0.4])}
    trials = [
        replace(t, groups=groups, metrics={"worst_group_accuracy": lowest}, validation_worst_group=0.4444)
        for t in board.trials
    ]
    return replace(
        board,
        rows=[replace(r, groups=over, **further) for r in board.rows],
        trials=trials,
        task={**board.task, "groups": [*scores, "sport / violet"], "group_counts": [9] * (len(scores) + 1)},
        protocol={**board.protocol, **protocol},
    )


def test_groups_have_a_table_with_the_worst_marked(make: Make) -> None:
    board = with_groups(make(["lora", "freeze"], 2), {"sport / red": 0.9, "sport / <b>": 0.625, "food / red": 1.0})
    page = render(board)
    text = text_of(page).split("Accuracy by group")[1]
    assert re.search(r"sport / red +10 tested .* food / red +12 tested", text)
    assert re.search(r"lora 90.0 % ± 1.0 % 62.5 % ± 1.0 % worst 100.0 % ± 1.0 % freeze", text)
    assert page.count(">worst</span>") == 2
    assert "smallest group, of 10 samples, is 10.0 points" in text
    assert "Without test samples: sport / violet." in text
    assert 'data-label="sport / red (10)"' in page
    assert re.search(r"worst group +57.5 ± 2.0 %", text_of(page))
    assert all(words in text_of(page) for words in ("43.2 %", "44.44 %", "test worst group"))
    assert "best by validation" in page and "groups 4" in text_of(page)
    assert "by the worst" not in page
    assert_sound(page)


def test_a_page_ranked_by_the_worst_group_says_so_everywhere(make: Make) -> None:
    page = text_of(render(with_groups(make(["lora", "freeze"], 2), {"a": 0.9, "b": 0.6}, select_by="worst-group")))
    assert "has the highest validation worst-group accuracy: 43.2 %" in page
    assert "On the test part it reaches 55.0 ± 2.0 %" in page
    assert "Best by worst group on validation" in page and "Test worst-group accuracy" in page
    assert "Ordered by worst group on validation." in page and "best by worst group" in page
    assert "best by validation" not in page.lower()


def test_of_many_groups_the_worst_of_the_best_method_are_shown(make: Make) -> None:
    board = with_groups(make(["lora"], 2), {f"g{i}": 1 - i / 100 for i in range(30)})
    page = render(board)
    assert "Of 30 groups, the 12 worst of the best method are shown." in text_of(page)
    assert page.count(" tested</span>") == 12
    assert "g18<" in page and "g17<" not in page
    assert_sound(page)


@pytest.mark.parametrize("num_targets", [1, 2])
def test_an_error_in_units_is_shown_for_one_target_alone(make: Make, num_targets: int) -> None:
    board = make(["lora"], 2, metric="R²", confusion=[], metrics={"RMSE": 12.34567})
    spread = {"mean": 1.0, "sd": 1.0, "min": 0.0, "max": 2.0}
    task = {**board.task, "classes": ["price", "area"][:num_targets], "targets": [spread] * num_targets}
    rows = [replace(r, metrics={"RMSE": Interval(12.34567, 1.23, 2, [])}) for r in board.rows]
    page = text_of(render(replace(board, rows=rows, task=task)))
    assert (re.search(r"RMSE +12.3 ± 1.2", page) is not None) == ("12.35" in page) == (num_targets == 1)


def test_order_is_the_boards(board: Leaderboard) -> None:
    page = render(replace(board, rows=board.rows[::-1]))
    table = text_of(page[page.index("<body>") :]).split("Leaderboard")[1]
    places = [table.index(r.family if r.method == "lora" else r.method) for r in board.rows[::-1]]
    assert places == sorted(places)


def test_the_best_row_is_marked_by_words(board: Leaderboard) -> None:
    page = render(board)
    assert page.count(">best by validation<") == 1
    assert text_of(page).index("best by validation") > text_of(page).index("low-rank adaptation")


def test_same_board_same_page(board: Leaderboard) -> None:
    assert render(board) == render(board)
    assert render(Leaderboard.from_json(board.to_json())) == render(board)


def test_page_is_sound_and_self_contained(board: Leaderboard) -> None:
    page = render(board)
    assert_sound(page)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", page)
    assert page.count("<svg viewBox") > 5


def test_nothing_recorded_is_hidden(board: Leaderboard) -> None:
    page = text_of(
        render(
            replace(
                board,
                task={**board.task, "odd_task": "t-77"},
                source={**board.source, "odd_source": {"a": [1, 2]}},
                protocol={**board.protocol, "odd_protocol": None},
                environment={**board.environment, "odd_environment": True},
                passes={**board.passes, "odd_passes": 4321},
            )
        )
    )
    for words in ("t-77", "odd source", "odd protocol none", "odd environment yes", "odd passes: 4,321"):
        assert words in re.sub(r"\s+", " ", page), words


def test_user_texts_are_escaped(board: Leaderboard) -> None:
    trials = [replace(t, settings={EVIL: EVIL}) for t in board.trials]
    evil = replace(
        board,
        rows=[replace(r, settings={EVIL: EVIL}, family=EVIL) for r in board.rows],
        task={**board.task, "name": EVIL, "classes": [EVIL, *board.task["classes"][1:]], "notes": [EVIL]},
        source={**board.source, "name": EVIL},
        environment={EVIL: EVIL},
        trials=trials,
    )
    page = render(evil)
    assert page.count("<script") == 1, "the page has one of its own"
    assert page.count("&lt;script&gt;") >= 8
    assert_sound(page)


def test_method_names_are_escaped_in_plots(make: Make) -> None:
    page = render(make([EVIL, "lora"], 2, classes=["a", "b<i>"], counts=[3, 4]))
    assert page.count("<script") == 1, "the page has one of its own"
    assert "<i>" not in page
    assert "$a_b$" in page.replace("<wbr>", ""), "a dollar sign is no formula"
    assert_sound(page)


def test_one_seed_claims_nothing(make: Make) -> None:
    page = text_of(render(make(["lora", "linear_probe"], 1)))
    assert "One seed tells no difference between methods from chance" in page
    assert "±" not in page.replace("Means ± standard error", "")
    assert "one seed" in page


def test_one_method(make: Make) -> None:
    page = render(make(["lora"], 3))
    assert "is the only method with a result" in page
    assert_sound(page)


def test_solved_methods_alone_have_no_curves(make: Make) -> None:
    page = render(make(["linear_probe"], 2))
    assert "Learning curves" not in page
    assert_sound(page)


def test_failed_rows_show_their_errors(board: Leaderboard, make: Make) -> None:
    lost = make(["freeze"], 3, error="Out of <memory> at step 3.", validation=None, test=None, epochs=[])
    both = replace(board, rows=[*board.rows[:2], *lost.rows], trials=[*board.trials, *lost.trials])
    page = render(both)
    assert "Out of &lt;memory&gt; at step 3." in page
    assert text_of(page).count("failed") == 1
    assert_sound(page)


def test_a_lost_seed_is_told(board: Leaderboard) -> None:
    first = board.rows[0]
    page = text_of(render(replace(board, rows=[replace(first, errors=["The loss is not a number."])])))
    assert "3 of 3 seeds" in page
    assert "The loss is not a number." in page


def test_no_result_at_all(make: Make) -> None:
    page = render(make(["lora"], 2, error="Boom.", validation=None, test=None, epochs=[]))
    assert "No method finished" in page
    assert "bequest predict" not in page
    assert "Boom." in page
    assert_sound(page)


def test_an_empty_board() -> None:
    page = render(Leaderboard([], {}, {}, {}, {}, {}, []))
    assert "No method was run." in page
    assert_sound(page)


def test_twenty_methods_hundred_classes_long_names(make: Make) -> None:
    names = [f"a_method_whose_name_is_quite_long_{i}" for i in range(20)]
    classes = [f"class number {i} of the many" for i in range(100)]
    page = render(make(names, 3, classes=classes, counts=[7] * 100))
    assert_sound(page)
    assert len(page) < 1_500_000
    words = text_of(page)
    for name in [*names, *classes]:
        assert name in words
    assert "Classes are numbered" in words


@pytest.mark.parametrize("lost", ["median_seed", "test", "inference_per_s"])
def test_absent_values(board: Leaderboard, lost: str) -> None:
    page = render(replace(board, rows=[replace(r, **{lost: None}) for r in board.rows]))
    assert_sound(page)
    assert "None" not in text_of(page)


def test_confused_pairs_in_words(board: Leaderboard) -> None:
    counts = [[10, 0, 0, 0, 0], [0, 6, 4, 0, 0], [0, 1, 9, 0, 0], [0, 0, 0, 10, 0], [0, 0, 0, 0, 10]]
    page = text_of(render(replace(board, trials=[replace(t, confusion=counts) for t in board.trials])))
    assert "4 of 10 entertainment taken for politics (40 %)" in page
    assert "45 of 50 test samples right" in page
    assert page.index("4 of 10 entertainment") < page.index("1 of 10 politics")


def test_costs_can_be_chosen_and_their_frontiers_are_told(board: Leaderboard) -> None:
    page = render(board)
    for label in (
        "training time",
        "memory added while fitting",
        "peak memory of a process of its own",
        "trainable parameters",
        "what is stored",
        "inference time a sample, in batches",
        "latency of a sample alone",
        "operations of a prediction",
    ):
        assert f">{label}</label>" in page
    assert "optimizer state" not in page, "nothing was recorded of it"
    assert page.count(" checked>") == 1
    best = max(board.rows, key=lambda row: row.test.mean if row.test else 0)
    names = re.findall(r"No method beats (?:these in both: ([^.]+)|(\w+) in both)\.", text_of(page))
    names = [several or one for several, one in names]
    assert len(names) == 8 and names[0].startswith("linear_probe") and names[0].endswith(best.method)


def test_one_method_that_none_beats_and_labels_kept_for_ranking(make: Make) -> None:
    board = make(["lora"], 2)
    assert "No method beats lora in both." in text_of(render(board))
    kept = replace(board, protocol={**board.protocol, "train": 160, "validation": 20, "selection": 20})
    told = text_of(render(kept))
    assert (
        "Of 200 labels, each seed fits on 160, chooses the best epoch by 20, which some methods are fitted on" in told
    )
    assert "orders this table by the other 20" in told


def test_per_class_metrics_are_means_over_seeds(make: Make) -> None:
    board = make(["lora"], 2, classes=["a", "b"], counts=[5, 5])
    counts = [[[8, 10, 9], [9, 10, 11]], [[6, 10, 7], [9, 10, 13]]]
    trials = [replace(t, by_class=counts[t.seed]) for t in board.trials]
    page = render(replace(board, trials=trials))
    table = text_of(page).split("Class by class")[1].split("The data")[0]
    assert "means ± standard error over 2 seeds" in table
    # Recall of a: 8/10 and 6/10; precision 8/9 and 6/7.
    assert re.search(r"a 10 87.3 ± 1.6 % 70.0 ± 10.0 %", table)


def test_write(board: Leaderboard, tmp_path: Path) -> None:
    path = tmp_path / "run" / "report.html"
    write(board, path)
    assert path.read_text(encoding="utf-8") == render(board)
    assert os.listdir(path.parent) == ["report.html"]


def test_of_folds_nothing_is_said_of_a_test_part(board: Leaderboard) -> None:
    folded = replace(board, protocol={**board.protocol, "folds": 5})
    assert "divides all samples into 5 folds" in render(folded) and "chose nothing" not in render(folded)
    assert "chose nothing" in render(board)
