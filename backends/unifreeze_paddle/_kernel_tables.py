"""What many layers of a model must lend to their kernels, looked up for all of them at once.

A large model has thousands of layers of few classes. What a layer needs depends on its class, the
names of its kernel's tensors, and which of these train; so it is derived once for each such sort.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from unifreeze.backend import Mask, Walk
from unifreeze_paddle import _half_frozen_layers as lending

Needs: TypeAlias = tuple[tuple[str, ...], bool]
"""What a layer must lend, and whether its input must be attached."""
_UNKNOWN = -1
"""Stands for the number of a tensor about which the plan says nothing."""
_AS_FLAG = (False, True, None)


class KernelTable(NamedTuple):
    """Layers of one class whose kernels compute with tensors of the same names.

    Attributes:
        cls: The class.
        leaves: The names of the tensors.
        layers: The numbers of the layers, ascending.
        tensors: For each layer the numbers of its tensors, shape (layers, leaves).
    """

    cls: type
    leaves: tuple[str, ...]
    layers: NDArray[np.intp]
    tensors: NDArray[np.intp]

    def needs(self, trainable: Mask, changed: Mask | None = None) -> Iterator[tuple[int, Needs]]:
        """Yield what layers need, by number.

        Args:
            trainable: For each parameter, whether the plan trains it.
            changed: Look at layers with one of these parameters alone; None to look at all.
        """
        layers, tensors = self.layers, self.tensors
        if changed is not None:
            concerned = np.append(changed, False)[tensors].any(axis=1)
            layers, tensors = layers[concerned], tensors[concerned]
        rows = [*map(tuple, np.append(trainable, 2).astype(np.int8)[tensors].tolist())]
        found = {
            row: lending.needs_of(self.cls, self.leaves, tuple(_AS_FLAG[flag] for flag in row))
            for row in dict.fromkeys(rows)
        }
        yield from zip(layers.tolist(), map(found.__getitem__, rows), strict=True)


def kernel_tables(walk: Walk) -> list[KernelTable]:
    """Return the layers of a model that may need help under some plan."""
    tables = []
    for cls, numbers in walk.by_class.items():
        if lending.may_need(cls):
            for leaves, layers, tensors in _alike(walk, np.sort(np.array(numbers, np.intp))):
                places = [*map(walk.tree.numbers.get, map(id, tensors))]
                known = np.array([_UNKNOWN if n is None else n for n in places], np.intp)
                shape = len(layers), len(leaves)
                tables.append(KernelTable(cls, leaves, layers, known.reshape(shape)))
    return tables


_Alike: TypeAlias = tuple[tuple[str, ...], NDArray[np.intp], Sequence[object]]


def _alike(walk: Walk, numbers: NDArray[np.intp]) -> Iterator[_Alike]:
    """Yield layers of one class whose tensors have the same names, with all of their tensors."""
    held = [*map(lending.kernel_tensors, map(walk.module, numbers.tolist()))]
    names = [*map(tuple, held)]
    for leaves in dict.fromkeys(names):
        rows = np.array([name == leaves for name in names])
        chosen = [held[row] for row in np.flatnonzero(rows).tolist()]
        yield leaves, numbers[rows], [*chain.from_iterable(map(dict.values, chosen))]
