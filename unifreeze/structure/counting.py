"""The how-manieth of its kind a layer is in its zone, block or expert: the number in its name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from unifreeze.structure.order import Rank
from unifreeze.structure.tree import Tree
from unifreeze.structure.words import FAMILIES


class LayerCounter:
    """Numbers layers of one kind in one stretch of the network.

    One that never ran, or whose tensors all have their first names elsewhere, comes last: it shifts
    no number.

    Attributes:
        ambiguous: Layers that the two orders number differently with nothing to settle it.
    """

    def __init__(self, tree: Tree, words: list[int], unreached: frozenset[int]) -> None:
        self.tree, self.words = tree, words
        self.ambiguous: set[int] = set()
        self._counted = _first_owners(tree) - unreached

    def number(self, group: list[int], rank: Callable[[int], Rank] | None) -> dict[int, int]:
        """Number a group.

        Args:
            group: Owners of one kind, as registered.
            rank: Their order; None to count by registration.
        """
        counted = [owner for owner in group if owner in self._counted]
        ordered = registered = self._by_family(counted)
        if rank:
            ordered = self._by_family(sorted(counted, key=rank))
            self.ambiguous |= self._disagreeing(ordered, registered)
        others = [owner for owner in group if owner not in self._counted]
        return {owner: number for number, owner in enumerate([*ordered, *others])}

    def _by_family(self, group: list[int]) -> list[int]:
        """Order layers that words tell apart (query, key, value …) by the words."""
        if len(group) < 2:
            return group
        slots: dict[tuple[int, int], list[int]] = defaultdict(list)
        for position, owner in enumerate(group):
            for number, family in enumerate(FAMILIES):
                if any(self.words[owner] & word for word in family):
                    slots[self.tree.parents[owner], number].append(position)
        ordered = list(group)
        for (_, number), positions in slots.items():
            words = [self.words[group[p]] & sum(FAMILIES[number]) for p in positions]
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
