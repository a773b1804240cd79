"""Parameters that look like a network's own constants: found frozen, each beside others that train.

Position tables, Fourier features and fixed kernels are kept as parameters that their network never
trains. A whole part found frozen looks different: that is what somebody's loop leaves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from unifreeze._structure.tree import Tree

Mask = NDArray[np.bool_]

_REPEATED = {"conv": "matrix", "linear": "matrix", "rnn": "matrix", "norm": "norm"}
"""Kinds of layers that networks have many of, and what they are alike in."""


def find_constants(tree: Tree, kinds: Sequence[str], found: Mask) -> Mask:
    """Find tensors that were found frozen one by one, where what is beside them trains.

    A tensor stands beside the other tensors of its own module, and beside that module's children;
    one that is alone in its module, beside what its parent has. Of several in one place, those that
    train must be more. Where most layers of a kind are frozen alike, a loop did it: over weights,
    say, or over convolutions. Adapters and the layers they adapt are left aside.

    Args:
        tree: The model.
        kinds: Kind of every module.
        found: For each tensor, whether it was found trainable.
    """
    constants = np.zeros(len(tree.tensors), np.bool_)
    if found.all():
        return constants
    view = _View(tree, kinds, found)
    for place, alone in sorted(view.places().items(), reverse=True):
        others = view.units(place, alone, constants)
        training = sum(others)
        if training and training == len(others) and (len(alone) == 1 or len(alone) < training):
            constants[list(alone)] = True
    named = np.asarray([bool(tensor.fixed) for tensor in tree.tensors], np.bool_)
    return constants & ~named


class _View:
    """A tree without its adapters, the layers that have any, and what can never train."""

    def __init__(self, tree: Tree, kinds: Sequence[str], found: Mask) -> None:
        self.tree, self.kinds, self.found = tree, kinds, found
        adapted = {o for o, adapter in zip(tree.owners, tree.adapters, strict=True) if adapter}
        self.left_out = np.asarray([owner in adapted for owner in tree.owners], np.bool_)
        impossible = [tree.tensors[tensor].impossible for tensor in tree.tensor_of]
        self.left_out |= np.asarray(impossible, np.bool_)

    def places(self) -> dict[int, set[int]]:
        """Return the modules in which frozen tensors stand one by one, each with those."""
        places: dict[int, set[int]] = {}
        first: dict[int, int] = {}
        for name, tensor in enumerate(self.tree.tensor_of):
            first.setdefault(tensor, name)
        common = self._common(first)
        for tensor in np.flatnonzero(~self.found).tolist():
            name = first[tensor]
            if not self.left_out[name] and self._sort(name) not in common:
                place = self._place(name, tensor)
                if place >= 0:
                    places.setdefault(place, set()).add(tensor)
        return places

    def _sort(self, name: int) -> tuple[str, str]:
        """Return what a tensor is, for layers of which networks have many: a matrix's weight."""
        kind = self.kinds[self.tree.owners[name]]
        return _REPEATED.get(kind, ""), self.tree.leaves[name]

    def _common(self, first: dict[int, int]) -> set[tuple[str, str]]:
        """Return what several layers of a kind have frozen, and most of those that have it."""
        frozen: Counter[tuple[str, str]] = Counter()
        total: Counter[tuple[str, str]] = Counter()
        for tensor, name in first.items():
            sort = self._sort(name)
            if sort[0] and not self.left_out[name]:
                total[sort] += 1
                frozen[sort] += not self.found[tensor]
        return {sort for sort, count in frozen.items() if count > 1 and 2 * count > total[sort]}

    def _place(self, name: int, tensor: int) -> int:
        """Climb from a tensor's owner to the first module that has more than it; -1 for none."""
        module = self.tree.owners[name]
        while module >= 0 and set(self._tensors(module)) <= {tensor}:
            module = self.tree.parents[module]
        return module

    def _tensors(self, module: int) -> Iterator[int]:
        tree = self.tree
        for name in range(tree.name_starts[module], tree.name_ends[module]):
            if not self.left_out[name]:
                yield tree.tensor_of[name]

    def units(self, place: int, alone: set[int], constants: Mask) -> list[bool]:
        """Tell of whatever else stands in a place whether it trains, constants in it apart."""
        tree = self.tree
        own = {tree.tensor_of[n] for n in tree.own_names(place) if not self.left_out[n]}
        groups = [{tensor} for tensor in own]
        groups += [set(self._tensors(child)) for child in tree.children(place)]
        left = [{t for t in group - alone if not constants[t]} for group in groups]
        return [all(bool(self.found[t]) for t in group) for group in left if group]
