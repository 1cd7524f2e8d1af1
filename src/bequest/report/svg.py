"""From a matplotlib figure to an SVG that lives inside a page: its colours, its fonts, its own ids."""

# matplotlib's stubs leave most keyword arguments open.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

NUM_SERIES = 8
_TIP_FONT = 12.5
# Colours that stand for the page's own until `to_svg` puts those in, so that one drawing fits light and dark.
TEXT, MUTED, GRID, HEAT, ON_HEAT, SURFACE = (f"#fe01{i:02x}" for i in range(6))
_VARIABLES = {
    TEXT: "currentColor",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    HEAT: "var(--heat)",
    ON_HEAT: "var(--on-heat)",
    SURFACE: "var(--surface)",
    **{f"#fe00{i:02x}": f"var(--s{i})" for i in range(NUM_SERIES)},
}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bequest",
    "text.parse_math": False,
    "text.color": TEXT,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.unicode_minus": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
}


@dataclass(frozen=True)
class Mark:
    """A point of a drawing that says what it is when it is pointed at or focused.

    Attributes:
        x: Units from the left.
        y: Units from the bottom.
        lines: What it says; the first is its name.
    """

    x: float
    y: float
    lines: tuple[str, ...]


def series_color(index: int) -> str:
    """The colour of the series with that number; they repeat after `NUM_SERIES`."""
    return f"#fe00{index % NUM_SERIES:02x}"


@contextmanager
def style() -> Generator[None]:
    """The report's look while drawing; the user's own matplotlib settings come back after."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        # The page's fonts draw the texts, so what matplotlib's font lacks does not matter.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)  # pyright: ignore[reportCallIssue, reportArgumentType]
        yield


def to_svg(figure: Figure, name: str, label: str, marks: Sequence[Mark] = ()) -> str:
    """The figure as an `<svg>` element.

    Args:
        figure: Drawn inside `style()`; one inch is 72 units of the view box.
        name: Unique in the page; every id starts with it.
        label: What the figure shows, for those who cannot see it.
        marks: Points that tell more.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    # Only inside tags: a user's text may hold anything.
    text = re.sub(r"<[^>]*>", _tag_rewriter(name), text)
    width, height = (round(72 * inches) for inches in figure.get_size_inches())
    # What is inside an image cannot be focused.
    role = "group" if marks else "img"
    head = f'<svg viewBox="0 0 {width} {height}" role="{role}" aria-label="{_attribute(label)}">'
    text = re.sub(r"^<svg[^>]*>", lambda _: head, text)
    told = "".join(_mark(mark, width, height) for mark in marks)
    return re.sub(r">\s+<", ">\n<", text).strip().removesuffix("</svg>") + told + "</svg>"


def _mark(mark: Mark, width: float, height: float) -> str:
    """A transparent disc that takes pointer and focus, and the box that they show, inside the drawing."""
    x, y = round(mark.x, 1), round(height - mark.y, 1)
    wide, high = 0.56 * _TIP_FONT * max(map(len, mark.lines)) + 20, 1.4 * _TIP_FONT * len(mark.lines) + 12
    left = min(max(x - wide / 2, 2), max(width - wide - 2, 2))
    top = y - high - 14 if y - high - 14 > 2 else y + 14
    lines = "".join(
        f'<text x="{left + 10:.1f}" y="{top + 6 + _TIP_FONT * (1.4 * i + 1.05):.1f}">{_attribute(line)}</text>'
        for i, line in enumerate(mark.lines)
    )
    box = f'<rect x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{high:.1f}" rx="6"/>'
    label = _attribute("; ".join(mark.lines))
    return (
        f'<g class="mark" tabindex="0" role="img" aria-label="{label}"><circle cx="{x}" cy="{y}" r="12"/>'
        f'<g class="tip" aria-hidden="true" style="font-size: {_TIP_FONT}px">{box}{lines}</g></g>\n'
    )


def standalone(svg: str) -> str:
    """An element of `to_svg` as a file of its own, in the report's light colours."""
    page = (files("bequest.report") / "report.html.j2").read_text(encoding="utf-8")
    colors = page[page.index(":root {") : page.index("}", page.index(":root {")) + 1]
    look = f"{colors} svg {{ color: var(--text); background: var(--surface); font-family: system-ui, sans-serif; }}"
    head, rest = svg.split(">", 1)
    head = head.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return f"{head}>\n<style>{look}</style>{rest}\n"


def _tag_rewriter(name: str) -> Callable[[re.Match[str]], str]:
    ids: dict[str, str] = {}

    def identifier(match: re.Match[str]) -> str:
        return match[1] + ids.setdefault(match[2], f"{name}-{len(ids)}") + match[3]

    def rewrite(match: re.Match[str]) -> str:
        tag = match[0].replace("xlink:href", "href")
        tag = re.sub(r'( id="|href="#|url\(#)([^")]+)(["\)])', identifier, tag)
        tag = re.sub(r"#fe0[01][0-9a-f]{2}", lambda m: _VARIABLES.get(m[0], m[0]), tag)
        tag = re.sub(r"font: ((?:bold |\d+ )?[\d.]+px) [^;\"]*", _font, tag)
        tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
        return re.sub(r' d="[^"]*"', lambda d: re.sub(r"-?\d+\.\d+", _rounded, d[0]), tag)

    return rewrite


def _font(match: re.Match[str]) -> str:
    weight, _, px = match[1].rpartition(" ")
    return f"font-size: {px}" + (f"; font-weight: {weight}" if weight else "")


def _rounded(match: re.Match[str]) -> str:
    return f"{float(match[0]):.2f}".rstrip("0").rstrip(".")


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
