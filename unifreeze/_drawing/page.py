"""The page that `unifreeze explain --html` writes: one file, no network, nothing to install."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from unifreeze._drawing.freeze_map import apart, frame_box, leaf_name
from unifreeze._drawing.looks import decision, looks_in_phases, main_look, shares
from unifreeze._drawing.markup import Markup, element, empty, joined
from unifreeze._drawing.nested_boxes import Nested, nested_boxes
from unifreeze._drawing.page_data import phase_facts, script_json, story_facts
from unifreeze._drawing.palette import LABELS, Look, rules
from unifreeze._drawing.parts import units_of
from unifreeze._drawing.picture import HATCH, hatched, rectangle
from unifreeze._drawing.timeline import Timeline
from unifreeze._drawing.timeline_picture import ROW, columns_and_labels
from unifreeze._drawing.treemap import Box
from unifreeze.errors import counted

_FOLDER = Path(__file__).parent
_LAYOUTS = {"wide": (1200.0, 600.0), "narrow": (360.0, 560.0)}
"""Sizes of the map, in pixels, for a window of 1280 pixels and for a telephone."""
_SMALLEST = 5.0
"""Shorter side of a module that shows its contents: smaller than in a picture on paper."""


def report_page(
    timeline: Timeline,
    *,
    title: str,
    plan: str,
    notes: Sequence[Sequence[str]] = (),
    start: int = 0,
) -> str:
    """Return the page as HTML.

    Args:
        timeline: What the plan decides in each phase.
        title: What the model is called.
        plan: The plan file.
        notes: For each phase further lines, such as what the framework would refuse; () for none.
        start: The phase that is shown first.
    """
    return _Page(timeline, title, plan, notes).html(start)


class _Page:
    """One page: its facts in the order of the table, and its parts as HTML."""

    def __init__(
        self, timeline: Timeline, title: str, plan: str, notes: Sequence[Sequence[str]]
    ) -> None:
        self.timeline, self.title, self.plan = timeline, title, plan
        self.resolutions = timeline.resolutions
        self.spec = self.resolutions[0].spec
        self.looks = looks_in_phases(self.resolutions)
        self.units = units_of(self.spec)
        empty_order = np.zeros(0, np.intp)
        self.order = np.concatenate([empty_order, *(unit.numbers for unit in self.units)])
        self.place = np.empty(len(self.spec), np.intp)
        """For each parameter, its row in the table."""
        self.place[self.order] = np.arange(len(self.order))
        self.phases = phase_facts(timeline, notes or [()] * len(timeline.phases))

    def html(self, start: int) -> str:
        code = Markup((_FOLDER / "page.js").read_text(encoding="utf-8"))
        style = Markup((_FOLDER / "page.css").read_text(encoding="utf-8") + rules())
        head = element(
            "head",
            empty("meta", charset="utf-8"),
            empty("meta", http_equiv="Content-Security-Policy", content=_policy(code)),
            empty("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("title", f"Freeze plan on {self.title}"),
            element("style", style),
        )
        body = element(
            "body",
            _hidden_patterns(),
            element("main", *self._parts()),
            element(
                "script",
                script_json({"start": start, **self._data()}),
                type="application/json",
                id="data",
            ),
            element("script", code),
        )
        return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"

    def _parts(self) -> list[Markup]:
        first = self.phases[0]
        noted = bool(first["notes"])
        return [
            element("h1", f"Freeze plan on {self.title}"),
            element("p", str(first["counts"]), class_="counts"),
            *self._timeline(),
            element("h2", "Map"),
            self._legend(),
            self._map(),
            element("h2", "What decided each parameter"),
            *self._search(),
            element("div", *map(self._unit, range(len(self.units))), class_="units"),
            element("div", class_="results", hidden=True),
            element("h2", "Rules"),
            _lines("rules", first["rules"]),
            element("h2", "Notes", class_="notes-title", hidden=not noted),
            _lines("notes", first["notes"]),
            element("h2", "Plan"),
            element("pre", self.plan, tabindex=0),
        ]

    def _timeline(self) -> list[Markup]:
        """Return the slider and the picture of the phases, if there are several."""
        count = len(self.phases)
        if count == 1:
            return []
        slider = empty(
            "input", type="range", id="phase", min=0, max=count - 1, step=1, value=0,
            aria_label="Phase",
        )  # fmt: skip
        output = element("output", str(self.phases[0]["said"]), for_="phase")
        picture, labels = columns_and_labels(self.timeline)
        names = [
            element("span", text, style=f"top:{top:g}px;height:{ROW:g}px", title=text)
            for text, top in labels
        ]
        # The longest text gives the column its width; the others stand where their rows are.
        widest = element("b", max((text for text, _ in labels), key=len), aria_hidden="true")
        return [
            element("h2", "Phases"),
            element("div", slider, output, class_="phases"),
            element("div", element("div", widest, *names, class_="labels"), Markup(picture),
                    class_="timeline scroll", tabindex=0, role="group",
                    aria_label="Timeline of the phases"),
        ]  # fmt: skip

    def _legend(self) -> Markup:
        seen = {part.look for codes in self.looks for part in shares(codes, self.spec.counts)}
        items = [
            element("li", element("span", class_=look.style), LABELS[look])
            for look in sorted(seen, reverse=True)
        ]
        return element("ul", *items, class_="legend uf uf-ink")

    def _map(self) -> Markup:
        hint = (
            "Point at a box, or press the arrow keys: right and left go to the next layer, down "
            "and up to the next block. Enter opens it below."
        )
        return joined(
            element(
                "div",
                *(self._svg(name, nested) for name, nested in self._nested.items()),
                class_="map",
                tabindex=0,
                role="application",
                aria_label=f"Freeze map. {hint}",
                aria_describedby="about",
            ),
            element("div", hint, class_="about", id="about", aria_live="polite"),
        )

    @cached_property
    def _nested(self) -> dict[str, Nested]:
        return {
            name: nested_boxes(self.spec, self.looks, Box(0, 0, *size), whole=_SMALLEST)
            for name, size in _LAYOUTS.items()
        }

    def _svg(self, name: str, nested: Nested) -> Markup:
        width, height = _LAYOUTS[name]
        leaves, hatches = [], []
        for leaf in nested.leaves:
            look, box = Look(nested.stories[leaf.story][0]), apart(leaf.box)
            leaves.append(rectangle(box, look.style))
            hatches.append(hatched(look, box))
        names = element("g", *map(leaf_name, nested.leaves), pointer_events="none")
        return element(
            "svg",
            *map(frame_box, nested.frames),
            element("g", *leaves, class_="leaves"),
            element("g", *hatches, class_="hatches"),
            names,
            element("rect", class_="chosen"),
            class_=f"uf {name}",
            viewBox=f"0 0 {width:g} {height:g}",
            data_layout=name,
            aria_hidden="true",
        )

    def _search(self) -> list[Markup]:
        field = empty(
            "input",
            type="search",
            class_="search",
            placeholder="Search by name (press /)",
            aria_label="Search parameters by name",
            autocomplete="off",
            spellcheck="false",
        )
        without = "Names of parameters, the search and later phases need JavaScript."
        return [
            element("noscript", element("p", without, class_="soft")),
            field,
            element("p", class_="found soft", aria_live="polite"),
            element(
                "div",
                element("span", "part", class_="name"),
                element("span", "decision, and what made it", class_="reason"),
                element("span", "shape", class_="shape"),
                element("span", "values", class_="number"),
                class_="row heads",
            ),
        ]

    def _unit(self, number: int) -> Markup:
        """Write the line of a unit; the script adds its parameters when it is opened."""
        unit, first = self.units[number], self.resolutions[0]
        counts = self.spec.counts[unit.numbers]
        look = main_look(self.looks[0][unit.numbers], counts)
        square = element("span", class_=f"square {look.style}")
        line = element(
            "summary",
            element("span", unit.label, class_="name"),
            element("span", square, decision(first.trainable[unit.numbers]), class_="reason"),
            element("span", counted(len(unit.numbers), "parameter"), class_="shape soft"),
            element("span", f"{int(counts.sum()):,}", class_="number"),
            class_="row",
        )
        return element("details", line, class_="unit uf uf-ink", data_unit=number)

    def _data(self) -> dict[str, object]:
        """Return what the script reads."""
        stories, story_of = story_facts(self.resolutions, self.looks, self.order)
        ends = np.cumsum([len(unit.numbers) for unit in self.units]).tolist()
        rows = self.spec.parameters
        return {
            "looks": [LABELS[look] for look in Look],
            "phases": self.phases,
            "stories": stories,
            "parameters": [
                [
                    " = ".join((row.path, *row.aliases)),
                    row.name,
                    row.kind,
                    " x ".join(map(str, row.shape)) or "scalar",
                    row.values,
                    story,
                ]
                for row, story in zip(
                    (rows[number] for number in self.order.tolist()), story_of, strict=True
                )
            ],
            "units": list(zip([0, *ends[:-1]], ends, strict=True)) if ends else [],
            "leaves": {
                name: [
                    [
                        self.spec.tree.paths[leaf.module],
                        story_of[int(self.place[leaf.numbers[0]])],
                        self.place[leaf.numbers].tolist(),
                    ]
                    for leaf in nested.leaves
                ]
                for name, nested in self._nested.items()
            },
        }


def _lines(style: str, lines: object) -> Markup:
    items = [element("li", str(line)) for line in lines] if isinstance(lines, list) else []
    return element("ul", *items, class_=f"lines {style}")


def _hidden_patterns() -> Markup:
    """Return the lines over what holds still, for all pictures of the page."""
    return element("svg", HATCH, class_="uf", width=0, height=0, style="position:absolute",
                   aria_hidden="true")  # fmt: skip


def _policy(code: str) -> str:
    """Return a policy that lets the page run its own script, and load nothing."""
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return (
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
        f"script-src 'sha256-{digest}'"
    )
