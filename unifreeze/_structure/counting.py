"""The index of a layer among layers of its kind in its zone, block or expert.

A layer that holds several projections in one tensor takes a place for each. So the next layer has
the same index in a port that holds them in separate tensors.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import NamedTuple

from unifreeze._structure.order import Rank
from unifreeze._structure.tree import Tree
from unifreeze._structure.words_in_names import (
    FAMILIES,
    FUSED,
    FUSED_KV,
    FUSED_QKV,
    KEY,
    QUERY,
    parts_of,
    role_of,
    words_in,
)

_ANY_FAMILY = reduce(or_, FAMILIES) | FUSED_QKV | FUSED_KV
_SPANNING = ("linear", "conv")
"""Kinds of layers that hold projections."""


class FusedSpan(NamedTuple):
    """A layer that takes several places in the count, because it holds several projections.

    Attributes:
        width: How many places it takes.
        places: For each of its names, which of these places its parts take.
        roles: For names that say which projection they are, their roles without that word.
    """

    width: int
    places: dict[int, tuple[int, ...]]
    roles: dict[int, str]


@dataclass(frozen=True)
class Numbering:
    """The numbers of all layers of a model.

    Attributes:
        count_of: For each owner, how many places of its kind come before it in its unit.
        ambiguous: Owners that the two orders number differently with nothing to settle it.
        spans: The layers that take several places, by owner.
    """

    count_of: dict[int, int] = field(default_factory=dict)
    ambiguous: set[int] = field(default_factory=set)
    spans: dict[int, FusedSpan] = field(default_factory=dict)


class LayerCounter:
    """Numbers the layers of one kind in one stretch of the network, group by group.

    A layer that never ran, or whose tensors all have their first names elsewhere, comes last, so
    that it changes no other number.

    Attributes:
        numbering: The numbers so far.
    """

    def __init__(
        self, tree: Tree, words: list[int], kind_of: Mapping[int, str], unreached: frozenset[int]
    ) -> None:
        self.tree, self.words = tree, words
        self.numbering = Numbering(spans=find_spans(tree, words, kind_of))
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
        uncounted = [owner for owner in group if owner not in self._counted]
        place = 0
        for owner in (*ordered, *uncounted):
            self.numbering.count_of[owner] = place
            span = self.numbering.spans.get(owner)
            place += span.width if span else 1

    def _by_family(self, group: list[int]) -> list[int]:
        """Order layers that words tell apart (query, key, value …) by the words.

        They share their own positions among themselves; every other layer keeps its position.
        """
        ordered = list(group)
        for family, positions in self._families(group) if len(group) > 1 else ():
            words = [self._word(group[position], family) for position in positions]
            if len(set(words)) == len(words) > 1:
                ranked = sorted(zip(words, positions, strict=True))
                for position, (_, source) in zip(positions, ranked, strict=True):
                    ordered[position] = group[source]
        return ordered

    def _families(self, group: list[int]) -> list[tuple[int, list[int]]]:
        """Return the positions of layers under one parent whose words are of one family."""
        positions: dict[tuple[int, int], list[int]] = defaultdict(list)
        for position, owner in enumerate(group):
            # Most layers carry no such word, and one look is enough for them.
            for family in FAMILIES if self.words[owner] & _ANY_FAMILY else ():
                if self._word(owner, family):
                    positions[self.tree.parents[owner], family].append(position)
        return [(family, places) for (_, family), places in positions.items()]

    def _word(self, owner: int, family: int) -> int:
        """Return an owner's word of a family; for a fused projection, the word of its first part.

        So `qkv` stands where `query` would stand.
        """
        words = self.words[owner]
        if words & FUSED:
            words |= QUERY if words & FUSED_QKV else KEY if words & FUSED_KV else 0
        return words & family

    def _disagreeing(self, executed: list[int], registered: list[int]) -> set[int]:
        """Find owners of one shape that the two orders number differently."""
        unsettled: set[int] = set()
        for ran, stands in zip(executed, registered, strict=True):
            if ran != stands and self._shapes(ran) == self._shapes(stands):
                unsettled |= {ran, stands}
        return unsettled

    def _shapes(self, owner: int) -> list[tuple[int, ...]]:
        tree = self.tree
        return [tree.tensors[tree.tensor_of[n]].neutral for n in tree.own_names(owner)]


def find_spans(
    tree: Tree, words: Sequence[int], kind_of: Mapping[int, str]
) -> dict[int, FusedSpan]:
    """Find the layers that hold several projections in one tensor, by owner.

    Args:
        tree: The model as its backend found it.
        words: Word bits of every module.
        kind_of: For each owner, the kind it is counted as.
    """
    telling = {leaf for leaf in set(tree.leaves) if words_in(leaf) & (FUSED | FAMILIES[0])}
    named = {o for o, leaf in zip(tree.owners, tree.leaves, strict=True) if leaf in telling}
    likely = {owner for owner in kind_of if words[owner] & FUSED} | named
    spans = {}
    for owner in sorted(likely):
        if kind_of.get(owner) in _SPANNING:
            span = _span(tree, owner, len(parts_of(words[owner])))
            if span.width > 1:
                spans[owner] = span
    return spans


def _span(tree: Tree, owner: int, parts: int) -> FusedSpan:
    """Return the places of a layer's tensors, by the layer's word or by the words of its leaves."""
    names = tree.own_names(owner)
    if parts:
        return FusedSpan(parts, dict.fromkeys(names, tuple(range(parts))), {})
    said = {name: words_in(tree.leaves[name]) for name in names}
    roles = {name: role_of(tree.leaves[name], "")[1] for name in names}
    weights = [word for name, word in said.items() if roles[name] == "weight"]
    alone = sorted({word & FAMILIES[0] for word in weights} - {0})
    width = max((len(parts_of(word)) for word in weights), default=0)
    width = width or (len(alone) if len(alone) > 1 else 0)
    places = {}
    for name, word in said.items():
        number = alone.index(word & FAMILIES[0]) if word & FAMILIES[0] in alone else 0
        places[name] = tuple(range(len(parts_of(word)))) or (number,)
    telling = {name for name, word in said.items() if word & (FUSED | FAMILIES[0])}
    # Only a role that is then the only one at its place can lose the word that tells it apart.
    taken = Counter((places[name][0], roles[name] or tree.leaves[name]) for name in names)
    clear = {n: roles[n] for n in telling if roles[n] and taken[places[n][0], roles[n]] == 1}
    return FusedSpan(width, places, clear)


def _first_owners(tree: Tree) -> set[int]:
    """Return the owners of statistics, and those that give some tensor its first name."""
    first: dict[int, int] = {}
    for owner, tensor in zip(tree.owners, tree.tensor_of, strict=True):
        first.setdefault(tensor, owner)
    return {*first.values(), *(state.owner for state in tree.states)}
