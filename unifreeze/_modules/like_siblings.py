"""Read layers that are built like the one before them in a list, all at once.

A large model is a list of many blocks that are built alike. The first is walked module by module;
of the others it is only checked that they are built alike. That looks at every module and every
parameter of a large model, so nearly all of it runs without a Python frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, TypeVar

from unifreeze._modules.reader import DictColumns, Reader
from unifreeze._protocol.live import Layer, LiveTensor

Item = TypeVar("Item")


class LikeSiblings:
    """What some layers hold, if all of them are built like a first layer.

    Each list holds, for every module or parameter of the first layer, its counterparts in all the
    siblings.

    Attributes:
        modules: The modules, in the order of a walk.
        dicts: Their dictionaries of children, of parameters and of buffers.
        tensors: The parameters, in the order of a walk.
        alike: All siblings are built alike; otherwise the lists are of no use.
    """

    def __init__(self, reader: Reader, first: Layer, siblings: Sequence[Layer]) -> None:
        """Compare the siblings with the first layer, from the root down.

        Args:
            reader: Reads the modules.
            first: A layer whose description is known.
            siblings: The layers that may be built like it.
        """
        self._reader = reader
        self.modules: list[Sequence[Layer]] = []
        self.dicts: list[DictColumns] = []
        self.tensors: list[Sequence[LiveTensor]] = []
        self.alike = self._read(first, siblings)

    def _read(self, first: Layer, layers: Sequence[Layer]) -> bool:
        reader = self._reader
        if {*map(type, layers)} != {type(first)} or not reader.regular(first):
            return False
        here, there = reader.dicts(first), reader.dicts_of(layers)
        children, parameters, buffers = there
        if any(buffers) or not _same_names(here[0], children):
            return False
        if not _same_names(here[1], parameters):
            return False
        self.modules.append(layers)
        self.dicts.append(there)
        return self._read_parameters(first, here[1], layers, parameters) and all(
            self._read(child, [*map(itemgetter(name), children)]) for name, child in here[0].items()
        )

    def _read_parameters(
        self, first: Layer, here: Any, layers: Sequence[Layer], there: Sequence[Any]
    ) -> bool:
        for leaf, tensor in here.items():
            tensors = [*map(itemgetter(leaf), there)]
            if {*map(type, tensors)} != {type(tensor)}:
                return False
            if tensor is not None:
                if not self._reader.all_alike(leaf, [first, *layers], [tensor, *tensors]):
                    return False
                self.tensors.append(tensors)
        return True


def _same_names(here: Any, there: Sequence[Any]) -> bool:
    """Return whether dictionaries have the same names in the same order as another one."""
    if not here:
        return not any(there)
    # A name is in a dictionary once, so the row of all names shows where each begins.
    return [*chain.from_iterable(there)] == [*here] * len(there)


def by_sibling(columns: Sequence[Sequence[Item]]) -> list[Item]:
    """Return the items of the first sibling, then those of the second, and so on."""
    return [*chain.from_iterable(zip(*columns, strict=True))]
