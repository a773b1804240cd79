"""Units of one convolution: which lists of them are residual, or mirror another list.

A list of such units can be the path down of a network that halves its maps and doubles them again.
It then has as many units as the path up beside it, one more or less, and all its widths are found
there. A unit that adds its input to its output keeps the number of channels.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

from unifreeze._structure.tree import Tree
from unifreeze._structure.words_in_names import CONTAINER


def rows_of_units(
    tree: Tree, kinds: Sequence[str], matrices: Sequence[int], composed: Set[int]
) -> list[list[int]]:
    """Return the lists that hold nothing but units of one class, each with a single convolution.

    Args:
        tree: The model.
        kinds: Kind of every module.
        matrices: For every module, the number of matrices under it.
        composed: Modules that are neither layers nor lists.
    """
    rows = []
    for at, kind in enumerate(kinds):
        if kind != CONTAINER:
            continue
        row = [index for index in tree.children(at) if matrices[index]]
        alike = len(row) >= 2 and len({tree.types[index] for index in row}) == 1
        if alike and composed >= set(row):
            single = all(matrices[index] == 1 and _kernel(tree, index) for index in row)
            rows += [row] if single else []
    return rows


def keeps_channels(tree: Tree, row: Sequence[int]) -> bool:
    """Return whether every unit has as many channels after its convolution as before it."""
    return all(kernel[0] == kernel[1] for kernel in (_kernel(tree, index) for index in row))


def mirrors(tree: Tree, row: Sequence[int], other: Sequence[int]) -> bool:
    """Return whether units change the number of channels as the modules of another list do."""
    if abs(len(row) - len(other)) > 1 or keeps_channels(tree, row):
        return False
    there = set().union(*(_channels(tree, index) for index in other))
    return all(kernel[0] in there for kernel in (_kernel(tree, index) for index in row))


def _kernel(tree: Tree, index: int) -> tuple[int, ...]:
    """Return the shape of a module's kernel: of its tensor with most axes, three at least."""
    names = range(tree.name_starts[index], tree.name_ends[index])
    shapes = (tree.tensors[tree.tensor_of[name]].neutral for name in names)
    return max((shape for shape in shapes if len(shape) >= 3), key=len, default=())


def _channels(tree: Tree, index: int) -> set[int]:
    names = range(tree.name_starts[index], tree.name_ends[index])
    shapes = (tree.tensors[tree.tensor_of[name]].neutral for name in names)
    return {size for shape in shapes if len(shape) >= 3 for size in shape[:2]}
