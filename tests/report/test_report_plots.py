from __future__ import annotations

import re
from dataclasses import replace

import matplotlib
import pytest

from bequest.core.results import Epoch, Leaderboard, Row
from bequest.report import plots
from bequest.report.costs import COSTS, frontier, measured
from bequest.report.labels import Box, place
from bequest.report.units import mean_sem


def curve(board: Leaderboard) -> str:
    drawn = plots.curves(board, plots.WIDE)
    assert drawn
    return drawn


def ticks(svg: str) -> list[float]:
    """The numbers written in a drawing."""
    return [float(t.replace("−", "-")) for t in re.findall(r">(−?[\d.]+)</text>", svg)]


def test_accuracy_axis_holds_every_error_bar_and_not_zero(board: Leaderboard) -> None:
    row = board.rows[0]
    assert row.test
    wide = replace(row, test=replace(row.test, mean=0.9, sem=0.15))
    figure = plots.cost_and_score(replace(board, rows=[wide, *board.rows[1:]]), plots.WIDE)
    assert figure
    numbers = ticks(figure)
    assert min(numbers) > 0
    assert min(numbers) <= 80
    assert max(numbers) >= 100


def test_names_stand_beside_the_points(board: Leaderboard) -> None:
    figure = plots.cost_and_score(board, plots.NARROW)
    assert figure
    for row in board.rows:
        assert f">{row.method}</text>" in figure


def test_drawings_use_the_pages_colours(board: Leaderboard) -> None:
    drawn = curve(board)
    assert "var(--s0)" in drawn
    assert "var(--line)" in drawn
    assert not re.search(r"#[0-9a-f]{6}", drawn)
    assert "font-family" not in drawn


def test_users_settings_do_not_matter_and_stay(board: Leaderboard) -> None:
    before = curve(board)
    with matplotlib.rc_context({"axes.facecolor": "red", "lines.linewidth": 9, "svg.fonttype": "path"}):
        assert curve(board) == before
        assert matplotlib.rcParams["lines.linewidth"] == 9
        assert matplotlib.rcParams["svg.fonttype"] == "path"


def test_stages_follow_one_another(board: Leaderboard) -> None:
    course = [Epoch(s, e, None, 1.0, 0.5, None, 1.0) for s in (0, 1) for e in range(13)]
    staged = replace(board, trials=[replace(t, epochs=course) for t in board.trials if t.method == "lora"])
    assert 24 in ticks(curve(staged))
    single = replace(board, trials=[replace(t, epochs=course[:13]) for t in staged.trials])
    assert 24 not in ticks(curve(single))


def test_solved_methods_are_lines_in_the_accuracy_panel(board: Leaderboard) -> None:
    without = replace(board, rows=[r for r in board.rows if r.epochs_planned])
    dashes = [s.count("stroke-dasharray") for s in (curve(board), curve(without))]
    assert dashes[0] == dashes[1] + 1


def test_the_mean_ends_where_the_first_seed_stops() -> None:
    xs, ys = plots._mean_line([{0: 1.0, 1: 2.0}, {0: 3.0, 1: 4.0, 2: 9.0}])
    assert (xs, ys) == ([0, 1], [2.0, 3.0])


@pytest.mark.parametrize(("size", "counted"), [(20, True), (21, False)])
def test_counts_are_written_up_to_twenty_classes(size: int, counted: bool) -> None:
    counts = [[77 if i == j else 0 for j in range(size)] for i in range(size)]
    drawn, width = plots.confusion(counts, [f"name {i}" for i in range(size)])
    assert (">77</text>" in drawn) == counted
    assert ("name 19" in drawn) == counted
    assert width < 1000


def test_a_class_without_test_samples() -> None:
    drawn, _ = plots.confusion([[0, 0], [1, 2]], ["none", "some"])
    assert ">none</text>" in drawn


def test_looks_differ_beyond_the_number_of_colours() -> None:
    looks = [plots.Look(i) for i in range(32)]
    assert len({(x.color, x.marker) for x in looks}) == 32


def test_labels_do_not_cover_each_other_or_the_points() -> None:
    points = [(100.0 + 4 * i, 100.0) for i in range(5)]
    marks = [Box(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    frame = Box(0, 0, 400, 300)
    boxes = [p.box for p in place(points, [(60.0, 14.0)] * 5, marks, frame)]
    for i, box in enumerate(boxes):
        assert box.overlap(frame) == pytest.approx(box.area)
        assert all(box.overlap(other) == 0 for other in [*boxes[:i], *marks])


def test_a_dollar_sign_is_no_formula(board: Leaderboard) -> None:
    name = "a$b_1$c"
    rows = [replace(board.rows[0], method=name)]
    trials = [replace(t, method=name) for t in board.trials if t.method == board.rows[0].method]
    figure = plots.cost_and_score(replace(board, rows=rows, trials=trials), plots.WIDE)
    assert figure
    assert f">{name}</text>" in figure
    drawn, _ = plots.confusion([[1, 0], [0, 1]], [name, "other"])
    assert drawn.count(f">{name}</text>") == 2


def layers(*values: float | None) -> list[plots.LayerValue]:
    return [plots.LayerValue(f"blocks.{i}", i / (len(values) - 1), v) for i, v in enumerate(values)]


@pytest.mark.parametrize("size", [plots.WIDE, plots.NARROW])
def test_scores_over_depth_name_each_sources_best_layer(size: plots.Size) -> None:
    sources = {"vit": layers(0.2, 0.9, 0.7), "lite<0>": layers(0.3, None, 0.4, 0.6), "none": layers(None, None)}
    figure = plots.by_depth(sources, "leave_one_out_accuracy", size)
    assert figure
    key = re.findall(r">([^<>]+, best: [^<>]+)</text>", figure)
    assert sorted(key) == ["lite&lt;0&gt;, best: blocks.3", "vit, best: blocks.1"]
    assert ">leave one out accuracy (%)</text>" in figure
    assert 'aria-label="leave one out accuracy (%) by depth of the layer of vit, lite&lt;0&gt;"' in figure
    assert max(ticks(figure)) >= 80
    assert "var(--s1)" in figure and "var(--s2)" not in figure
    assert not re.search(r"#[0-9a-f]{6}", figure)


def test_a_sources_look_does_not_depend_on_what_is_defined() -> None:
    figure = plots.by_depth({"none": layers(None, None), "vit": layers(-3.0, -1.0)}, "logme", plots.WIDE)
    assert figure and "var(--s1)" in figure and "var(--s0)" not in figure
    assert min(ticks(figure)) <= -2  # not in per cent
    assert max(ticks(figure)) <= 1


def test_order_of_layers_does_not_matter() -> None:
    line = layers(0.1, 0.5, 0.3)
    assert plots.by_depth({"a": line}, "logme", plots.WIDE) == plots.by_depth({"a": line[::-1]}, "logme", plots.WIDE)


@pytest.mark.parametrize("sources", [{}, {"a": []}, {"a": layers(None, float("nan"))}])
def test_nothing_to_draw_over_depth(sources: dict[str, list[plots.LayerValue]]) -> None:
    assert plots.by_depth(sources, "logme", plots.WIDE) is None


def test_the_frontier_holds_whom_nobody_beats_in_both(board: Leaderboard) -> None:
    def at(method: str, mean: float, seconds: float) -> Row:
        row = board.rows[0]
        assert row.test
        return replace(row, method=method, test=replace(row.test, mean=mean), train_s=seconds)

    rows = [at("dear", 0.9, 9.0), at("cheap", 0.7, 1.0), at("beaten", 0.6, 2.0), at("tie", 0.9, 10.0)]
    assert [r.method for r in frontier(rows, COSTS[0])] == ["cheap", "dear"]
    falling = [replace(r, higher_is_better=False) for r in rows]
    assert [r.method for r in frontier(falling, COSTS[0])] == ["cheap", "beaten"]


def test_every_point_tells_its_numbers(board: Leaderboard) -> None:
    for cost in measured(board):
        figure = plots.cost_and_score(board, plots.WIDE, cost)
        assert figure and 'role="group"' in figure
        assert figure.count('tabindex="0"') == len(board.rows)
        for row in board.rows:
            value = cost.of(row)
            assert value is not None
            assert (
                f'aria-label="{row.method}; test {mean_sem(row.test, row.metric)}; {cost.label} {cost.text(value)}"'
                in (figure)
            )


def test_what_costs_nothing_stands_at_zero(board: Leaderboard) -> None:
    rows = [replace(r, optimizer_bytes=0 if r.method == "linear_probe" else 2_000_000) for r in board.rows]
    optimizer = next(cost for cost in COSTS if cost.name == "optimizer")
    figure = plots.cost_and_score(replace(board, rows=rows, trials=[]), plots.WIDE, optimizer)
    assert figure
    assert ">0</text>" in figure and ">2 MB</text>" in figure
