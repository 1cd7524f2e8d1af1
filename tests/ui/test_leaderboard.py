from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from bequest.core.results import Interval, Leaderboard, Row, Versus
from bequest.ui.leaderboard import leaderboard_table

PROBE = Row(
    method="linear_probe",
    family="probes",
    metric="accuracy",
    validation=Interval(0.973, 0.004, 3, [0.97, 0.97, 0.979]),
    validation_loss=0.1,
    test=Interval(0.96, 0.002, 3, [0.96, 0.958, 0.962]),
    epochs_planned=0,
    epochs_run=0.0,
    trainable_parameters=1540,
    stored_bytes=6160,
    train_s=2.4,
    shared_s=1.0,
    peak_memory_bytes=0,
    inference_per_s=410.0,
    labels=80,
    settings={},
    errors=[],
    median_seed=1,
    added_memory_bytes=140_000_000,
    latency_p50_ms=8.13,
    latency_p95_ms=101.2,
    forward_flops=4.2e8,
)
FULL = replace(PROBE, method="full", validation=Interval(0.9, None, 1, [0.9]), epochs_planned=8, epochs_run=2.5)
FAILED = replace(PROBE, method="[lora]", validation=None, test=None, errors=["out of memory"])
BOARD = Leaderboard([PROBE, FULL, FAILED], {}, {}, {"seeds": [0, 1, 2]}, {}, {}, [])


def text(board: Leaderboard, width: int | None, num_rows: int | None = None) -> str:
    file = StringIO()
    console = Console(file=file, width=width or 200)
    console.print(leaderboard_table(board, width=width, num_rows=num_rows))
    return file.getvalue()


def line_of(method: str, output: str) -> str:
    (line,) = [line for line in output.splitlines() if line.startswith(method)]
    return line


def test_what_a_solver_wants_known_stands_below_the_table():
    row = replace(FULL, method="pro2", notes=["no source data were given"])
    assert "pro2: no source data were given" in text(replace(BOARD, rows=[PROBE, row]), None)
    assert "no source data" not in text(replace(BOARD, rows=[PROBE, row]), None, num_rows=1)


def test_rows_that_are_indistinguishable_from_the_best_are_marked():
    near, behind = Versus(-0.003, -0.02, 0.01, 0.5, True, 3, 90), Versus(-0.06, -0.08, -0.04, 0.001, False, 3, 90)
    rows = [PROBE, replace(FULL, versus_best=near), replace(FULL, method="freeze", versus_best=behind)]
    shown = text(replace(BOARD, rows=rows), None)
    assert "−0.3 points ≈" in line_of("full", shown) and "≈: indistinguishable from the best" in shown
    assert "−6.0 points" in line_of("freeze", shown) and "≈" not in line_of("freeze", shown)
    assert "the best" not in text(BOARD, None), "where nothing was compared"


def test_a_row_tells_scores_and_costs():
    cells = line_of("linear_probe", text(BOARD, None)).split("  ")
    told = [c.strip() for c in cells if c.strip()]
    assert told == [
        "linear_probe",
        "97.3 ± 0.4 %",
        "96.0 ± 0.2 %",
        "solved",
        "1.5 k",
        "2.4 s",
        "6.2 kB",
        "140 MB",
        "410 /s",
        "8.1 / 101 ms",
        "3 / 3",
    ]


def test_bytes_of_optimizers_are_told_where_one_has_any():
    assert "optimizer" not in text(BOARD, None)
    output = text(replace(BOARD, rows=[PROBE, replace(FULL, optimizer_bytes=181_000_000)]), None)
    assert "optimizer" in output
    assert " 181 MB " in line_of("full", output)
    assert " 181 MB " not in line_of("linear_probe", output)


def test_memory_of_other_kinds_is_told_where_it_was_measured():
    assert "alone" not in text(BOARD, None) and "accelerator" not in text(BOARD, None)
    measured = replace(PROBE, peak_memory_bytes=1_400_000_000, accelerator_memory_bytes=2_000_000_000)
    output = text(replace(BOARD, rows=[measured]), None)
    assert "alone" in output and "accelerator" in output
    assert line_of("linear_probe", output).split("MB")[1].split("/s")[0].split() == ["1.4", "GB", "2.0", "GB", "410"]


def test_one_seed_has_no_standard_error_and_early_stopping_shows():
    line = line_of("full", text(BOARD, None))
    assert " 90.0 % " in line
    assert "2.5 / 8" in line
    assert "1 / 3" in line


def test_a_failed_method_says_so_and_brackets_are_no_markup():
    assert "failed" in line_of("[lora]", text(BOARD, None))


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 120])
def test_narrow_terminals_lose_columns_not_legibility(width: int):
    output = text(BOARD, width)
    assert all(len(line) <= width for line in output.splitlines())
    assert "97.3 ± 0.4 %" in line_of("linear_probe", output)
    assert "…" not in output


def test_80_columns_keep_what_matters_most_and_name_what_is_missing():
    output = text(BOARD, 80)
    header, caption = output.split("─")[0], " ".join(output.split("accuracy: ")[1].split())
    assert all(word in header for word in ("method", "validation", "test", "training", "trainable", "seeds"))
    assert "inference" not in header
    assert caption.startswith("mean ± standard error over the seeds; not shown: ")
    assert "inference samples" in caption
    assert "not shown" not in text(BOARD, None)


def test_rows_that_have_no_room_are_counted():
    output = text(BOARD, None, num_rows=1)
    assert "full" not in output
    assert "2 more rows" in output


def test_nothing_finished_yet():
    assert "method" in text(replace(BOARD, rows=[]), 80)


GROUPED = [
    replace(
        row,
        groups={"a": Interval(0.5, 0.1, 3, [0.5])},
        metrics={"worst_group_accuracy": Interval(0.5, 0.1, 3, [0.5])},
        validation_worst_group=Interval(0.625, 0.05, 3, [0.625]),
    )
    for row in (PROBE, FULL)
]


def test_groups_have_a_column_of_the_worst_on_the_test_part():
    output = text(replace(BOARD, rows=[*GROUPED, FAILED]), 80)
    assert output.split("─")[0].count("worst group") == 1
    assert "50.0 ± 10.0 %" in line_of("linear_probe", output)
    assert "62.5" not in output
    assert "worst group" not in text(BOARD, None)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_what_ranks_by_the_worst_group_is_told_and_shown_first(width: int):
    output = text(replace(BOARD, rows=GROUPED, protocol={"select_by": "worst-group", "seeds": [0, 1, 2]}), width)
    assert all(len(line) <= width for line in output.splitlines())
    assert "ranked by the worst group on validation" in " ".join(output.split())
    assert "62.5 ± 5.0 %" in line_of("linear_probe", output)
    assert ("50.0 ± 10.0 %" in line_of("linear_probe", output)) == (width >= 80)
