"""The modules of a network as nested boxes whose areas are their numbers of values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from unifreeze._drawing.looks import Codes
from unifreeze._drawing.treemap import Box, slices, strips
from unifreeze._structure import ModelSpec
from unifreeze.errors import listing

HEADING = 14.0
"""Height of a module's name, in pixels."""
_ROOM_FOR_HEADING = (34.0, 34.0)
"""Width and height of the smallest box that shows its name above its contents."""
_WHOLE = 9.0
"""A box with a shorter side than this is drawn without its contents."""


@dataclass(frozen=True)
class Frame:
    """A module that has a box with other boxes in it.

    Attributes:
        box: Where it is.
        module: Its number.
        title: The name to show; "" where there is no room.
    """

    box: Box
    module: int
    title: str


@dataclass(frozen=True)
class Leaf:
    """A box of a single colour in every phase.

    Attributes:
        box: Where it is.
        module: The layer, or the module that was too small to show its contents.
        numbers: The parameters in it.
        story: Which of the stories it has: what it looks like in each phase.
        title: The name to show.
    """

    box: Box
    module: int
    numbers: NDArray[np.intp]
    story: int
    title: str


@dataclass
class Nested:
    """All boxes of one picture.

    Attributes:
        stories: For each story, the look in each phase.
        frames: Modules, the outer ones first.
        leaves: The coloured boxes, in order of registration.
    """

    stories: list[tuple[int, ...]]
    frames: list[Frame] = field(default_factory=list)
    leaves: list[Leaf] = field(default_factory=list)


def nested_boxes(
    spec: ModelSpec, looks: Sequence[Codes], within: Box, *, whole: float = _WHOLE
) -> Nested:
    """Lay out a model.

    Args:
        spec: The model's description.
        looks: For each phase, what every parameter is drawn as.
        within: The rectangle to fill.
        whole: Shorter side, in pixels, of a box that is too small to show its contents.
    """
    return _Layout(spec, looks, whole).laid_out(within)


class _Layout:
    """Goes down the tree of modules, and gives each its box."""

    def __init__(self, spec: ModelSpec, looks: Sequence[Codes], whole: float) -> None:
        self.spec, self.tree, self.whole = spec, spec.tree, whole
        stories, story_of = np.unique(np.stack(looks), axis=1, return_inverse=True)
        self.story_of = np.asarray(story_of).reshape(-1)
        self.nested = Nested([tuple(column) for column in stories.T.tolist()])
        # A tensor with several names is drawn where its first name is.
        first = np.zeros(len(self.tree.names), np.bool_)
        first[spec.first_names] = True
        self.first = first
        counts = np.where(first, spec.counts[spec.tensor_of], 0)
        self.totals = np.concatenate(([0], np.cumsum(counts)))

    def laid_out(self, within: Box) -> Nested:
        if len(self.spec) and self.totals[-1]:
            self._module(0, within, "")
        return self.nested

    def _values(self, module: int) -> int:
        tree = self.tree
        return int(self.totals[tree.name_ends[module]] - self.totals[tree.name_starts[module]])

    def _numbers(self, low: int, high: int) -> NDArray[np.intp]:
        names = np.arange(low, high)
        return self.spec.tensor_of[names[self.first[low:high]]]

    def _module(self, module: int, box: Box, shown_in: str) -> None:
        """Draw a module whose parent is drawn under the path `shown_in`."""
        tree = self.tree
        own, children = self._contents(module)
        while len(children) == 1 and not len(own):  # a chain of modules is one box
            (module,) = children
            own, children = self._contents(module)
        title = tree.paths[module].removeprefix(f"{shown_in}." if shown_in else "")
        if not children or min(box.width, box.height) < self.whole:
            low, high = tree.name_starts[module], tree.name_ends[module]
            self._leaves(module, self._numbers(low, high), box, title)
            return
        wide, high_enough = _ROOM_FOR_HEADING
        has_heading = bool(module and box.width > wide and box.height > high_enough)
        self.nested.frames.append(Frame(box, module, title if has_heading else ""))
        inner = box.inside(1.5 if has_heading else 0.75, top=HEADING if has_heading else 0.0)
        sizes = [self._values(child) for child in children]
        own_values = int(self.spec.counts[own].sum())
        boxes = strips([*([own_values] if own_values else []), *sizes], inner)
        if own_values:
            names = (tree.leaves[name] for name in self.spec.first_names[own].tolist())
            self._leaves(module, own, boxes.pop(0), listing(names, limit=2))
        for child, place in zip(children, boxes, strict=True):
            self._module(child, place, tree.paths[module])

    def _contents(self, module: int) -> tuple[NDArray[np.intp], list[int]]:
        """Return the parameters that a module itself owns, and its children that hold values."""
        tree = self.tree
        children = [child for child in tree.children(module) if self._values(child)]
        in_children = sum(self._values(child) for child in children)
        if in_children == self._values(module):
            return np.zeros(0, np.intp), children
        names = [name for name in tree.own_names(module) if self.first[name]]
        return self.spec.tensor_of[np.asarray(names, np.intp)], children

    def _leaves(self, module: int, numbers: NDArray[np.intp], box: Box, title: str) -> None:
        """Draw parameters as a bar for each story."""
        stories = self.story_of[numbers]
        kinds = list(dict.fromkeys(stories.tolist()))
        members = [numbers[stories == story] for story in kinds]
        values = [int(self.spec.counts[rows].sum()) for rows in members]
        for story, rows, place in zip(kinds, members, slices(values, box), strict=True):
            if place.width and place.height:
                self.nested.leaves.append(Leaf(place, module, rows, story, title))
