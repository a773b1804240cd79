"""Draws the losses of two models at each step of a training."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from unifreeze._drawing.markup import Markup, element
from unifreeze._drawing.picture import Picture, drawing
from unifreeze._drawing.run_chart import curve, ticks
from unifreeze._evidence.alignment import AlignmentReport
from unifreeze._evidence.alignment.words import WORDS

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 720.0, 260.0, 64.0, 30.0, 40.0


def loss_chart(report: AlignmentReport, language: str = "en") -> Picture:
    """Draw the loss curves of an acceptance report: the second one dashed, as it lies on the first.

    A report without a training has an empty picture that says so.
    """
    words = {key: pair[language == "zh"] for key, pair in WORDS.items()}
    curves = report.curves
    known = [] if curves is None else [v for v in (*curves.one, *curves.other) if isfinite(v)]
    if curves is None or not known:
        sentence = element("text", words["no training"], x=0.0, y=14.0, class_="uf-soft")
        return Picture(drawing(WIDTH, 20, sentence, title=words["curves"]))
    low, high = min(known), max(known)
    if high == low:
        low, high = low - 0.5, high + 0.5
    loss = words["loss of"].format(kind=words[curves.kind], output=curves.output)
    pieces = [
        element("text", loss.replace("`", "").rstrip(".。"), x=LEFT, y=14.0, class_="uf-big"),
        *_grid(low, high),
        *_places(len(curves.one)),
    ]
    sides = zip((curves.one, curves.other), report.frameworks, report.models, strict=True)
    for number, (values, framework, model) in enumerate(sides):
        pieces.append(_curve(values, number, low, high))
        x, y = LEFT + 330 * number, HEIGHT - 6
        dash = "5 4" if number else None
        sample = {"class_": f"uf-stroke uf-s{number}", "stroke_dasharray": dash}
        pieces.append(element("path", d=f"M{x:g} {y - 4:g}h24", **sample))
        pieces.append(element("text", f"{model} ({framework})", x=x + 30, y=y))
    return Picture(drawing(WIDTH, HEIGHT, *pieces, title=words["curves"]))


def _grid(low: float, high: float) -> list[Markup]:
    pieces = []
    for value in ticks(low, high):
        y = _y(value, low, high)
        pieces += [
            element(
                "path", d=f"M{LEFT:g} {y:.1f}H{WIDTH:g}", class_="uf-axis", stroke_opacity=".3"
            ),
            element("text", f"{value:.4g}", x=LEFT - 6, y=y + 4, class_="uf-soft uf-end"),
        ]
    return pieces


def _places(count: int) -> list[Markup]:
    """Write the numbers of steps below, as many as there is room for."""
    every = max(1, count // 10)
    return [
        element("text", str(n), x=_x(n, count), y=HEIGHT - BOTTOM + 14, class_="uf-soft uf-mid")
        for n in range(0, count, every)
    ]


def _curve(values: Sequence[float], number: int, low: float, high: float) -> Markup:
    points = [
        (_x(n, len(values)), _y(value, low, high)) if isfinite(value) else None
        for n, value in enumerate(values)
    ]
    return curve(points, number, dash="5 4" if number else None)


def _x(number: int, count: int) -> float:
    return LEFT + (WIDTH - LEFT - 10) * number / max(count - 1, 1)


def _y(value: float, low: float, high: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low))
