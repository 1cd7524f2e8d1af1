"""The figures of the open questions: gaps, the way to parity, spectra."""

# matplotlib's stubs leave most keyword arguments open.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bequest.core.questions import FULL, Gap, Parity, Questions, Spectrum
from bequest.core.results import Leaderboard, TrialRecord
from bequest.report.canvas import WIDE, Look, Size, looks, new_axes, new_figure, write_title
from bequest.report.svg import GRID, MUTED, SURFACE, TEXT, style, to_svg
from bequest.report.units import is_share, metric_name, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_DRAWN = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Numbers of the singular values that are drawn: on a logarithmic axis no eye tells more apart."""

_LEAST = 1e-3
"""Of the largest singular value: where the spectra's axis ends."""


def gaps(board: Leaderboard, size: Size) -> str | None:
    """Each method's test metric minus full fine-tuning's, with its interval; None where nothing was tested."""
    found = board.questions
    if found is None or not found.gaps:
        return None
    scale, row = 100 if is_share(found.metric) else 1, 2.6 * size.font
    left = 0.58 * size.font * max(len(shorten(gap.method, 18)) for gap in found.gaps) + 18
    title = f"test {metric_name(found.metric)} minus full fine-tuning's" + (" (points)" if scale == 100 else "")
    with style():
        figure = new_figure(size.width, 84 + row * len(found.gaps))
        ax = new_axes(figure, size, (left, 46, 22, 34))
        _draw_gaps(ax, found.gaps, looks(board), scale)
        write_title(ax, title, size)
        better = "to the right is better" if found.higher_is_better else "to the left is better"
        ax.set_xlabel(better, fontsize=size.font, labelpad=6)
        return to_svg(figure, f"gaps-{size.name}", f"{title} of {', '.join(gap.method for gap in found.gaps)}")


def parity(board: Leaderboard, size: Size) -> str | None:
    """The best metric on held-out labels so far by optimizer step, and the mark; None where none was recorded."""
    found = board.questions
    if found is None or not found.parities:
        return None
    scale = 100 if is_share(found.metric) else 1
    methods = (FULL, *(parity.method for parity in found.parities))
    courses = {method: _mean_course(board.trials, method, found) for method in methods}
    title = f"best validation {metric_name(found.metric)} so far" + (" (%)" if scale == 100 else "")
    with style():
        figure = new_figure(size.width, 380 if size is WIDE else 300)
        ax = new_axes(figure, size, (52, 50, 20, 34))
        _step_axis(ax, [step for course in courses.values() for step, _ in course], size)
        mark = scale * _mean_mark(found.parities)
        ax.axhline(mark, color=MUTED, lw=1.4, ls=(0, (4, 3)))
        for method, course in courses.items():
            look, (xs, ys) = looks(board)[method], zip(*course, strict=True)
            line = {"color": look.color, "lw": 2.6 if method == FULL else 1.8, "ls": look.dash}
            ax.plot(xs, [scale * y for y in ys], look.marker, ms=5.5, mec=SURFACE, mew=0.8, clip_on=False, **line)
        _few_ticks(ax)
        write_title(ax, title, size)
        ax.set_xlabel("optimizer steps (logarithmic)", fontsize=size.font, labelpad=6)
        return to_svg(figure, f"parity-{size.name}", f"{title} by optimizer step of {', '.join(courses)}")


def spectra(board: Leaderboard, size: Size) -> str | None:
    """The singular values of what each method added to each matrix, a panel a method; None where none were measured."""
    found = board.questions
    if found is None or not found.ranks:
        return None
    across = min(3 if size is WIDE else 2, len(found.ranks))
    down = math.ceil(len(found.ranks) / across)
    height, left, gap = (230 if size is WIDE else 190), 44, 26
    width = (size.width - left - 12 - gap * (across - 1)) / across
    with style():
        figure = new_figure(size.width, down * height + 26)
        for number, ranks in enumerate(found.ranks):
            row, column = divmod(number, across)
            x = left + column * (width + gap)
            bottom = 26 + (down - 1 - row) * height + 26
            ax = new_axes(figure, size, (x, bottom, size.width - x - width, row * height + 34))
            _draw_spectra(ax, spectra_of(board, ranks.method, ranks.seed), looks(board)[ranks.method])
            ax.tick_params(labelleft=column == 0)
            write_title(ax, shorten(ranks.method, 24 if size is WIDE else 16), size)
        label = "number of the singular value"
        figure.text(0.5, 6 / (down * height + 26), label, fontsize=size.font, color=MUTED, ha="center", va="bottom")
        methods = ", ".join(ranks.method for ranks in found.ranks)
        return to_svg(figure, f"spectra-{size.name}", f"singular values of the weights' change of {methods}")


def spectra_of(board: Leaderboard, method: str, seed: int) -> list[Spectrum]:
    """Of every matrix to which a low-rank update can be added, as a trial's record has them."""
    [trial] = [t for t in board.trials if (t.method, t.seed) == (method, seed)]
    return [s for s in (trial.weights.spectra if trial.weights else []) if s.adaptable]


def _draw_gaps(ax: Axes, gaps: Sequence[Gap], look: Mapping[str, Look], scale: float) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.grid(axis="y", visible=False)
    ax.grid(axis="x")
    ax.axvline(0, color=MUTED, lw=1.4)
    for height, gap in enumerate(reversed(gaps)):
        sign = look[gap.method]
        if gap.low is not None and gap.high is not None:
            ax.plot([scale * gap.low, scale * gap.high], [height] * 2, color=sign.color, lw=2.2, solid_capstyle="round")
        ax.plot([scale * gap.mean], [height], sign.marker, color=sign.color, ms=10, mec=SURFACE, mew=1.2)
    ends = [scale * v for gap in gaps for v in (gap.low, gap.mean, gap.high, 0.0) if v is not None]
    pad = 0.06 * (max(ends) - min(ends)) or 1.0
    ax.set_xlim(min(ends) - pad, max(ends) + pad)
    ax.set_ylim(-0.6, len(gaps) - 0.4)
    ax.set_yticks(range(len(gaps)), [shorten(gap.method, 18) for gap in reversed(gaps)])
    ax.tick_params(axis="y", labelcolor=TEXT)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 2.5, 5, 10]))


def _mean_course(trials: Sequence[TrialRecord], method: str, found: Questions) -> list[tuple[int, float]]:
    """Steps and the best metric so far, mean over the seeds; one that stopped early keeps its best."""
    courses = [_course(t, found) for t in trials if t.method == method and t.error is None and t.epochs]
    steps = sorted({step for course in courses for step in course})
    return [(step, statistics.mean(_latest(course, step) for course in courses)) for step in steps]


def _course(trial: TrialRecord, found: Questions) -> dict[int, float]:
    """The best metric so far by optimizer steps."""
    better, step, course = max if found.higher_is_better else min, 0, {}
    best = trial.epochs[0].validation_metric
    for epoch in trial.epochs:
        step, best = step + (epoch.steps or 0), better(best, epoch.validation_metric)
        course[step] = best
    return course


def _latest(course: Mapping[int, float], step: int) -> float:
    return course[max(known for known in course if known <= step)]


def _mean_mark(parities: Sequence[Parity]) -> float:
    """Over the seeds: the mark is full fine-tuning's, the same for every method."""
    marks = {race.seed: race.mark for parity in parities for race in parity.races}
    return statistics.mean(marks.values())


def _step_axis(ax: Axes, steps: Sequence[int], size: Size) -> None:
    """Logarithmic, with 0, before training, at its left end."""
    least, most = min(step for step in steps if step), max(steps)
    ax.set_xscale("symlog", linthresh=least, linscale=0.4)
    ax.set_xlim(0, most * 1.03)
    ticks = [m * 10**k for k in range(7) for m in (1, 2, 5) if least <= m * 10**k <= most]
    if len(ticks) > (10 if size is WIDE else 5):
        ticks = [tick for tick in ticks if str(tick)[0] == "1"]
    ax.set_xticks([0, *ticks], [f"{tick:,}" for tick in (0, *ticks)])
    ax.set_xticks([], minor=True)


def _few_ticks(ax: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))


def _draw_spectra(ax: Axes, found: Sequence[Spectrum], look: Look) -> None:
    ax.set_xscale("log")
    ax.set_yscale("log")
    for spectrum in found:
        shown = [n for n in _MOST_DRAWN if n <= len(spectrum.values)]
        ax.plot(shown, [spectrum.values[n - 1] for n in shown], color=look.color, lw=0.8, alpha=0.45)
    middle = [(n, statistics.median(_value(s, n) for s in found)) for n in _MOST_DRAWN]
    xs, ys = zip(*[(n, value) for n, value in middle if value], strict=True)
    ax.plot(xs, ys, look.marker, color=look.color, lw=2.4, ls="-", ms=6, mec=SURFACE, mew=1, markevery=[len(xs) - 1])
    ax.set_xlim(0.93, 70)
    ax.set_ylim(_LEAST, 1.15)
    ax.set_xticks([1, 2, 4, 8, 16, 32, 64], ["1", "2", "4", "8", "16", "32", "64"])
    ax.set_yticks([1, 0.1, 0.01, 0.001], ["1", "0.1", "0.01", "0.001"])
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks([], minor=True)
    ax.spines["bottom"].set_color(GRID)


def _value(spectrum: Spectrum, number: int) -> float:
    return spectrum.values[number - 1] if number <= len(spectrum.values) else 0.0
