"""Canonical names: where a tensor is in the network, in the same words in every framework.

A name is made of the unit, the layer's kind and number in it, and the tensor's role in the layer:
`blocks.3/linear.0/weight`.
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unifreeze._structure.tree import Tree
from unifreeze._structure.words_in_names import KINDS, role_of
from unifreeze._structure.zones import Placement, Unit, Zone


class CanonicalNames:
    """The canonical names of one model, and the order that they put its parameters in."""

    def __init__(self, tree: Tree, placement: Placement) -> None:
        self._tree, self._at = tree, placement

    @cached_property
    def roles(self) -> list[str]:
        """For each name, the role of the tensor in its owner."""
        tree, kinds = self._tree, self._at.kinds
        pairs = list(zip(tree.leaves, tree.owners, strict=True))
        roles = [role_of(leaf, kinds[owner])[0] for leaf, owner in pairs]
        # A layer that holds both `weight` and `scale` keeps them apart by their own names.
        taken = Counter(zip(tree.owners, roles, strict=True))
        return [
            role if taken[owner, role] == 1 else leaf
            for role, (leaf, owner) in zip(roles, pairs, strict=True)
        ]

    @cached_property
    def of_names(self) -> list[str]:
        """For each name, the canonical name; of a fused tensor, that of its first part."""
        if self._at.spans:
            return [self.of_parts(name)[0] for name in range(len(self._tree.names))]
        return [
            f"{self.of_layer(owner)}/{role}"
            for owner, role in zip(self._tree.owners, self.roles, strict=True)
        ]

    def of_parts(self, name: int) -> tuple[str, ...]:
        """Return the canonical names of a tensor's parts: one, or several if it is fused."""
        owner = self._tree.owners[name]
        places, role = self._places(name)
        return tuple(f"{self.of_layer(owner, place)}/{role}" for place in places)

    def of_layer(self, owner: int, place: int = 0) -> str:
        """Return the canonical name of a layer: `blocks.3/norm.1`.

        Args:
            owner: The layer.
            place: Which projection, for a layer that holds several.
        """
        at = self._at
        if owner not in at.unit_of:
            return self._tree.paths[owner]
        unit = at.units[at.unit_of[owner]].label
        return f"{unit}/{at.kind_of[owner]}.{at.count_of[owner] + place}"

    def order(self) -> NDArray[np.intp]:
        """Return parameter numbers in canonical order: from the input to the head.

        Within a unit, layers are listed by their number, then by kind; so that in a plain
        convolutional network the order is conv, norm, conv, norm. A tensor with several names
        stands at the first of them.
        """
        first: dict[int, tuple[Any, ...]] = {}
        for name, number in enumerate(self._tree.tensor_of):
            key = self._key(name)
            first[number] = min(first.get(number, key), key)
        return np.asarray(sorted(range(len(first)), key=first.__getitem__), dtype=np.intp)

    def _key(self, name: int) -> tuple[Any, ...]:
        at, owner = self._at, self._tree.owners[name]
        places, role = self._places(name)
        return (
            *_unit_key(at.units[at.unit_of[owner]]),
            at.count_of[owner] + places[0],
            KINDS.index(at.kind_of[owner]),
            self._tree.adapters[name],
            {"weight": 0, "bias": 1}.get(role, 2),
            role,
        )

    def _places(self, name: int) -> tuple[tuple[int, ...], str]:
        """Return which places of its layer a tensor takes, and its role there."""
        span = self._at.spans.get(self._tree.owners[name])
        if span is None:
            return (0,), self.roles[name]
        return span.places[name], span.roles.get(name, self.roles[name])


def _unit_key(unit: Unit) -> tuple[object, ...]:
    """Order units from the input to the head; a transition comes before the block after it."""
    middle = unit.zone in (Zone.BLOCK, Zone.TRANSITION)
    zone = Zone.BLOCK if middle else unit.zone
    position = (unit.block, unit.zone is Zone.BLOCK) if middle else (0, False)
    return (zone, unit.run, *position, unit.expert, unit.label)
