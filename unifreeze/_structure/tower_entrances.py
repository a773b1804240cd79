"""What enters a tower of a model, by its first layers: tokens, pictures or sound."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from unifreeze._structure.tree import Trace, Tree
from unifreeze._structure.words_in_names import POSITION, TASK, TOKEN_TYPE
from unifreeze._structure.zones import Placement

BESIDE_TOKENS = POSITION | TOKEN_TYPE | TASK
COLOURS = 3
FEW_ROWS = 8
"""A table of fewer rows is not one of words: it holds marks, such as begin and end."""
_MARKS = 8
"""At most so many tokens, such as a class token and registers, stand beside the patches."""

TOKENS, COLOUR_GRID, GRID, LINE, MIXED = "tokens", "colours", "grid", "line", "mixed"

MAY_BE = {
    TOKENS: frozenset({"text"}),
    COLOUR_GRID: frozenset({"vision"}),
    GRID: frozenset({"vision", "audio"}),
    LINE: frozenset({"audio"}),
    MIXED: frozenset[str](),
}
"""For each entrance, the towers that can begin so. A grid of one channel may be a spectrogram."""

READS = {
    TOKENS: "tokens",
    COLOUR_GRID: "pictures",
    GRID: "pictures or spectrograms",
    LINE: "a signal over time",
    MIXED: "pictures and words",
}
"""What a tower with each entrance reads, as a message says it."""


def entrance_of(tree: Tree, at: Placement, owners: Iterable[int], trace: Trace | None) -> str:
    """Return what enters by some layers, a key of `MAY_BE`; "" where they do not show it.

    Args:
        tree: The model.
        at: Its placement, with the order of its layers.
        owners: The layers of a tower before its first block.
        trace: What a forward pass showed, if one ran.
    """
    ordered = sorted(owners, key=at.ranks.__getitem__)
    patches = _patch_counts(tree, ordered, at, trace) if trace else set()
    shown = [
        show
        for owner in ordered
        if (show := shows(tree, at, owner))
        and not (show == TOKENS and token_rows(tree, at, owner) in patches)
    ]
    if TOKENS in shown and not {COLOUR_GRID, GRID}.isdisjoint(shown):
        return MIXED
    return shown[0] if shown else ""


def token_rows(tree: Tree, at: Placement, owner: int) -> int:
    """Return the number of rows of a layer that looks tokens up, 0 for any other layer."""
    if at.kind_of.get(owner) != "embedding" or at.words[owner] & BESIDE_TOKENS:
        return 0
    names = tree.own_names(owner)
    shapes = [tree.tensors[tree.tensor_of[name]].shape for name in names]
    rows = max((shape[0] for shape in shapes if len(shape) == 2), default=0)
    return rows if rows >= FEW_ROWS else 0


def kernels(tree: Tree, at: Placement, modules: Iterable[int]) -> list[tuple[int, ...]]:
    """Return the shapes of the kernels over pictures among some modules, in order."""
    owners = sorted((m for m in modules if m in at.kind_of), key=at.ranks.__getitem__)
    return [shape for owner in owners if len(shape := _kernel(tree, at, owner)) > 3]


def _kernel(tree: Tree, at: Placement, owner: int) -> tuple[int, ...]:
    """Return the shape of a convolution's kernel in the neutral layout, () for other layers."""
    if at.kind_of.get(owner) != "conv":
        return ()
    shapes = [tree.tensors[tree.tensor_of[name]].neutral for name in tree.own_names(owner)]
    return max(shapes, key=len, default=())


def shows(tree: Tree, at: Placement, owner: int) -> str:
    """Return what one layer says about the values that enter it, "" for nothing."""
    kind = at.kind_of.get(owner)
    if kind == "embedding":
        return TOKENS if token_rows(tree, at, owner) else ""
    kernel = _kernel(tree, at, owner)
    if len(kernel) > 3:
        return COLOUR_GRID if kernel[1] == COLOURS else GRID
    if len(kernel) == 3:
        return LINE
    if kind == "linear" and "patch" in tree.paths[owner].lower():
        shapes = [tree.tensors[tree.tensor_of[n]].neutral for n in tree.own_names(owner)]
        colours = any(shape[-1] % COLOURS == 0 for shape in shapes if len(shape) == 2)
        return COLOUR_GRID if colours else GRID
    return ""


def _patch_counts(tree: Tree, owners: Iterable[int], at: Placement, trace: Trace) -> set[int]:
    """Return how many rows a table of positions of patches can have, by a traced convolution."""
    convs = (owner for owner in owners if at.kind_of.get(owner) == "conv")
    shapes = (trace.shapes.get(tree.paths[owner], ()) for owner in convs)
    places = (prod(shape[2:]) for shape in shapes if len(shape) > 3)
    return {count + extra for count in places for extra in range(_MARKS + 1)}
