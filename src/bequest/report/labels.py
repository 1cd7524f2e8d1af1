"""Where to write names beside points so that they do not cover each other."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Box:
    """A rectangle; x to the right, y up."""

    x0: float
    y0: float
    x1: float
    y1: float

    def overlap(self, other: Box) -> float:
        """The area that both cover."""
        width = min(self.x1, other.x1) - max(self.x0, other.x0)
        height = min(self.y1, other.y1) - max(self.y0, other.y0)
        return max(width, 0.0) * max(height, 0.0)

    @property
    def area(self) -> float:
        """Width times height."""
        return (self.x1 - self.x0) * (self.y1 - self.y0)


@dataclass(frozen=True)
class Placed:
    """A label's box, and whether it lies so far from its point that it needs a line to it."""

    box: Box
    leader: bool


_RADII = (9.0, 16.0, 26.0, 38.0, 52.0, 70.0, 90.0, 115.0)
_ANGLES = (0, 180, 45, -45, 135, -135, 90, -90, 20, -20, 160, -160, 65, -65, 115, -115)


def place(
    points: list[tuple[float, float]], sizes: list[tuple[float, float]], obstacles: list[Box], frame: Box
) -> list[Placed]:
    """A place for each label, chosen one after the other: the first has the freest choice.

    Args:
        points: What is named.
        sizes: Width and height of each label.
        obstacles: What labels should not cover.
        frame: What labels should not leave.
    """
    taken = list(obstacles)
    placed: list[Placed] = []
    for point, extent in zip(points, sizes, strict=True):
        options = [
            (_box(point, extent, radius, angle), radius, rank)
            for radius in _RADII
            for rank, angle in enumerate(_ANGLES)
        ]
        box, radius, _ = min(options, key=lambda o: _cost(o[0], o[1], o[2], taken, frame))
        taken.append(box)
        placed.append(Placed(box, radius > _RADII[1]))
    return placed


def _box(point: tuple[float, float], extent: tuple[float, float], radius: float, angle: int) -> Box:
    dx, dy = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    # The box grows away from the point: from its left edge on the right side, centred above and below.
    x0 = point[0] + radius * dx - extent[0] * (1 - _side(dx)) / 2
    y0 = point[1] + radius * dy - extent[1] * (1 - _side(dy)) / 2
    return Box(x0, y0, x0 + extent[0], y0 + extent[1])


def _side(direction: float) -> float:
    return 0.0 if abs(direction) < 0.1 else math.copysign(1.0, direction)


def _cost(box: Box, radius: float, rank: int, taken: list[Box], frame: Box) -> float:
    outside = box.area - box.overlap(frame)
    return 20 * outside + 10 * sum(box.overlap(t) for t in taken) + 2 * radius + rank
