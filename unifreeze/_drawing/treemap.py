"""Lays out boxes in a rectangle: each gets its share of the area, in order, like words in lines.

The strips are those of Bederson, Shneiderman and Wattenberg, "Ordered and quantum treemaps" (2002).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Box(NamedTuple):
    """A rectangle, in pixels."""

    x: float
    y: float
    width: float
    height: float

    def inside(self, margin: float, *, top: float = 0.0) -> Box:
        """Return what is left within a margin, and below a heading."""
        return Box(
            self.x + margin,
            self.y + margin + top,
            max(self.width - 2 * margin, 0.0),
            max(self.height - 2 * margin - top, 0.0),
        )


def strips(values: Sequence[float], within: Box) -> list[Box]:
    """Divide a rectangle among values, none of which is 0, line by line.

    A line takes one more box as long as that does not make its boxes more oblong on average.

    >>> strips([1, 1, 2], Box(0, 0, 4, 4))
    [Box(x=0, y=0.0, width=2.0, height=2.0), Box(x=2.0, y=0.0, width=2.0, height=2.0), \
Box(x=0, y=2.0, width=4.0, height=2.0)]
    """
    total = sum(values)
    if not total or not within.width or not within.height:
        return [Box(within.x, within.y, 0.0, 0.0) for _ in values]
    scale = within.width * within.height / total
    boxes: list[Box] = []
    line: list[float] = []
    top = 0.0
    for value in values:
        area = value * scale
        longer = [*line, area]
        if line and _oblong(longer, within.width) > _oblong(line, within.width):
            top = _set(line, within, top, boxes)
            longer = [area]
        line = longer
    _set(line, within, top, boxes)
    return boxes


def slices(values: Sequence[float], within: Box) -> list[Box]:
    """Divide a rectangle into bars, across its longer side."""
    total, at, boxes = sum(values) or 1.0, 0.0, []
    for value in values:
        share = value / total
        if within.width >= within.height:
            boxes.append(within._replace(x=within.x + at, width=share * within.width))
            at += share * within.width
        else:
            boxes.append(within._replace(y=within.y + at, height=share * within.height))
            at += share * within.height
    return boxes


def _oblong(line: Sequence[float], width: float) -> float:
    """Return the mean ratio of the longer side to the shorter one, of boxes in one line."""
    height = sum(line) / width
    ratios = (max(area / height**2, height**2 / area) for area in line)
    return sum(ratios) / len(line)


def _set(line: Sequence[float], within: Box, top: float, boxes: list[Box]) -> float:
    """Place the boxes of a line, and return where the next line begins."""
    height = sum(line) / within.width
    at = within.x
    for area in line:
        boxes.append(Box(at, within.y + top, area / height, height))
        at += area / height
    return top + height
