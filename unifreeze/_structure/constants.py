"""Parameters that look like constants of the network: single ones found frozen beside trained ones.

Some networks keep position tables, Fourier features and fixed kernels as parameters and never train
them. A whole frozen part looks different: it was frozen by somebody's loop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from unifreeze._structure.tree import Mask, Tree

_REPEATED = {"conv": "matrix", "linear": "matrix", "rnn": "matrix", "norm": "norm"}
"""Kinds of layers that networks have many of, by what they hold: a matrix, or a norm's scale."""


def find_constants(tree: Tree, kinds: Sequence[str], found: Mask) -> Mask:
    """Find single frozen tensors whose neighbours train.

    The neighbours of a tensor are the other tensors of its module and the children of that module.
    A tensor that is alone in its module has the neighbours of the module. Several frozen tensors in
    one place count only if more neighbours train. Where most layers of a kind have the same tensor
    frozen, a loop froze them, for example all weights or all convolutions; those do not count.
    Adapters and the layers that they adapt are ignored.

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
        neighbours = view.neighbours(place, alone, constants)
        training = sum(neighbours)
        all_train = training and training == len(neighbours)
        if all_train and (len(alone) == 1 or len(alone) < training):
            constants[list(alone)] = True
    named = np.asarray([bool(tensor.fixed) for tensor in tree.tensors], np.bool_)
    return constants & ~named


class _View:
    """A tree without adapters, the layers that have adapters, and tensors that can never train."""

    def __init__(self, tree: Tree, kinds: Sequence[str], found: Mask) -> None:
        self.tree, self.kinds, self.found = tree, kinds, found
        adapted = {o for o, adapter in zip(tree.owners, tree.adapters, strict=True) if adapter}
        self.left_out = np.asarray([owner in adapted for owner in tree.owners], np.bool_)
        impossible = [tree.tensors[tensor].impossible for tensor in tree.tensor_of]
        self.left_out |= np.asarray(impossible, np.bool_)

    def places(self) -> dict[int, set[int]]:
        """Return the modules that hold single frozen tensors, each with those tensors."""
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
        """Return the kind of a tensor in layers that networks have many of: a matrix's weight."""
        kind = self.kinds[self.tree.owners[name]]
        return _REPEATED.get(kind, ""), self.tree.leaves[name]

    def _common(self, first: dict[int, int]) -> set[tuple[str, str]]:
        """Return the kinds of tensors that most layers have frozen, and at least two of them."""
        frozen: Counter[tuple[str, str]] = Counter()
        total: Counter[tuple[str, str]] = Counter()
        for tensor, name in first.items():
            sort = self._sort(name)
            if sort[0] and not self.left_out[name]:
                total[sort] += 1
                frozen[sort] += not self.found[tensor]
        return {sort for sort, count in frozen.items() if count > 1 and 2 * count > total[sort]}

    def _place(self, name: int, tensor: int) -> int:
        """Return the first module above a tensor that has other tensors, too; -1 for none."""
        module = self.tree.owners[name]
        while module >= 0 and set(self._tensors(module)) <= {tensor}:
            module = self.tree.parents[module]
        return module

    def _tensors(self, module: int) -> Iterator[int]:
        tree = self.tree
        for name in range(tree.name_starts[module], tree.name_ends[module]):
            if not self.left_out[name]:
                yield tree.tensor_of[name]

    def neighbours(self, place: int, alone: set[int], constants: Mask) -> list[bool]:
        """Return for each other tensor and child of a module whether all but constants train."""
        tree = self.tree
        direct = {tree.tensor_of[n] for n in tree.own_names(place) if not self.left_out[n]}
        groups = [{tensor} for tensor in direct]
        groups += [set(self._tensors(child)) for child in tree.children(place)]
        left = [{t for t in group - alone if not constants[t]} for group in groups]
        return [all(bool(self.found[t]) for t in group) for group in left if group]
