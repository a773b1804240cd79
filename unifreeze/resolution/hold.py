"""Which layers hold still: running statistics, other training-time state, stochastic layers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from unifreeze.plan import FreezePlan, pick
from unifreeze.select import Selector
from unifreeze.structure import STATISTICS, Mask, ModelSpec, Zone

Select = Callable[[Selector, ModelSpec, str], Mask]


def held_modules(
    plan: FreezePlan, spec: ModelSpec, trainable: Mask, select: Select
) -> tuple[int, ...]:
    """Return the modules whose training-time state holds still.

    Args:
        plan: Its `norm_stats` policy decides about running statistics.
        spec: The model.
        trainable: The decision for each parameter.
        select: Evaluates a selector on atoms, with a place for errors.
    """
    frozen = Frozen(spec, trainable)
    norms = spec.statistics_owners()
    held = set(_held_norms(plan, spec, frozen, norms, select))
    others = {state.owner for state in spec.states if state.moves} - set(norms)
    held |= {owner for owner in others if frozen.whole(owner)}
    return tuple(sorted(held))


def _held_norms(
    plan: FreezePlan, spec: ModelSpec, frozen: Frozen, norms: list[int], select: Select
) -> list[int]:
    moving = {s.owner for s in spec.states if s.role in STATISTICS and s.moves}
    norms = [norm for norm in norms if norm in moving]
    if plan.norm_stats == "update":
        return []
    if plan.norm_stats == "hold_all":
        return norms
    held = {norm: frozen.whole(norm) for norm in norms}
    if not isinstance(plan.norm_stats, str):
        for number, rule in enumerate(plan.norm_stats):
            where = f"norm_stats[{number}].{rule.verb}"
            mask = select(pick(rule.choice, spec.framework, where), spec, where)
            tensors = np.zeros(len(spec), np.bool_)
            tensors[spec.atoms.tensor[mask]] = True
            for norm in norms:
                if frozen.any_of(norm, tensors):
                    held[norm] = rule.verb == "hold"
    return [norm for norm, hold in held.items() if hold]


def quiet_modules(plan: FreezePlan, spec: ModelSpec, trainable: Mask) -> tuple[int, ...]:
    """Return every module inside a fully frozen one, where the plan turns dropout off there.

    Norms with running statistics are not among them: `norm_stats` says what they do.
    """
    if plan.dropout == "live":
        return ()
    frozen = Frozen(spec, trainable)
    quiet: list[int] = []
    index = 0
    while index < len(spec.tree.paths):
        if frozen.own(index):
            quiet += range(index, spec.tree.ends[index])
            index = spec.tree.ends[index]
        else:
            index += 1
    return tuple(sorted(set(quiet).difference(spec.statistics_owners())))


class Frozen:
    """Answers whether a module is frozen whole, from running sums over names."""

    def __init__(self, spec: ModelSpec, trainable: Mask) -> None:
        self.spec = spec
        frozen = ~trainable[spec.tensor_of]
        self._sums: NDArray[np.int64] = np.concatenate(([0], np.cumsum(frozen)))

    def own(self, module: int) -> bool:
        """Tell whether a module has parameters under it and all of them are frozen."""
        low, high = self.spec.tree.name_starts[module], self.spec.tree.name_ends[module]
        return high > low and int(self._sums[high] - self._sums[low]) == high - low

    def whole(self, module: int) -> bool:
        """Tell whether a layer is frozen; one without parameters goes with its surroundings."""
        return self.own(self._surroundings(module))

    def any_of(self, module: int, tensors: Mask) -> bool:
        """Tell whether any parameter of a layer (or of its surroundings) is in a set."""
        module = self._surroundings(module)
        tree = self.spec.tree
        low, high = tree.name_starts[module], tree.name_ends[module]
        return bool(tensors[self.spec.tensor_of[low:high]].any())

    def _surroundings(self, module: int) -> int:
        """Return the layer itself, or for one without parameters its block, or what holds it."""
        tree, at = self.spec.tree, self.spec.placement
        if tree.name_ends[module] > tree.name_starts[module]:
            return module
        if module in at.unit_of and at.units[at.unit_of[module]].zone is Zone.BLOCK:
            unit = at.units[at.unit_of[module]]
            return at.runs[unit.run].blocks[unit.block]
        while module > 0 and tree.name_ends[module] == tree.name_starts[module]:
            module = tree.parents[module]
        return module
