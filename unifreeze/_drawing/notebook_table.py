"""What a notebook shows of a resolution: a small table that folds by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from unifreeze._drawing.looks import Codes, decision, looks_of, main_look, shares, what_trains
from unifreeze._drawing.markup import Markup, element, joined
from unifreeze._drawing.palette import LABELS, stylesheet
from unifreeze._drawing.parts import Part, alike, units_of
from unifreeze._resolution import Resolution
from unifreeze.errors import counted, cut

LAYERS = 1000
"""Rows of layers in one table; models with more of them would make notebooks heavy."""
STYLE = (
    ".uf.uf-card{background:none;"
    "font:13px/1.45 system-ui,sans-serif;max-width:60em;text-align:left}"
    ".uf .uf-row{display:grid;grid-template-columns:minmax(9em,2fr) minmax(8em,1.6fr) 8em 6em;"
    "column-gap:1em;padding:1px 4px;border-radius:3px;align-items:center}"
    ".uf .uf-row>*{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}"
    ".uf summary.uf-row{cursor:pointer;list-style:none}"
    ".uf summary.uf-row>:first-child::before{content:'▸ ';display:inline-block;width:1em}"
    ".uf details[open]>summary.uf-row>:first-child::before{content:'▾ '}"
    ".uf details>details{padding-left:1em}.uf div.uf-row>:first-child{padding-left:2em}"
    ".uf .uf-square{padding:0 .5em;border-radius:2px;margin-right:.5em}"
    ".uf .uf-num{text-align:right;font-variant-numeric:tabular-nums}"
    ".uf .uf-soft{background:none}"
    ".uf .uf-bar{display:flex;height:12px;width:100%;margin:6px 0;border-radius:3px;"
    "overflow:hidden}"
    ".uf .uf-bar>span{min-width:1px}"
    ".uf pre{margin:4px 0;font-size:12px;line-height:1.4;white-space:pre-wrap;background:none}"
    ".uf ul{margin:2px 0;padding:0 4px;list-style:none}"
)


def card(*children: Markup) -> Markup:
    """Return what a notebook shows of one result, with the colours that it needs."""
    return element("div", stylesheet(STYLE), *children, class_="uf uf-ink uf-card")


def resolution_table(resolution: Resolution, since: Resolution | None = None) -> Markup:
    """Return what a plan decides as a table that folds by block.

    Args:
        resolution: What the plan decides.
        since: What held in the phase before, to show what is new.
    """
    table = _Table(resolution, looks_of(resolution, since))
    count, spec = int(resolution.trainable.sum()), resolution.spec
    more = f" · {count:,} of {counted(len(spec), 'parameter')}"
    if resolution.held:
        layers = counted(len(resolution.held), "layer holds its", "layers hold their")
        more += f" · {layers} statistics and other state"
    rules = [
        f"rule {number}: {effect.text} · matches {effect.matched:,}, decides {effect.decided:,}"
        for number, effect in enumerate(resolution.effects, start=1)
    ]
    rules += map(str, resolution.rows)
    units = units_of(spec)
    parts = alike(units, [table.looks], spec)
    headline = element("b", what_trains(resolution))
    return joined(
        element("div", headline, element("span", more, class_="uf-soft")),
        table.bar(parts),
        listed(rules),
        table.rows(parts),
        listed(resolution.notices, "note: "),
    )


def listed(lines: Sequence[str], before: str = "") -> Markup:
    """Return lines as a list; nothing if there are none."""
    if not lines:
        return Markup()
    items = [element("li", f"{before}{cut(line, 400)}", class_="uf-soft") for line in lines]
    return element("ul", *items)


@dataclass
class _Table:
    """Writes the rows of one table, and counts those of layers."""

    resolution: Resolution
    looks: Codes
    layers: int = field(default=0, init=False)

    def bar(self, parts: Sequence[Part]) -> Markup:
        """Draw the whole model as a bar, from the input to the head."""
        counts, pieces = self.resolution.spec.counts, []
        for part in parts:
            for look, values in shares(self.looks[part.numbers], counts[part.numbers]):
                title = f"{part.label}: {counted(values, 'value')}, {LABELS[look]}"
                style = f"flex:{values} 1 0"
                pieces.append(element("span", class_=look.style, style=style, title=title))
        return element("div", *pieces, class_="uf-bar", role="img", aria_label="the whole model")

    def rows(self, parts: Sequence[Part]) -> Markup:
        return joined(*map(self._part, parts))

    def _part(self, part: Part) -> Markup:
        if len(part.labels) == 1:
            inside = self._layers(part.numbers)
        else:
            spec = self.resolution.spec
            members = set(part.labels)
            inside = joined(*(self._part(u) for u in units_of(spec) if u.labels[0] in members))
        label = part.label if len(part.labels) == 1 else f"{part.label} ({len(part.labels)})"
        return element("details", self._line("summary", label, "", part.numbers), inside)

    def _layers(self, numbers: NDArray[np.intp]) -> Markup:
        spec = self.resolution.spec
        rows: list[Markup] = []
        members: dict[int, list[int]] = {}
        for number in numbers.tolist():
            members.setdefault(int(spec.owner_of[spec.first_names[number]]), []).append(number)
        held = set(self.resolution.held)
        for layer, own in members.items():
            if self.layers == LAYERS:
                more = f"… {counted(len(members) - len(rows), 'layer')} more: resolution.why(…)"
                return joined(*rows, element("div", more, class_="uf-row uf-soft"))
            self.layers += 1
            kind = spec.tree.types[layer] + (", holds still" if layer in held else "")
            path = spec.tree.paths[layer] or "(model)"
            rows.append(self._line("div", path, kind, np.asarray(own, np.intp)))
        return joined(*rows)

    def _line(self, tag: str, label: str, kind: str, numbers: NDArray[np.intp]) -> Markup:
        """Write one row: what it is, what happens to it, its values, and the rules that decided."""
        counts = self.resolution.spec.counts[numbers]
        look = main_look(self.looks[numbers], counts)
        square = element("span", class_=f"{look.style} uf-square")
        text = cut(label, 90)
        name = element("span", text, title=label if text != label or kind else None)
        kinds = element("span", f" {kind}", class_="uf-soft") if kind else Markup()
        return element(
            tag,
            element("span", name, kinds),
            element("span", square, decision(self.resolution.trainable[numbers])),
            element("span", f"{int(counts.sum()):,}", class_="uf-num"),
            element("span", self._rules(numbers), class_="uf-soft"),
            class_="uf-row",
        )

    def _rules(self, numbers: NDArray[np.intp]) -> str:
        rules = np.unique(self.resolution.rule[numbers]).tolist()
        names = [f"rule {rule + 1}" if rule >= 0 else "as found" for rule in rules]
        return names[0] if len(names) == 1 else f"{len(names)} rules"
