"""Finding the modules of towers: those of runs of blocks, and those that names call towers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unifreeze._structure.tower_words import MODALITIES, word_in
from unifreeze._structure.tree import Tree
from unifreeze._structure.words_in_names import LAYERS
from unifreeze._structure.zones import Placement


@dataclass(eq=False)
class Anchor:
    """The highest module that holds one tower and no other.

    Attributes:
        module: Its number.
        runs: The runs of blocks in it.
        word: The tower that it is, "" where it is none or unknown.
        entrance: What enters it.
    """

    module: int
    runs: list[int]
    word: str = ""
    entrance: str = ""


def find_anchors(tree: Tree, at: Placement) -> list[Anchor]:
    """Find the modules of towers of a model, in order of registration."""
    by_module: dict[int, list[int]] = {}
    for run, module in enumerate(at.towers):
        by_module.setdefault(module, []).append(run)
    holders = [run.holder for run in at.runs]
    named = list(_named(tree, at, holders))
    if named and 0 in by_module:
        # A run that is alone has the whole model for its tower: climb again, beside the names.
        for run in by_module.pop(0):
            rivals = [*named, *(h for h in holders if h != holders[run])]
            by_module.setdefault(climb(tree, holders[run], rivals), []).append(run)
    for module in named:
        rivals = [*holders, *(other for other in named if other != module)]
        by_module.setdefault(climb(tree, module, rivals), [])
    return [Anchor(module, runs) for module, runs in sorted(by_module.items())] or [Anchor(0, [])]


def _named(tree: Tree, at: Placement, holders: Sequence[int]) -> Iterator[int]:
    """Yield modules that are called towers, hold matrices, and stand beside all blocks."""
    end, blocks = 0, {block for run in at.runs for block in run.blocks}
    for module in range(1, len(tree.paths)):
        if module < end or at.kinds[module] in LAYERS:
            continue
        if module in blocks:
            end = tree.ends[module]
            continue
        beside = not any(
            module <= h < tree.ends[module] or 0 < h <= module < tree.ends[h] for h in holders
        )
        word = word_in(tree.paths[module].rpartition(".")[2])
        if beside and word in MODALITIES and _matrices(tree, at, module) >= 2:
            yield module
            end = tree.ends[module]


def _matrices(tree: Tree, at: Placement, module: int) -> int:
    names = range(tree.name_starts[module], tree.name_ends[module])
    shapes = [
        tree.tensors[tree.tensor_of[n]].shape
        for n in names
        if at.kinds[tree.owners[n]] != "embedding"
    ]
    return sum(len(shape) >= 2 for shape in shapes)


def climb(tree: Tree, module: int, rivals: Sequence[int]) -> int:
    """Return the highest module around a module that holds none of some others."""
    others = [r for r in rivals if not module <= r < tree.ends[module]]
    while module > 0:
        above = tree.parents[module]
        if any(above <= rival < tree.ends[above] for rival in others):
            break
        module = above
    return module
