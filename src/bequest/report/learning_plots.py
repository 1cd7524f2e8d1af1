"""The figure of learning curves over the number of labels."""

# matplotlib's stubs leave most keyword arguments open.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bequest.core.intervals import within_range
from bequest.core.learning_curves import Crossing, Curve, LearningCurves
from bequest.core.results import Leaderboard
from bequest.report.canvas import WIDE, Look, Size, looks, new_axes, new_figure, write_title
from bequest.report.svg import GRID, MUTED, SURFACE, TEXT, style, to_svg
from bequest.report.units import is_share, metric_name, rough, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_CROSSINGS = 4
_MOST_BANDS = 5
"""With more curves bands would hide more than they show: intervals are drawn as bars then."""


def learning_curves(board: Leaderboard, size: Size) -> str | None:
    """The test metric over the number of labels, a line a method with its name at the end; None without curves."""
    found = board.learning_curves
    if found is None:
        return None
    scale = 100 if is_share(found.metric) else 1
    title = f"test {metric_name(found.metric)}" + (" (%)" if scale == 100 else "")
    known = looks(board)
    curves = [(curve, known.get(curve.method, Look(len(known)))) for curve in found.curves]
    names = [shorten(curve.method, 24 if size is WIDE else 14) for curve, _ in curves]
    margin = 0.56 * size.font * max(map(len, names)) + 30
    with style():
        figure = new_figure(size.width, 440 if size is WIDE else 360)
        ax = new_axes(figure, size, (52, 52, margin, 34))
        for curve, look in curves:
            _draw(ax, curve, look, scale, banded=len(curves) <= _MOST_BANDS)
        for crossing in [crossing for crossing in found.crossings if crossing.is_told][:_MOST_CROSSINGS]:
            _mark(ax, crossing, next(curve for curve in found.curves if curve.method == crossing.ahead), scale, size)
        ax.set_ylim(*heights(found, scale))
        _label_axis(ax, found.sizes, size)
        _name_ends(ax, curves, names, scale, size)
        write_title(ax, title, size)
        ax.set_xlabel("labels (logarithmic)", fontsize=size.font, labelpad=8)
        return to_svg(figure, f"labels-{size.name}", f"{title} over the number of labels of {', '.join(names)}")


def heights(found: LearningCurves, scale: float) -> tuple[float, float]:
    """What the axis spans: all seeds, and of the intervals as much again on each side.

    With two or three seeds an interval may be many times as wide as all that was measured, and beyond what the metric
    can be; the curves would be one flat line in it.
    """
    points = [point for curve in found.curves for point in curve.points]
    values = [value for point in points for value in point.values]
    least, most = min(values), max(values)
    reach = most - least
    low = min([least, *(max(p.low, least - reach) for p in points if p.low is not None)])
    high = max([most, *(min(p.high, most + reach) for p in points if p.high is not None)])
    low, high = within_range(low, found.metric), within_range(high, found.metric)
    margin = 0.04 * (high - low) or 0.04 * abs(high) or 0.04
    return scale * (low - margin), scale * (high + margin)


def _draw(ax: Axes, curve: Curve, look: Look, scale: float, *, banded: bool) -> None:
    xs, ys = [p.labels for p in curve.points], [scale * p.mean for p in curve.points]
    low = [scale * (p.mean if p.low is None else p.low) for p in curve.points]
    high = [scale * (p.mean if p.high is None else p.high) for p in curve.points]
    if banded:
        ax.fill_between(xs, low, high, color=look.color, alpha=0.13, lw=0)
    else:
        ax.vlines(xs, low, high, color=look.color, lw=1, alpha=0.5)
    ax.plot(xs, ys, look.marker, color=look.color, lw=2.2, ls=look.dash, ms=7, mec=SURFACE, mew=1, zorder=3)


def _mark(ax: Axes, crossing: Crossing, curve: Curve, scale: float, size: Size) -> None:
    """A ring where two methods change places, with the number of labels, and a bar over its interval."""
    assert crossing.low is not None and crossing.high is not None, "only what is told is marked"
    logs = [math.log(point.labels) for point in curve.points]
    height = float(np.interp(math.log(crossing.labels), logs, [scale * point.mean for point in curve.points]))
    ax.plot([crossing.low, crossing.high], [height, height], color=TEXT, lw=1.4, zorder=4)
    ax.plot([crossing.labels], [height], "o", color=SURFACE, mec=TEXT, mew=1.6, ms=9, zorder=5)
    place: dict[str, Any] = {"xytext": (0, -15), "textcoords": "offset points", "ha": "center", "va": "center"}
    place |= {"color": TEXT, "fontsize": size.font - 1}
    ax.annotate(rough(crossing.labels), (crossing.labels, height), **place)


def _label_axis(ax: Axes, sizes: Sequence[int], size: Size) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set_xscale("log")
    spread = sizes[-1] / sizes[0]
    ax.set_xlim(sizes[0] / spread**0.04, sizes[-1] * spread**0.03)
    most = 12 if size is WIDE else 6
    shown = sizes[:: -(-len(sizes) // most)]
    ax.set_xticks(shown, [f"{number:,}" for number in shown])
    ax.set_xticks([], minor=True)
    ax.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))


def _name_ends(ax: Axes, curves: Sequence[tuple[Curve, Look]], names: Sequence[str], scale: float, size: Size) -> None:
    """Each method's name right of its line's end, apart from the others', with a thin line to it where it was moved."""
    ends = [(curve.points[-1].labels, scale * curve.points[-1].mean) for curve, _ in curves]
    points = [tuple(float(v) for v in ax.transData.transform(end)) for end in ends]
    window = ax.get_window_extent()
    heights = apart([y for _, y in points], 1.25 * size.font, float(window.y0), float(window.y1))
    left = float(window.x1)
    for (_, look), name, (x, y), height in zip(curves, names, points, heights, strict=True):
        (x0, y0), (x1, y1) = (ax.transData.inverted().transform(p) for p in ((x + 5, y), (left + 12, height)))
        ax.plot([x0, x1], [y0, y1], color=GRID, lw=1, zorder=0, scalex=False, scaley=False, clip_on=False)
        place: dict[str, Any] = {"xycoords": "figure points", "va": "center_baseline", "annotation_clip": False}
        ax.annotate("●", (left + 14, height), color=look.color, fontsize=size.font * 0.7, **place)
        ax.annotate(name, (left + 25, height), color=TEXT, fontsize=size.font, **place)
    ax.tick_params(labelcolor=MUTED)


def apart(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Heights near the given ones, in their order, at least a gap apart and, as far as they fit, in a range.

    Args:
        heights: Where each would lie by itself.
        gap: Between two of them.
        low: Lower end of the range.
        high: Upper end.
    """
    order = sorted(range(len(heights)), key=heights.__getitem__)
    groups: list[tuple[float, list[int]]] = []  # centre and members of those that touch
    for i in order:
        centre, members = heights[i], [i]
        while groups and centre - groups[-1][0] < gap * (len(members) + len(groups[-1][1])) / 2:
            members = groups.pop()[1] + members
            centre = sum(heights[j] for j in members) / len(members)
        reach = gap * (len(members) - 1) / 2
        groups.append((max(min(centre, high - reach), low + reach), members))
    found = dict[int, float]()
    for centre, members in groups:
        for number, i in enumerate(members):
            found[i] = centre + gap * (number - (len(members) - 1) / 2)
    return [found[i] for i in range(len(heights))]
