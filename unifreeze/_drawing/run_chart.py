"""Draws the report of a run: what was measured in each epoch, the phases, and how much trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from math import floor, isfinite, log10
from typing import Any

from unifreeze._drawing.markup import Markup, element, joined
from unifreeze._drawing.palette import Look
from unifreeze._drawing.picture import Picture, drawing, fitting, rectangle
from unifreeze._drawing.treemap import Box
from unifreeze._handle.history import BEFORE, RunReport

WIDTH, LEFT, RIGHT = 960.0, 64.0, 110.0
PANEL, GAP, STRIP, TOP = 150.0, 32.0, 16.0, 46.0
_SIDES = ("train", "val", "test")
Point = tuple[float, float]


def run_chart(report: RunReport) -> Picture:
    """Draw a report: a panel for each metric, phases behind, the trained share below."""
    return _Chart(report).picture()


class _Chart:
    """One picture: places along the run, and values across it."""

    def __init__(self, report: RunReport) -> None:
        self.rows, self.metrics = report.rows, report.metrics
        self.column = (WIDTH - LEFT - RIGHT) / max(len(self.rows), 1)

    def picture(self) -> Picture:
        tops = [TOP + number * (PANEL + GAP) for number in range(len(self.metrics))]
        panels = [self._panel(metric, top) for metric, top in zip(self.metrics, tops, strict=True)]
        bottom = TOP + len(self.metrics) * (PANEL + GAP)
        if not self.rows:
            sentence = element(
                "text", "nothing has been noted yet", x=0.0, y=14.0, class_="uf-soft"
            )
            return Picture(drawing(WIDTH, 20, sentence, title="Report of a run"))
        return Picture(
            drawing(
                WIDTH,
                bottom + STRIP + 24,
                self._phases(bottom + STRIP),
                *panels,
                self._trained(bottom),
                self._places(bottom + STRIP + 16),
                title=f"Report of a run: {', '.join(self.metrics) or 'nothing'} measured",
            )
        )

    def _x(self, number: float) -> float:
        return LEFT + self.column * number

    def _phases(self, bottom: float) -> Markup:
        """Draw a band behind each phase, every second one darker, with its name."""
        pieces = []
        spans = groupby(range(len(self.rows)), key=lambda n: self.rows[n]["phase"])
        for number, (name, span) in enumerate(spans):
            members = list(span)
            x, width = self._x(members[0]), self.column * len(members)
            if number % 2 == 0:
                pieces.append(rectangle(Box(x, 20, width, bottom - 20), "uf-box"))
            label = fitting(name, width - 4, letter=8.0)
            pieces.append(element("text", label, x=x + 3, y=14.0, class_="uf-big"))
        return joined(*pieces)

    def _panel(self, metric: str, top: float) -> Markup:
        """Draw one metric: a line for each set of data that it was measured on."""
        lines = {side: [row.get(f"{side}_{metric}") for row in self.rows] for side in _SIDES}
        known = [v for values in lines.values() for v in values if v is not None and isfinite(v)]
        low, high = (min(known), max(known)) if known else (0.0, 1.0)
        if high == low:
            low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
        pieces = [element("text", metric, x=0.0, y=top - 14, class_="uf-big")]
        for value in ticks(low, high):
            y = top + PANEL * (1 - (value - low) / (high - low))
            pieces += [  # lines behind the curves
                element(
                    "path",
                    d=f"M{LEFT:g} {y:.1f}H{WIDTH - RIGHT:g}",
                    class_="uf-axis",
                    stroke_opacity=".3",
                ),
                element("text", f"{value:.4g}", x=LEFT - 6, y=y + 4, class_="uf-soft uf-end"),
            ]
        ends: list[tuple[float, str, int]] = []
        for number, (side, values) in enumerate(lines.items()):
            shares = [
                None if v is None or not isfinite(v) else (v - low) / (high - low) for v in values
            ]
            points = [
                None if share is None else (self._x(n + 0.5), top + PANEL * (1 - share))
                for n, share in enumerate(shares)
            ]
            if any(points):
                pieces.append(curve(points, number))
                last = [point for point in points if point][-1]
                ends.append((last[1], side, number))
        return joined(*pieces, *_names(ends))

    def _trained(self, top: float) -> Markup:
        """Draw which share of the values trained, as bars."""
        pieces = [element("text", "trained", x=LEFT - 6, y=top + 12, class_="uf-soft uf-end")]
        for number, row in enumerate(self.rows):
            share = 1 - row["frozen"]
            sentence = f"{row['trainable']:,} of {row['total']:,} values train"
            bar = Box(self._x(number) + 0.5, top, max(self.column - 1, 0.5), STRIP * (1 - share))
            below = bar._replace(y=top + bar.height, height=STRIP * share)
            pieces.append(rectangle(bar, Look.FROZEN.style, sentence))
            pieces.append(rectangle(below, Look.TRAINABLE.style, sentence))
        return joined(*pieces)

    def _places(self, y: float) -> Markup:
        """Write epochs below, as many as there is room for; steps where epochs are not counted."""
        unit = "epoch" if any(row["epoch"] is not None for row in self.rows) else "step"
        every = max(1, round(40 / self.column))
        pieces = [element("text", unit, x=LEFT - 6, y=y, class_="uf-soft uf-end")]
        for number in range(0, len(self.rows), every):
            place = self.rows[number][unit]
            label = "before" if place == BEFORE else "" if place is None else str(place)
            x = self._x(number + 0.5)
            pieces.append(element("text", label, x=x, y=y, class_="uf-soft uf-mid"))
        return joined(*pieces)


def curve(points: Sequence[Point | None], color: int, *, dash: str | None = None) -> Markup:
    """Draw a line with a gap where nothing was measured, and a dot for a point alone."""
    path = ""
    pieces = [list(p) for has, p in groupby(points, key=lambda p: p is not None) if has]
    for piece in pieces:
        path += "".join(_stroke([point for point in piece if point]))
    style = f"uf-stroke uf-s{color}"
    return element("path", d=path, class_=style, stroke_linecap="round", stroke_dasharray=dash)


def _stroke(piece: Sequence[Point]) -> Iterator[str]:
    for number, (x, y) in enumerate(piece):
        yield f"{'L' if number else 'M'}{x:.1f} {y:.1f}"
    if len(piece) == 1:
        yield "h.01"


def _names(ends: list[tuple[float, str, int]]) -> Iterator[Markup]:
    """Write the name of each line at its end, not over each other."""
    y = float("-inf")
    for wanted, side, number in sorted(ends):
        y = max(wanted + 4, y + 13)
        label = {"train": "training", "val": "validation", "test": "test"}[side]
        dash = f"M{WIDTH - RIGHT + 4:g} {y - 4:.1f}h12"
        yield element("path", d=dash, class_=f"uf-stroke uf-s{number}")
        yield element("text", label, x=WIDTH - RIGHT + 20, y=y)


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers between two numbers, four or so.

    >>> ticks(0.13, 0.92)
    [0.2, 0.4, 0.6, 0.8]
    """
    raw: Any = (high - low) / 4
    if not raw or not isfinite(raw):
        return [low]
    scale = 10.0 ** floor(log10(raw))
    step = next(scale * factor for factor in (1, 2, 5, 10) if scale * factor >= raw)
    first = -floor(-low / step)
    return [round(n * step, 12) for n in range(first, floor(high / step) + 1)]
