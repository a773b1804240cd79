"""Which parameters decide whether a layer's statistics and other state hold still."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from unifreeze._structure import LAYERS, Mask, ModelSpec, Zone

Names = NDArray[np.intp]


class Grounds:
    """Finds, for a layer with state, the names of the parameters that decide about it.

    These are the parameters of the layer itself. If it has none, its place decides. Its place also
    decides if all its parameters are constants of the network that no rule decides, because
    whether a constant trains says nothing about the layer.
    """

    def __init__(self, spec: ModelSpec, trainable: Mask, decided: Mask) -> None:
        self.spec = spec
        self._tree, self._at = spec.tree, spec.placement
        self._frozen = ~trainable[spec.tensor_of]
        self._decided = decided[spec.tensor_of]
        self._found = spec.found[spec.tensor_of]
        self._left = (spec.constants | spec.never)[spec.tensor_of] & ~self._decided
        self._units: dict[int, Names] = {}

    @cached_property
    def _by_owner(self) -> Names:
        """The names of all parameters, sorted by their owners."""
        return np.argsort(self.spec.owner_of, kind="stable")

    @cached_property
    def _starts(self) -> Names:
        """For each module, where its own names start in `_by_owner`."""
        owners = self.spec.owner_of[self._by_owner]
        return np.searchsorted(owners, np.arange(len(self._tree.paths) + 1))

    @cached_property
    def _says(self) -> Mask:
        """For each module, whether its own parameters say whether it is frozen."""
        owners = self.spec.owner_of[~self._left]
        return np.asarray(np.bincount(owners, minlength=len(self._tree.paths)) > 0, np.bool_)

    def all_frozen(self, names: Names) -> bool:
        """Return whether there are names and all their parameters are frozen."""
        return bool(len(names) and self._frozen[names].all())

    def any_decided(self, names: Names) -> bool:
        """Return whether a rule decides any of them."""
        return bool(self._decided[names].any())

    def all_decided(self, names: Names) -> bool:
        """Return whether rules decide all of them."""
        return bool(self._decided[names].all())

    def untouched(self, names: Names) -> bool:
        """Return whether all were found frozen and no rule decides any of them."""
        return bool(len(names)) and not (self._decided[names] | self._found[names]).any()

    def under(self, module: int) -> Names:
        """Return the names of all parameters under a module."""
        return np.arange(self._tree.name_starts[module], self._tree.name_ends[module])

    def of_norm(self, norm: int) -> Names:
        """Return the parameters that decide about a norm.

        These are its own parameters, or else those of its block, of its zone if all of the zone is
        frozen, or of the layers beside it.
        """
        names = self._own(norm)
        if self._speak(names):
            return names
        zone = self._zone(norm)
        if zone is Zone.BLOCK:
            return self.under(self._block_around(norm))
        if zone is not Zone.UNPLACED and self.all_frozen(names := self._names_in_unit(norm)):
            return names
        return self._beside(norm)

    def of_state(self, module: int) -> Names:
        """Return the parameters that decide about a layer that keeps other state.

        These are its own parameters or those of the layer that it is a part of; or else those under
        it, in its block, or of the layers beside it. A balancing bias belongs to its router.
        """
        if (router := self.spec.experts.routers_of.get(module)) is not None:
            return np.asarray(router, np.intp)
        names = self._of_layer(module)
        if self._speak(names):
            return names
        block = self._block_around(module)
        return self.under(block) if block >= 0 else self._beside(module, head=len(names) > 0)

    def constants_of(self, module: int) -> Names:
        """Return a stateful layer's parameters if all are constants that no rule decides."""
        names = self._of_layer(module)
        return names if not self._speak(names) else names[:0]

    def by_neighbours(self, module: int) -> bool:
        """Return whether the layers beside a layer with other state decide about it."""
        if module in self.spec.experts.routers_of:
            return False
        return not self._speak(self._of_layer(module)) and self._block_around(module) < 0

    def _of_layer(self, module: int) -> Names:
        """Return the parameters of a layer with state, or of the layer that it is a part of."""
        tree = self._tree
        # Names under a module are a range: an empty range means that there are no parameters.
        if tree.name_ends[module] > tree.name_starts[module]:
            names = self._own(module)
            return names if len(names) and not self._is_network(module) else self.under(module)
        # A module with state alone, such as a quantiser's observer, is a part of a layer around it.
        around = tree.parents[module]
        while around > 0 and tree.name_ends[around] == tree.name_starts[around]:
            around = tree.parents[around]
        if around < 0 or not len(inside := self.under(around)):
            return self.under(module)
        owner = tree.owners[inside[0]]
        if owner < around:
            # A parametrization computes a parameter of a layer further out, and belongs to that.
            return self._own(owner)
        if len(self._own(around)) or self._at.kinds[around] in LAYERS:
            return inside
        return self.under(module)

    def _own(self, module: int) -> Names:
        return self._by_owner[self._starts[module] : self._starts[module + 1]]

    def _speak(self, names: Names) -> bool:
        """Return whether any of the names is not just a constant that no rule decides."""
        return not bool(self._left[names].all())

    def _is_network(self, module: int) -> bool:
        """Return whether a module is not a layer: it is the model itself, or it holds blocks."""
        end = self._tree.ends[module]
        return module == 0 or any(module < run.blocks[0] < end for run in self.spec.runs)

    def _zone(self, owner: int) -> Zone:
        at = self._at
        return at.units[at.unit_of[owner]].zone if owner in at.unit_of else Zone.UNPLACED

    def _block_around(self, module: int) -> int:
        """Return the block that a module is in, -1 for none."""
        blocks = [part for run in self.spec.runs for block in run.parts() for part in block]
        return next((b for b in blocks if b <= module < self._tree.ends[b]), -1)

    def _names_in_unit(self, module: int) -> Names:
        """Return the names of all parameters in a module's stretch of the network."""
        unit = self._at.unit_of[module]
        if unit not in self._units:
            same = [self._at.unit_of[owner] == unit for owner in self._tree.owners]
            self._units[unit] = np.flatnonzero(np.asarray(same, np.bool_))
        return self._units[unit]

    def _beside(self, module: int, *, head: bool = False) -> Names:
        """Return the parameters of the layers right before and after a module.

        Args:
            module: The module.
            head: Layers in the head count even if the module is not in the head. Without this they
                count only if there are no other layers.
        """
        ranks, place = self._at.ranks, self._rank(module)
        owners = [n for n in np.flatnonzero(self._says).tolist() if n in ranks and n != module]
        if not head and self._zone(module) is not Zone.HEAD:
            owners = [n for n in owners if self._zone(n) is not Zone.HEAD] or owners
        before = max((n for n in owners if ranks[n] < place), key=ranks.__getitem__, default=None)
        after = min((n for n in owners if ranks[n] > place), key=ranks.__getitem__, default=None)
        beside = [self._own(n) for n in (before, after) if n is not None]
        return np.concatenate(beside) if beside else np.zeros(0, np.intp)

    def _rank(self, module: int) -> tuple[int, int]:
        ranks = self._at.ranks
        return ranks.get(module, (next(iter(ranks.values()), (-1, 0))[0], module))
