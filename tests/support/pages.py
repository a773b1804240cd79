"""Models and plans to draw, hostile names among them, and a reader of the HTML that comes out."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser

from tests.support.trees import (
    conv_net,
    encoder_block,
    linear,
    module,
    norm,
    spec,
    stack,
    text_model,
)
from unifreeze._drawing.page import report_page
from unifreeze._drawing.timeline import Timeline, timeline_of
from unifreeze._plan import FreezePlan
from unifreeze._structure import ModelSpec

HOSTILE = "<script>window.hurt=1</script>\"'&]]>"
"""A name of a module, of a phase and of a selector that would like to be markup."""
PHASES = (
    FreezePlan()
    .phase("head", rules={"only": "head"}, lr=1e-3)
    .phase("top", at={"epoch": 5}, add=[{"train": "blocks[-2:]"}, {"freeze": "norm"}], lr=1e-4)
    .phase("all", after={"epochs": 3}, add={"train": "all"})
)
"""A plan of three phases, for every model with blocks."""
TIED = (
    FreezePlan()
    .phase("head", rules=[{"only": "head"}, {"freeze": "tied"}])
    .phase("top", at={"epoch": 2}, add=[{"train": "blocks[-2:]"}, {"freeze": "norm"}])
)
"""A plan for a model whose head shares a table."""
VOID = {"meta", "input", "br", "link", "img"}


def hostile_model() -> ModelSpec:
    """A model of which a module has a name like markup."""
    blocks = stack(encoder_block(), module("Block", **{HOSTILE: linear(8, 8)}), encoder_block())
    return spec(module("Net", **{"</title>": norm(8)}, layers=blocks, head=linear(8, 2)))


def hostile_timeline() -> Timeline:
    """A plan for it whose rule and phase have such names, too."""
    rules = [{"only": "head"}, {"freeze": f"re:{json.dumps('.*script.*|' + 'a&b<i>')}"}]
    plan = FreezePlan().phase(HOSTILE, rules=rules)
    plan = plan.phase("all", at={"epoch": 1}, add={"train": "all"})
    return timeline_of(plan, hostile_model())


def page_of(model: ModelSpec | None = None, plan: FreezePlan = PHASES, title: str = "net") -> str:
    """Return the page of a plan on a model."""
    timeline = timeline_of(plan, spec(conv_net()) if model is None else model)
    notes = [["memory saved: 3 MiB"] for _ in timeline.phases]
    return report_page(timeline, title=title, plan=str(plan), notes=notes)


def hostile_page() -> str:
    """Return a page in which everything that can have a hostile name has it."""
    notes = [[HOSTILE], [HOSTILE]]
    return report_page(hostile_timeline(), title=HOSTILE, plan=HOSTILE, notes=notes)


def text_net() -> ModelSpec:
    """A transformer with a table of words that the head shares."""
    return spec(text_model(depth=6))


@dataclass
class Element:
    """One element of a page."""

    name: str
    attributes: dict[str, str | None]
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def all(self, name: str = "", **attributes: str) -> list[Element]:
        """Return elements below this one, by name and by attributes."""
        found = []
        for child in self.children:
            wanted = all(child.attributes.get(k.rstrip("_")) == v for k, v in attributes.items())
            if (not name or child.name == name) and wanted:
                found.append(child)
            found += child.all(name, **attributes)
        return found

    def styled(self, style: str) -> list[Element]:
        """Return elements below this one that have a class."""
        return [e for e in self.all() if style in (e.attributes.get("class") or "").split()]

    def words(self) -> str:
        """Return all text below this element, without scripts and styles."""
        if self.name in ("script", "style"):
            return ""
        return " ".join(filter(None, [self.text.strip(), *(c.words() for c in self.children)]))


class _Reader(HTMLParser):
    """Reads a page, and refuses elements that are not closed where they should be."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag, attrs):
        made = Element(tag, dict(attrs))
        self.open[-1].children.append(made)
        if tag not in VOID:
            self.open.append(made)

    def handle_endtag(self, tag):
        assert self.open[-1].name == tag, f"</{tag}> ends <{self.open[-1].name}>"
        self.open.pop()

    def handle_data(self, data):
        self.open[-1].text += data


def read(html: str) -> Element:
    """Read HTML; raises if an element is not closed."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert len(reader.open) == 1, f"<{reader.open[-1].name}> is never closed"
    return reader.root


def data_of(page: Element) -> dict:
    """Return what the script of a page reads."""
    (script,) = page.all("script", id="data")
    return json.loads(script.text)
