"""The report's figures, drawn with matplotlib's objects and returned as SVG elements."""

# matplotlib's stubs leave most keyword arguments open.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bequest.core.distillation import DISTILLED
from bequest.core.results import Epoch, Leaderboard, Row, TrialRecord
from bequest.report import distilling
from bequest.report.canvas import NARROW, WIDE, Look, Size, looks, new_axes, new_figure, write_title
from bequest.report.costs import COSTS, Cost, frontier, tested
from bequest.report.labels import Box, place
from bequest.report.svg import GRID, HEAT, MUTED, ON_HEAT, SURFACE, TEXT, Mark, series_color, style, to_svg
from bequest.report.units import duration, is_share, mean_sem, metric_name, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_COUNTED_CLASSES = 20
_MAX_FAINT = 8
_TICKS_S = [0.001, 0.01, 0.1, 1, 10, 60, 600, 3600, 36_000, 360_000]
_FINE_TICKS_S = sorted(
    [m * 10.0**k for k in range(-3, 1) for m in (1, 2, 5)]
    + [10, 20, 30, *(60 * m for m in (1, 2, 5, 10, 20, 30)), *(3600 * h for h in (1, 2, 5, 10, 20, 50, 100))]
)


@dataclass(frozen=True)
class LayerValue:
    """What was measured on one layer's features.

    Attributes:
        layer: Its name.
        depth: 0 at the source's input, 1 at its last layer.
        value: A score or a metric; None where it is not defined.
    """

    layer: str
    depth: float
    value: float | None


def cost_and_score(board: Leaderboard, size: Size, cost: Cost = COSTS[0]) -> str | None:
    """The test metric against a cost, one point a method, and the line of those that none beats in both.

    Each point tells its numbers when it is pointed at or focused. None where nothing was tested.
    """
    rows = tested(board, cost)
    if not rows:
        return None
    metric = f"test {metric_name(rows[0].metric)}"
    with style():
        figure = new_figure(size.width, 440 if size is WIDE else 340)
        ax = new_axes(figure, size, (58, 52, 20, 34))
        places = _draw_costs(ax, board, rows, cost, size)
        write_title(ax, metric + (" (%)" if is_share(rows[0].metric) else ""), size)
        ax.set_xlabel(f"{cost.label} (logarithmic)", fontsize=size.font, labelpad=8)
        names = ", ".join(r.method for r in rows)
        marks = [_cost_mark(row, cost, *places[row.method]) for row in rows]
        return to_svg(figure, f"{cost.name}-{size.name}", f"{metric} against {cost.label} of {names}", marks)


def _cost_mark(row: Row, cost: Cost, x: float, y: float) -> Mark:
    value = cost.of(row)
    assert value is not None
    return Mark(x, y, (row.method, f"test {mean_sem(row.test, row.metric)}", f"{cost.label} {cost.text(value)}"))


def curves(board: Leaderboard, size: Size) -> str | None:
    """Validation loss and metric by epoch; None where no method was trained by gradient descent."""
    series = _series(board)
    if not series:
        return None
    metric = next(r.metric for r in board.rows if r.method in series)
    share = is_share(metric)
    with style():
        figure = new_figure(size.width, 360 if size is WIDE else 580)
        left, right = _two_axes(figure, size)
        _log_where_wide(left, [run for runs in series.values() for run in runs])
        for ax, attribute in ((left, "validation_loss"), (right, "validation_metric")):
            scale = 100 if share and ax is right else 1
            for method, runs in series.items():
                _draw_runs(ax, runs, attribute, scale, looks(board)[method], faint=shows_single_seeds(board))
            _finish_curves(ax, size)
        _draw_solved(right, board, 100 if share else 1)
        write_title(left, "validation loss" + (" (logarithmic)" if _shows_log(left) else ""), size)
        write_title(right, f"validation {metric_name(metric)}" + (" (%)" if share else ""), size)
        text = f"validation loss and {metric_name(metric)} by training epoch of {', '.join(series)}"
        return to_svg(figure, f"curves-{size.name}", text)


def temperatures(board: Leaderboard, size: Size) -> str | None:
    """The test metric of distilled rows over ρ, that without a teacher and the teacher's; None without a sweep."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    found = distilling.sweep(board)
    if found is None:
        return None
    scale = 100 if is_share(found["metric"]) else 1
    title = f"test {metric_name(found['metric'])}" + (" (%)" if scale == 100 else "")
    with style():
        figure = new_figure(size.width, 360 if size is WIDE else 300)
        ax = new_axes(figure, size, (52, 50, 70, 34))
        ax.axhline(scale * found["teacher"], color=MUTED, lw=1.4, ls=(0, (4, 3)))
        _right_of(ax, scale * found["teacher"], "teacher", size)
        for method, of in found["methods"].items():
            look = looks(board)[method if of["plain"] is not None else f"{method}{DISTILLED} at {of['rows'][0][0]:g}"]
            if of["plain"] is not None:
                ax.axhline(scale * of["plain"], color=look.color, lw=1.2, ls=(0, (1, 2)))
                _right_of(ax, scale * of["plain"], "without" if len(found["methods"]) == 1 else "", size)
            rhos, means, errors = zip(*of["rows"], strict=True)
            errors = [scale * (error or 0.0) for error in errors]
            line = {"color": look.color, "lw": 2.0, "ls": look.dash, "elinewidth": 1.4, "mec": SURFACE, "mew": 0.8}
            ax.errorbar(rhos, [scale * mean for mean in means], errors, fmt=look.marker, ms=7, **line)
        ax.set_xscale("log")
        ticks = sorted({rho for of in found["methods"].values() for rho, _, _ in of["rows"]})
        ax.xaxis.set_major_locator(FixedLocator(ticks))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticks(ticks, [f"{rho:g}" for rho in ticks])
        ax.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
        write_title(ax, title, size)
        ax.set_xlabel("temperature ρ (logarithmic)", fontsize=size.font, labelpad=6)
        methods = ", ".join(found["methods"])
        return to_svg(figure, f"temperatures-{size.name}", f"{title} over the temperature of {methods}, distilled")


def _right_of(ax: Axes, height: float, text: str, size: Size) -> None:
    """A line's name, behind its end."""
    place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
    ax.annotate(text, (1, height), (6, 0), fontsize=size.font - 1, color=MUTED, annotation_clip=False, **place)


def confusion(counts: list[list[int]], classes: list[str]) -> tuple[str, int]:
    """A heat map of test counts, and the width in pixels at which it reads best.

    Args:
        counts: Rows are true classes.
        classes: Their names.
    """
    n = len(counts)
    names = [shorten(c, 20) for c in classes] if n <= MAX_COUNTED_CLASSES else []
    cell = min(64.0, max(30.0, 380 / n)) if names else 420 / n
    font = 12.0 if n <= 12 else 10.5
    margin = max(map(len, names), default=4) * font * 0.54 + 30
    # Long names below stand slanted.
    slanted = bool(names) and max(map(len, names)) * font * 0.58 > cell - 4
    bottom = (margin * 0.72 + 30 if slanted else 46) if names else 46
    width, height = margin + n * cell + 12, bottom + n * cell + 10
    with style():
        figure = new_figure(width, height)
        ax = figure.add_axes((margin / width, bottom / height, n * cell / width, n * cell / height))
        _draw_cells(ax, counts, *((0.035, 8) if names else (0.0, 25)))
        if names:
            _draw_counts(ax, counts, font)
        _finish_confusion(ax, n, names, font, slanted)
        return to_svg(figure, "confusion", f"confusion matrix of {n} classes"), round(width)


def scatter(pairs: list[list[float]], target: str, number: int) -> str:
    """Predicted against true values of one target, with the line on which they are equal.

    Args:
        pairs: True and predicted value of each sample.
        target: Its name.
        number: Of the figure in the page.
    """
    from matplotlib.ticker import MaxNLocator

    true, predicted = zip(*pairs, strict=True)
    low, high = min(*true, *predicted), max(*true, *predicted)
    with style():
        figure = new_figure(NARROW.width, 330)
        ax = new_axes(figure, NARROW, (62, 48, 14, 30))
        ax.axline((low, low), slope=1, color=GRID, lw=1.2)
        ax.plot(true, predicted, "o", color=series_color(0), ms=4.5, alpha=0.6, mew=0)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=4))
        ax.yaxis.set_major_locator(MaxNLocator(nbins=6))
        for limits in (ax.set_xlim, ax.set_ylim):
            pad = 0.04 * (high - low) or 1.0
            limits(low - pad, high + pad)
        write_title(ax, f"predicted {shorten(target, 30)}", NARROW)
        ax.set_xlabel("true", fontsize=NARROW.font, labelpad=6)
        return to_svg(figure, f"scatter-{number}", f"predicted against true values of {target}")


def learning_rates(
    rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], suggestion: float | None, name: str
) -> str:
    """Loss by learning rate of a range test, raw and smoothed, with the suggested rate.

    Args:
        rates: Of each step.
        losses: Of each step's batch.
        smoothed: Their running mean.
        suggestion: One of the rates; None draws no mark.
        name: What was trained.
    """
    with style():
        figure = new_figure(WIDE.width * 0.75, 400)
        ax = new_axes(figure, WIDE, (56, 52, 20, 34))
        ax.set_xscale("log")
        # matplotlib would write powers as TeX, which the page cannot set.
        ax.xaxis.set_major_formatter(lambda rate, _: f"{rate:g}")
        # Losses that run away at the last rates would leave a flat line of all that matters.
        before = smoothed[: max(1, list(smoothed).index(min(smoothed)) + 1)]
        low, high = min(*losses, *smoothed), max(before)
        ax.set_ylim(low - 0.15 * (high - low or 1.0), high + 0.35 * (high - low or 1.0))
        ax.plot(rates, losses, color=MUTED, lw=1, alpha=0.45)
        ax.plot(rates, smoothed, color=series_color(0), lw=2.4)
        text = ""
        if suggestion is not None:
            height = smoothed[list(rates).index(suggestion)]
            ax.axvline(suggestion, color=series_color(1), lw=1.2, dashes=(4, 3))
            ax.plot([suggestion], [height], "o", color=series_color(1), ms=9, mec=SURFACE, mew=1.2)
            text = f", suggested {suggestion:.2g}"
        write_title(ax, f"{name}: training loss of each step, and smoothed{text}", WIDE)
        ax.set_xlabel("learning rate (logarithmic)", fontsize=WIDE.font, labelpad=8)
        return to_svg(figure, "rates", f"training loss by learning rate{text}")


def by_depth(sources: Mapping[str, Sequence[LayerValue]], metric: str, size: Size, name: str = "depth") -> str | None:
    """A score or metric over the depth of the layer that it was measured on; None where it is defined nowhere.

    Each source is a line; its best layer has a large sign and stands in the key. What is higher counts as better.

    Args:
        sources: By name, their layers in any order; of equals the one that is given first is called the best.
        metric: What the values are; those of an accuracy or an F1 are shown in per cent.
        size: Of the drawing.
        name: Of the drawing, unique in the page.
    """
    scale, look = 100 if is_share(metric) else 1, {source: Look(i) for i, source in enumerate(sources)}
    lines = {source: _defined(layers, scale) for source, layers in sources.items()}
    lines = {source: line for source, line in lines.items() if line}
    if not lines:
        return None
    title = metric_name(metric) + (" (%)" if scale == 100 else "")
    key = 1.7 * size.font * len(lines)
    with style():
        figure = new_figure(size.width, key + (440 if size is WIDE else 340))
        ax = new_axes(figure, size, (58, key + 60, 20, 34))
        for row, (source, line) in enumerate(reversed(lines.items())):
            best = max(line, key=lambda point: point[1])
            _draw_depths(ax, sorted(line), best, look[source])
            text = f"{shorten(source, 24)}, best: {shorten(best[2], 40 if size is WIDE else 18)}"
            _write_key(figure, text, look[source], 58, 1.7 * size.font * (row + 0.5), size)
        ax.set_xlim(-0.04, 1.04)
        write_title(ax, title, size)
        ax.set_xlabel("depth of the layer (0: the input, 1: the last)", fontsize=size.font, labelpad=8)
        return to_svg(figure, f"{name}-{size.name}", f"{title} by depth of the layer of {', '.join(lines)}")


def shows_single_seeds(board: Leaderboard) -> bool:
    """Whether learning curves show single seeds; with many methods these would hide more than they show."""
    return len(_series(board)) <= _MAX_FAINT


def _two_axes(figure: Figure, size: Size) -> tuple[Axes, Axes]:
    width, height = (72 * float(i) for i in figure.get_size_inches())
    if size is WIDE:
        panel = width / 2
        return (
            new_axes(figure, size, (46, 50, panel + 24, 30)),
            new_axes(figure, size, (panel + 36, 50, 14, 30)),
        )
    return (
        new_axes(figure, size, (40, height / 2 + 46, 12, 28)),
        new_axes(figure, size, (40, 46, 12, height / 2 + 28)),
    )


def _draw_costs(
    ax: Axes, board: Leaderboard, rows: list[Row], cost: Cost, size: Size
) -> dict[str, tuple[float, float]]:
    """Signs, bars and names; gives the place of each method's sign in units."""
    from matplotlib.ticker import MaxNLocator

    scale = 100 if is_share(rows[0].metric) else 1
    ax.set_xscale("log")
    trials = [t for t in board.trials if t.test is not None and t.error is None]
    least = _least(cost, [*rows, *trials])
    points = {r.method: (max(cost.of(r) or 0.0, least), scale * r.test.mean) for r in rows if r.test}
    heights: list[float] = []
    for row in rows:
        assert row.test is not None
        look, sem, (x, y) = looks(board)[row.method], scale * (row.test.sem or 0.0), points[row.method]
        seeds = [t for t in trials if t.method == row.method and t.test is not None]
        # What was measured at one seed alone stands for all.
        xs = [max(found, least) if (found := cost.of(t)) is not None else x for t in seeds]
        ys = [scale * t.test for t in seeds if t.test is not None]
        ax.plot(xs, ys, look.marker, color=look.color, ms=5.5, alpha=0.45, mew=0)
        ax.errorbar(
            [x],
            [y],
            yerr=[sem] if row.test.sem is not None else None,
            fmt=look.marker,
            color=look.color,
            ms=10,
            mec=SURFACE,
            mew=1.2,
            elinewidth=1.6,
            capsize=4,
            capthick=1.6,
        )
        heights += [y - sem, y + sem, *ys]
    ax.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    _limits(ax, heights, 0.4 if scale == 100 else 0.004)
    values = [max(value, least) for r in [*rows, *trials] if (value := cost.of(r)) is not None]
    _cost_axis(ax, cost, values, least if 0 in map(cost.of, rows) else None, size)
    _draw_frontier(ax, [points[row.method] for row in frontier(rows, cost)])
    moved = {method: ax.transData.transform(point) for method, point in points.items()}
    places = {method: (float(x), float(y)) for method, (x, y) in moved.items()}
    _name_points(ax, board, rows, points, scale, size)
    return places


def _least(cost: Cost, scored: Sequence[Row | TrialRecord]) -> float:
    """Where a logarithmic axis shows nothing at all: half a decade below the least that is more."""
    return min((value for r in scored if (value := cost.of(r))), default=1e-3) / 3


def _draw_frontier(ax: Axes, points: list[tuple[float, float]]) -> None:
    if len(points) > 1:
        xs, ys = zip(*points, strict=True)
        dashes = {"ls": (0, (4, 3)), "lw": 1.2, "color": MUTED, "zorder": 1}
        ax.step(xs, ys, where="post", scalex=False, scaley=False, **dashes)


def _limits(ax: Axes, values: list[float], least: float) -> None:
    low, high = min(values), max(values)
    pad = max(0.1 * (high - low), least)
    ax.set_ylim(low - pad, high + pad)


def _cost_axis(ax: Axes, cost: Cost, values: list[float], zero: float | None, size: Size) -> None:
    low, high = min(values), max(values)
    # Names stand beside the points, so leave room at both ends; at least a factor of 4 altogether.
    spread = max(math.log10(high / low), 0.6)
    centre, half = math.log10(high * low) / 2, spread / 2 * (1.3 if size is WIDE else 1.5)
    low, high = 10 ** (centre - half), 10 ** (centre + half)
    ax.set_xlim(low, high)
    low = low if zero is None else 2 * zero
    seconds = cost.text is duration
    fine, coarse = (_FINE_TICKS_S, _TICKS_S) if seconds else (_decades(low, high, m) for m in ((1, 2, 5), (1,)))
    ticks = [t for t in fine if low <= t <= high]
    if len(ticks) > (9 if size is WIDE else 5):
        ticks = [t for t in coarse if low <= t <= high]
        ticks = ticks[:: math.ceil(len(ticks) / (9 if size is WIDE else 5)) or 1]
    texts = [_tick(t) if seconds else cost.text(t).replace(".0 ", " ") for t in ticks]
    ends = [] if zero is None else [zero]
    ax.set_xticks([*ends, *ticks], [*("0" for _ in ends), *texts])
    ax.set_xticks([], minor=True)


def _decades(low: float, high: float, steps: tuple[int, ...]) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**k for k in powers for m in steps]


def _tick(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:g} h"
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"


def _name_points(
    ax: Axes, board: Leaderboard, rows: list[Row], places: Mapping[str, tuple[float, float]], scale: float, size: Size
) -> None:
    most = 24 if size is WIDE else 6
    texts = [shorten(r.method, 18 if size is NARROW or len(rows) > 12 else 26) for r in rows]
    if len(rows) > most:
        texts = [str(looks(board)[r.method].index + 1) for r in rows]
    points: list[tuple[float, float]] = []
    obstacles: list[Box] = []
    for row in rows:
        assert row.test is not None
        mean, sem = scale * row.test.mean, scale * (row.test.sem or 0.0)
        x, low, y, high = (
            float(v)
            for v in (
                ax.transData.transform(places[row.method])[0],
                *(ax.transData.transform((1, v))[1] for v in (mean - sem, mean, mean + sem)),
            )
        )
        points.append((x, y))
        obstacles += [Box(x - 6, y - 6, x + 6, y + 6), Box(x - 4, low - 2, x + 4, high + 2)]
    window = ax.get_window_extent()
    frame = Box(*(float(v) for v in (window.x0 - 20, window.y0, window.x1 + 14, window.y1 + 6)))
    extents = [(0.6 * size.font * len(t), 1.15 * size.font) for t in texts]
    spots = place(points, extents, obstacles, frame)
    for row, text, point, spot in zip(rows, texts, points, spots, strict=True):
        _write_name(ax, text, point, spot.box, spot.leader, size, bold=row is board.best)


def _write_name(
    ax: Axes, text: str, point: tuple[float, float], box: Box, leader: bool, size: Size, *, bold: bool
) -> None:
    # Anchored on the side that faces the point: the page's fonts are narrower than the estimate.
    side = "left" if box.x0 >= point[0] else "right" if box.x1 <= point[0] else "center"
    x = {"left": box.x0, "right": box.x1, "center": (box.x0 + box.x1) / 2}[side]
    y = (box.y0 + box.y1) / 2
    if leader:
        end = min(max(point[0], box.x0), box.x1), min(max(point[1], box.y0), box.y1)
        (x0, y0), (x1, y1) = (ax.transData.inverted().transform(p) for p in (point, end))
        ax.plot([x0, x1], [y0, y1], color=GRID, lw=1, zorder=0, scalex=False, scaley=False)
    ax.annotate(
        text,
        (x, y),
        xycoords="figure points",
        ha=side,
        va="center_baseline",
        fontsize=size.font,
        color=TEXT,
        fontweight="bold" if bold else "normal",
        annotation_clip=False,
    )


def _defined(layers: Sequence[LayerValue], scale: float) -> list[tuple[float, float, str]]:
    """Depth, value in the drawing's units and name of the layers that have a value."""
    return [(v.depth, scale * v.value, v.layer) for v in layers if v.value is not None and math.isfinite(v.value)]


def _draw_depths(ax: Axes, line: list[tuple[float, float, str]], best: tuple[float, float, str], look: Look) -> None:
    xs, ys, _ = zip(*line, strict=True)
    ax.plot(xs, ys, look.marker, color=look.color, lw=2, ls=look.dash, ms=6, mec=SURFACE, mew=1)
    ax.plot(best[:1], best[1:2], look.marker, color=look.color, ms=11, mec=SURFACE, mew=1.2, zorder=3)


def _write_key(figure: Figure, text: str, look: Look, x: float, y: float, size: Size) -> None:
    """One line of a key: a piece of the series, then its text, from (x, y) in units."""
    from matplotlib.lines import Line2D
    from matplotlib.transforms import IdentityTransform

    ends = {"marker": look.marker, "markevery": [1], "ms": 8, "mec": SURFACE, "mew": 1}
    piece = Line2D(
        [x, x + 14, x + 28], [y] * 3, color=look.color, lw=2, ls=look.dash, transform=IdentityTransform(), **ends
    )
    figure.add_artist(piece)
    width, height = (72 * float(i) for i in figure.get_size_inches())
    figure.text((x + 36) / width, y / height, text, fontsize=size.font, color=TEXT, va="center_baseline")


def _series(board: Leaderboard) -> dict[str, list[list[tuple[int, Epoch]]]]:
    """For each trained method that has a result, one run a seed: (training epoch overall, record)."""
    known = looks(board)
    found: dict[str, list[list[tuple[int, Epoch]]]] = defaultdict(list)
    for trial in board.trials:
        if trial.method in known and trial.epochs and trial.error is None:
            found[trial.method].append(_overall(trial))
    return {method: found[method] for method in known if method in found}


def _overall(trial: TrialRecord) -> list[tuple[int, Epoch]]:
    """The epochs of all stages one after the other, numbered through."""
    ends: dict[int, int] = defaultdict(int)
    for e in trial.epochs:
        ends[e.stage] = max(ends[e.stage], e.epoch)
    return [(e.epoch + sum(n for stage, n in ends.items() if stage < e.stage), e) for e in trial.epochs]


def _draw_runs(
    ax: Axes, runs: list[list[tuple[int, Epoch]]], attribute: str, scale: float, look: Look, *, faint: bool
) -> None:
    lines = [[(x, scale * float(getattr(e, attribute))) for x, e in run] for run in runs]
    if faint and len(lines) > 1:
        for line in lines:
            ax.plot(*_columns(line), color=look.color, lw=1, alpha=0.3, ls=look.dash)
    xs, ys = _mean_line([dict(line) for line in lines])
    ax.plot(xs, ys, color=look.color, lw=2, ls=look.dash)
    ax.plot(xs[-1:], ys[-1:], look.marker, color=look.color, ms=7, mec=SURFACE, mew=1, zorder=3)


def _columns(line: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [x for x, _ in line], [y for _, y in line]


def _mean_line(lines: list[dict[int, float]]) -> tuple[list[int], list[float]]:
    """The mean over seeds, up to the epoch at which the first of them stopped."""
    xs = sorted(x for x in lines[0] if all(x in line for line in lines))
    return xs, [sum(line[x] for line in lines) / len(lines) for x in xs]


def _draw_solved(ax: Axes, board: Leaderboard, scale: float) -> None:
    for row in board.rows:
        if row.validation is not None and row.epochs_planned == 0:
            look = looks(board)[row.method]
            y = scale * row.validation.mean
            ax.axhline(y, color=look.color, lw=1.6, ls=(0, (2, 2)))
            ax.plot(
                [1], [y], look.marker, color=look.color, ms=7, mec=SURFACE, mew=1, zorder=3, clip_on=False,
                transform=ax.get_yaxis_transform(),
            )  # fmt: skip


def _shows_log(ax: Axes) -> bool:
    return ax.get_yscale() == "log"


def _log_where_wide(ax: Axes, runs: list[list[tuple[int, Epoch]]]) -> None:
    """A logarithmic axis where losses fall by more than a factor of 8, so that their ends stay apart."""
    losses = [e.validation_loss for run in runs for _, e in run]
    low, high = min(losses), max(losses)
    if not 0 < 8 * low < high:
        return
    ax.set_yscale("log")
    ax.set_ylim(low / 1.15, high * 1.15)
    steps = (1, 2, 5) if high / low < 300 else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**k for k in decades for m in steps if low / 1.15 <= m * 10.0**k <= high * 1.15]
    ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
    ax.set_yticks([], minor=True)


def _finish_curves(ax: Axes, size: Size) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set_xlim(left=0)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8 if size is WIDE else 6, integer=True))
    if not _shows_log(ax):
        ax.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    ax.set_xlabel("training epoch", fontsize=size.font, labelpad=6)


def _draw_cells(ax: Axes, counts: list[list[int]], gap: float, least: int) -> None:
    """Squares whose opacity is the share of the true class, and never below `least` per cent."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    shades: dict[int, list[Path]] = defaultdict(list)
    for i, row in enumerate(counts):
        for j, number in enumerate(row):
            if number:
                x0, x1, y0, y1 = j - 0.5 + gap, j + 0.5 - gap, i - 0.5 + gap, i + 0.5 - gap
                square = Path([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)], closed=True)
                shades[max(least, _shade(number, row))].append(square)
    for shade, squares in sorted(shades.items()):
        path = Path.make_compound_path(*squares)
        ax.add_patch(PathPatch(path, facecolor=HEAT, alpha=shade / 100, linewidth=0))


def _shade(number: int, row: list[int]) -> int:
    """Opacity in per cent, in steps."""
    share = number / sum(row)
    return 5 * round(20 * share)


def _draw_counts(ax: Axes, counts: list[list[int]], font: float) -> None:
    for i, row in enumerate(counts):
        for j, number in enumerate(row):
            color = GRID if number == 0 else ON_HEAT if _shade(number, row) >= 60 else TEXT
            ax.text(
                j, i, str(number), ha="center", va="center_baseline", fontsize=font, color=color,
                fontweight="bold" if i == j else "normal",
            )  # fmt: skip


def _finish_confusion(ax: Axes, n: int, names: list[str], font: float, slanted: bool) -> None:
    ax.set_xlim(-0.5, n - 0.5)
    ax.set_ylim(n - 0.5, -0.5)
    step = 10 if n <= 120 else 100
    places = list(range(n)) if names else list(range(step - 1, n, step))
    texts = names or [str(p + 1) for p in places]
    turn: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    ax.set_xticks(places, texts, fontsize=font, **turn)
    ax.set_yticks(places, texts, fontsize=font)
    ax.tick_params(length=0, pad=5, labelcolor=TEXT if names else MUTED)
    number = "" if names else " (number)"
    ax.set_xlabel("predicted" + number, fontsize=font, labelpad=6)
    ax.set_ylabel("true" + number, fontsize=font, labelpad=6)
    for side in ("top", "right", "left", "bottom"):
        ax.spines[side].set_visible(not names)
