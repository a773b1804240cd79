"""The freeze map: a network's modules as nested boxes, coloured by what trains."""

from __future__ import annotations

from unifreeze._drawing.looks import looks_of, shares, what_trains
from unifreeze._drawing.markup import Markup, element, joined
from unifreeze._drawing.nested_boxes import HEADING, Frame, Leaf, Nested, nested_boxes
from unifreeze._drawing.palette import Look
from unifreeze._drawing.picture import Picture, drawing, fitting, hatched, legend, rectangle
from unifreeze._drawing.treemap import Box
from unifreeze._resolution import Resolution
from unifreeze._structure import ModelSpec
from unifreeze.errors import counted, cut

WIDTH, HEIGHT, TOP = 960.0, 540.0, 46.0


def freeze_map(resolution: Resolution, since: Resolution | None = None) -> Picture:
    """Draw what a plan does to a model.

    Args:
        resolution: What the plan decides.
        since: What held in the phase before, to show what is new.
    """
    spec = resolution.spec
    looks = looks_of(resolution, since)
    nested = nested_boxes(spec, [looks], Box(0, TOP, WIDTH, HEIGHT))
    parts = shares(looks, spec.counts)
    sentence = what_trains(resolution)
    picture = drawing(
        WIDTH,
        TOP + HEIGHT,
        element("text", sentence, x=0.0, y=14.0, class_="uf-big"),
        legend([part.look for part in parts], 0.0, 24.0),
        joined(*(frame_box(frame) for frame in nested.frames)),
        joined(*(_leaf_box(leaf, nested, spec) for leaf in nested.leaves)),
        joined(*map(leaf_name, nested.leaves)),
        title=f"Freeze map: {sentence}",
    )
    return Picture(picture)


def frame_box(frame: Frame) -> Markup:
    """Draw a module that has others in it, and its name if there is room."""
    box = frame.box
    outline = rectangle(apart(box), "uf-box uf-line")
    if not frame.title:
        return outline
    label = fitting(frame.title, box.width - 8)
    return joined(outline, element("text", label, x=_at(box.x + 4), y=_at(box.y + HEADING - 3)))


def leaf_name(leaf: Leaf) -> Markup | None:
    """Write the name of a layer on its box, if there is room."""
    box = leaf.box
    if box.height < 15 or box.width < 30:
        return None
    label = fitting(leaf.title, box.width - 6)
    return element("text", label, x=_at(box.x + 3), y=_at(box.y + 12)) if label else None


def _leaf_box(leaf: Leaf, nested: Nested, spec: ModelSpec) -> Markup:
    look = Look(nested.stories[leaf.story][0])
    box = apart(leaf.box)
    return joined(rectangle(box, look.style, describe(leaf, spec, look)), hatched(look, box))


def describe(leaf: Leaf, spec: ModelSpec, look: Look) -> str:
    """Say which layer a box is, and what happens to it."""
    path = spec.tree.paths[leaf.module] or "(model)"
    values = int(spec.counts[leaf.numbers].sum())
    roles = ", ".join(spec.tree.leaves[n] for n in spec.first_names[leaf.numbers].tolist()[:3])
    more = "" if len(leaf.numbers) <= 3 else ", …"
    kind = spec.tree.types[leaf.module]
    return f"{cut(path, 200)} ({kind}): {roles}{more}; {counted(values, 'value')}, {look.label}"


def apart(box: Box, gap: float = 0.5) -> Box:
    """Return a box with half a pixel left free on each side, if it is large enough."""
    return box.inside(gap) if min(box.width, box.height) > 4 else box


def _at(place: float) -> str:
    return f"{place:.1f}".removesuffix(".0")
