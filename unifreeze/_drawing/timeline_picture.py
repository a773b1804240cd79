"""Draws a timeline: a column for each phase, a row for each part of the network, rates below."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import NamedTuple

from unifreeze._drawing.looks import Codes, looks_in_phases, shares
from unifreeze._drawing.markup import Markup, element, joined
from unifreeze._drawing.palette import LABELS
from unifreeze._drawing.parts import Part, alike, units_of
from unifreeze._drawing.picture import MARGIN, Picture, drawing, fitting, hatched, legend, rectangle
from unifreeze._drawing.timeline import Timeline, TimelinePhase, rate_of
from unifreeze._drawing.treemap import Box
from unifreeze._structure import ModelSpec
from unifreeze.errors import counted

WIDTH = 960.0
ROW, HEADER, RATES = 22.0, 40.0, 64.0
INSET = 6.0
"""Between the frame around a chosen column and the words in it."""
_TOP = HEADER + 20
"""Where the first row begins."""
_RATE_LABEL = "learning rate"
_LEAST, _MOST = 16.0, 220.0
"""Width of a column, in pixels: of many phases, and of few."""


def timeline_picture(timeline: Timeline) -> Picture:
    """Draw a timeline."""
    return _Drawn(timeline).picture()


class Label(NamedTuple):
    """What stands before a row.

    Attributes:
        text: The part of the network; or that the row holds rates.
        top: Where the label begins, in pixels from the top of the picture; it is `ROW` high.
    """

    text: str
    top: float


def columns_and_labels(timeline: Timeline) -> tuple[Picture, list[Label]]:
    """Draw a timeline without its labels, and return these: a page keeps them in view."""
    drawn = _Drawn(timeline)
    tops = [_TOP + ROW * number for number in range(len(drawn.rows) + 1)]
    texts = [*map(_label, drawn.rows), _RATE_LABEL]
    tops[-1] += 25
    labels = [Label(text, MARGIN + top) for text, top in zip(texts, tops, strict=True)]
    return drawn.without_labels().picture(), labels


class _Drawn:
    """One picture: its parts, and where they stand."""

    def __init__(self, timeline: Timeline) -> None:
        self.phases = timeline.phases
        self.spec: ModelSpec = timeline.phases[0].resolution.spec
        self.looks: Sequence[Codes] = looks_in_phases(timeline.resolutions)
        self.rows = alike(units_of(self.spec), self.looks, self.spec)
        longest = max((len(_label(row)) for row in self.rows), default=0)
        self.left = min(max(80.0, 6.4 * longest + 12), 300.0)
        room = (WIDTH - self.left) / len(self.phases)
        self.column = min(max(room, _LEAST), _MOST)
        self.width = max(self.left + self.column * len(self.phases), 560.0)

    def without_labels(self) -> _Drawn:
        """Move the columns to where the labels stand, and leave these out."""
        self.width, self.left = self.column * len(self.phases), 0.0
        return self

    def picture(self) -> Picture:
        bottom = _TOP + ROW * len(self.rows)
        seen = {share.look for codes in self.looks for share in shares(codes, self.spec.counts)}
        pieces = drawing(
            self.width,
            bottom + RATES,
            legend(sorted(seen, reverse=True), 0.0, 0.0),
            joined(*(self._head(n, phase) for n, phase in enumerate(self.phases))),
            joined(*(self._row(row, _TOP + ROW * n) for n, row in enumerate(self.rows))),
            self._rates(bottom + 14),
            joined(*map(self._cover, range(len(self.phases)))),
            title=f"Timeline of {counted(len(self.phases), 'phase')}",
        )
        return Picture(pieces)

    def _x(self, number: int) -> float:
        return self.left + self.column * number

    def _head(self, number: int, phase: TimelinePhase) -> Markup:
        """Write a phase's name, and when it begins."""
        x, room = self._x(number) + INSET, self.column - INSET - 4
        trainable, total = phase.resolution.counts()
        sentence = f"{phase.name or 'the run'}, {phase.begins}: {_what(phase, trainable, total)}"
        name = fitting(phase.name or "the run", room, letter=8.0)
        return joined(
            element("text", name, element("title", sentence), x=x, y=34.0, class_="uf-big"),
            element("text", fitting(phase.begins, room), x=x, y=50.0, class_="uf-soft"),
        )

    def _cover(self, number: int) -> Markup:
        """Mark the place of a column, so that a page can show which phase is chosen."""
        column = Box(self._x(number), 20, self.column, HEADER + ROW * len(self.rows))
        return rectangle(column, "uf-cover", data_phase=number)

    def _row(self, part: Part, y: float) -> Markup:
        label = fitting(_label(part), self.left - 8, letter=6.4)
        cells = [self._cell(part, number, y) for number in range(len(self.phases))]
        name = element("text", label, x=0.0, y=y + 15) if self.left else Markup()
        return joined(name, *cells)

    def _cell(self, part: Part, number: int, y: float) -> Markup:
        """Draw what a part looks like in a phase: a bar of each look, by values."""
        box = Box(self._x(number) + 1, y + 1, self.column - 2, ROW - 2)
        if self.phases[number].stop:
            return rectangle(box, "uf-box")
        counts = self.spec.counts[part.numbers]
        parts = shares(self.looks[number][part.numbers], counts)
        where = f"{_label(part)} in {self.phases[number].name or 'the run'}"
        total, top, pieces = int(counts.sum()) or 1, box.y, []
        for share in parts:  # one above the other, because time runs from left to right
            bar = box._replace(y=top, height=box.height * share.values / total)
            top += bar.height
            sentence = f"{where}: {counted(share.values, 'value')} {LABELS[share.look]}"
            pieces += [rectangle(bar, share.look.style, sentence), hatched(share.look, bar)]
        return joined(*pieces)

    def _rates(self, top: float) -> Markup:
        """Draw the learning rate of each phase as steps, on a logarithmic scale."""
        rates = [phase.lr for phase in self.phases if phase.lr and not phase.stop]
        low, high = (log(min(rates)), log(max(rates))) if rates else (0.0, 0.0)
        name = element("text", _RATE_LABEL, x=0.0, y=top + 26, class_="uf-soft")
        pieces = [name] if self.left else []
        before = None
        for number, phase in enumerate(self.phases):
            x, level = self._x(number), 0.5
            if phase.lr and high > low:
                level = (log(phase.lr) - low) / (high - low)
            y = top + 38 - 22 * level
            if not phase.stop:
                dashes = None if phase.lr else "3 4"
                line = f"M{x:.1f} {y:.1f}h{self.column:.1f}"
                style = "uf-stroke uf-s1"
                pieces.append(element("path", d=line, class_=style, stroke_dasharray=dashes))
            label = rate_of(phase)
            if label != before:
                sentence = fitting(label, self.column - INSET)
                pieces.append(element("text", sentence, x=x + INSET, y=y - 4))
            before = label
        return joined(*pieces)


def _label(part: Part) -> str:
    return part.label if len(part.labels) == 1 else f"{part.label} ({len(part.labels)})"


def _what(phase: TimelinePhase, trainable: int, total: int) -> str:
    if phase.stop:
        return "training ends"
    return f"{trainable:,} of {counted(total, 'value')} train, rate {rate_of(phase)}"
