"""What the report's figures share: their sizes, their axes, and how a method looks in all of them."""

# matplotlib's stubs leave most keyword arguments open.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bequest.core.results import Leaderboard
from bequest.report.svg import MUTED, NUM_SERIES, series_color

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
# matplotlib's sign, and the same shape in a box of 12 for the key.
_MARKERS = (
    ("o", "M6 2a4 4 0 1 0 .01 0z"),
    ("s", "M2.5 2.5h7v7h-7z"),
    ("^", "M6 1.5l4.5 8.5h-9z"),
    ("D", "M6 1l5 5-5 5-5-5z"),
    ("v", "M6 10.5L1.5 2h9z"),
    ("P", "M4.5 1.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z"),
    ("X", "M3.5 1.5L6 4l2.5-2.5 2 2L8 6l2.5 2.5-2 2L6 8l-2.5 2.5-2-2L4 6 1.5 3.5z"),
    ("p", "M6 1.2l4.8 3.5L9 10.4H3L1.2 4.7z"),
)


@dataclass(frozen=True)
class Look:
    """How a method is drawn in every figure: never told apart by colour alone.

    Attributes:
        index: The row's place among those that have a result, from 0.
    """

    index: int

    @property
    def color(self) -> str:
        """The colour's stand-in."""
        return series_color(self.index)

    @property
    def marker(self) -> str:
        """The sign, which shifts against the colour from one round of colours to the next."""
        return _MARKERS[self._sign][0]

    @property
    def dash(self) -> Any:
        """The line's pattern."""
        return _DASHES[self.index // NUM_SERIES % len(_DASHES)]

    @property
    def key(self) -> dict[str, str]:
        """Colour and shape for a key in HTML."""
        return {"color": f"var(--s{self.index % NUM_SERIES})", "path": _MARKERS[self._sign][1]}

    @property
    def _sign(self) -> int:
        return (self.index + self.index // NUM_SERIES) % NUM_SERIES


@dataclass(frozen=True)
class Size:
    """One of the two sizes in which a figure is drawn; 72 units are an inch.

    Attributes:
        name: `wide` or `narrow`.
        width: Units.
        font: Units.
    """

    name: str
    width: float
    font: float


WIDE = Size("wide", 960, 12.5)
NARROW = Size("narrow", 350, 11)


def looks(board: Leaderboard) -> dict[str, Look]:
    """How each method that has a result is drawn."""
    done = [r for r in board.rows if r.validation is not None]
    return {r.method: Look(i) for i, r in enumerate(done)}


def key(board: Leaderboard, methods: Collection[str]) -> list[dict[str, Any]]:
    """Of some methods that have a result: name, number among all of them, colour and shape, for a key in HTML."""
    return [
        {"name": method, "number": look.index + 1, **look.key}
        for method, look in looks(board).items()
        if method in methods
    ]


def new_figure(width: float, height: float) -> Figure:
    """A figure of this size in units."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72), dpi=72)  # a pixel is a unit


def new_axes(figure: Figure, size: Size, margins: tuple[float, float, float, float]) -> Axes:
    """Axes inside margins (left, bottom, right, top) in units."""
    width, height = (72 * float(i) for i in figure.get_size_inches())
    left, bottom, right, top = margins
    ax = figure.add_axes(
        (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    )
    _plain_axes(ax, size)
    return ax


def write_title(ax: Axes, text: str, size: Size) -> None:
    """What the axes show, above them."""
    # A height of its own spares matplotlib measuring all ticks for one that is free of them.
    ax.set_title(text, fontsize=size.font, color=MUTED, pad=12, y=1.0)


def _plain_axes(ax: Axes, size: Size) -> None:
    ax.tick_params(labelsize=size.font - 0.5, pad=6)
    ax.grid(axis="y")
