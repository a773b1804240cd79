"""The how-manieth of its kind a layer is in its zone, block or expert: the number in its name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from operator import or_

from unifreeze.structure.order import Rank
from unifreeze.structure.tree import Tree
from unifreeze.structure.words import FAMILIES

_ANY_FAMILY = reduce(or_, FAMILIES)


@dataclass(frozen=True)
class Numbering:
    """The numbers of all layers of a model.

    Attributes:
        count_of: For each owner, how many of its kind come before it in its unit.
        ambiguous: Owners that the two orders number differently with nothing to settle it.
    """

    count_of: dict[int, int] = field(default_factory=dict)
    ambiguous: set[int] = field(default_factory=set)


class LayerCounter:
    """Numbers layers of one kind in one stretch of the network after another.

    One that never ran, or whose tensors all have their first names elsewhere, comes last: it shifts
    no number.

    Attributes:
        numbering: The numbers so far.
    """

    def __init__(self, tree: Tree, words: list[int], unreached: frozenset[int]) -> None:
        self.tree, self.words = tree, words
        self.numbering = Numbering()
        self._counted = _first_owners(tree) - unreached

    def add(self, group: list[int], rank: Callable[[int], Rank] | None) -> None:
        """Number a group.

        Args:
            group: Owners of one kind, as registered.
            rank: Their order; None to count by registration.
        """
        counted = [owner for owner in group if owner in self._counted]
        ordered = registered = self._by_family(counted)
        if rank:
            ordered = self._by_family(sorted(counted, key=rank))
            self.numbering.ambiguous.update(self._disagreeing(ordered, registered))
        others = [owner for owner in group if owner not in self._counted]
        numbers = {owner: number for number, owner in enumerate([*ordered, *others])}
        self.numbering.count_of.update(numbers)

    def _by_family(self, group: list[int]) -> list[int]:
        """Order layers that words tell apart (query, key, value …) by the words."""
        if len(group) < 2:
            return group
        slots: dict[tuple[int, int], list[int]] = defaultdict(list)
        for position, owner in enumerate(group):
            if self.words[owner] & _ANY_FAMILY:
                for family in FAMILIES:
                    if self.words[owner] & family:
                        slots[self.tree.parents[owner], family].append(position)
        ordered = list(group)
        for (_, family), positions in slots.items():
            words = [self.words[group[p]] & family for p in positions]
            if len(set(words)) == len(words) > 1:
                ranked = sorted(zip(words, positions, strict=True))
                for position, (_, source) in zip(positions, ranked, strict=True):
                    ordered[position] = group[source]
        return ordered

    def _disagreeing(self, executed: list[int], registered: list[int]) -> set[int]:
        """Find owners of one shape that the two orders number differently."""
        unsettled: set[int] = set()
        for one, other in zip(executed, registered, strict=True):
            if one != other and self._shapes(one) == self._shapes(other):
                unsettled |= {one, other}
        return unsettled

    def _shapes(self, owner: int) -> list[tuple[int, ...]]:
        tree = self.tree
        return [tree.tensors[tree.tensor_of[n]].neutral for n in tree.own_names(owner)]


def _first_owners(tree: Tree) -> set[int]:
    """Owners of statistics, and of a tensor that has its first name from them."""
    first: dict[int, int] = {}
    for owner, tensor in zip(tree.owners, tree.tensor_of, strict=True):
        first.setdefault(tensor, owner)
    return {*first.values(), *(state.owner for state in tree.states)}
