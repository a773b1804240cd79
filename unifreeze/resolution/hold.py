"""Which layers hold still: running statistics, other training-time state, stochastic layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from unifreeze.plan import FreezePlan, pick
from unifreeze.select import Selector, StandIns, stand_ins_of
from unifreeze.structure import LAYERS, STATISTICS, Mask, ModelSpec, Zone


class Select(Protocol):
    """Evaluates a selector on atoms; errors name the place in the plan."""

    def __call__(
        self, selector: Selector, spec: ModelSpec, where: str, *, optional: bool = False
    ) -> Mask:
        """Return what it selects."""


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
    held = wanted_still(plan, spec, trainable, select)
    return tuple(sorted(held.difference(spec.tree.modeless)))


def wanted_still(plan: FreezePlan, spec: ModelSpec, trainable: Mask, select: Select) -> set[int]:
    """Return the modules that should hold still, those without an inference mode among them."""
    frozen, norms = Frozen(spec, trainable), spec.statistics_owners()
    others = {state.owner for state in spec.states if state.moves} - set(norms)
    held = {owner for owner in others if frozen.with_state(owner)}
    moving = {s.owner for s in spec.states if s.role in STATISTICS and s.moves}
    norms = [norm for norm in norms if norm in moving]
    if plan.norm_stats == "update":
        return held
    if plan.norm_stats == "hold_all":
        return held | set(norms)
    stand_ins = stand_ins_of(spec)
    asked = _by_rules(plan, spec, stand_ins)
    still = {norm: asked.get(norm, frozen.norm(norm)) for norm in norms}
    if not isinstance(plan.norm_stats, str):
        for number, rule in enumerate(plan.norm_stats):
            where = f"norm_stats[{number}].{rule.verb}"
            selector = pick(rule.choice, spec.framework, where)
            taken = _norms_in(selector, spec, stand_ins, select, where)
            still |= {norm: rule.verb == "hold" for norm in taken if norm in still}
    return held | {norm for norm in norms if still[norm]}


def _by_rules(plan: FreezePlan, spec: ModelSpec, stand_ins: StandIns) -> dict[int, bool]:
    """Return for norms without parameters what the last rule that names them says, if one does.

    A rule that takes them in by their place alone leaves it to what surrounds them, and so does
    the freezing of everything else by `only`.
    """
    asked: dict[int, bool] = {}
    if not stand_ins.owners:
        return asked
    for rule in plan.rules:
        reach = stand_ins.reach(rule.selector(spec.framework).expression)
        if rule.verb == "only":
            asked = {}
        told = zip(stand_ins.owners, reach.selected, reach.named, strict=True)
        for owner, selected, named in told:
            if named:
                asked[owner] = rule.verb == "freeze"
            elif selected:
                asked.pop(owner, None)
    return asked


def _norms_in(
    selector: Selector, spec: ModelSpec, stand_ins: StandIns, select: Select, where: str
) -> Iterable[int]:
    """Return the norms that a selector takes in: any of their own parameters, or themselves."""
    reach = stand_ins.reach(selector.expression)
    bare = [owner for owner, found in zip(stand_ins.owners, reach.selected, strict=True) if found]
    mask = select(selector, spec, where, optional=bool(bare))
    return [*np.unique(spec.owner_of[spec.atoms.name[mask]]).tolist(), *bare]


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
        if frozen.whole(index):
            quiet += range(index, spec.tree.ends[index])
            index = spec.tree.ends[index]
        else:
            index += 1
    return tuple(sorted(set(quiet).difference(spec.statistics_owners())))


class Frozen:
    """Answers whether layers, blocks and surroundings are frozen, from running sums over names."""

    def __init__(self, spec: ModelSpec, trainable: Mask) -> None:
        self.spec = spec
        self._frozen = ~trainable[spec.tensor_of]
        self._sums: NDArray[np.int64] = np.concatenate(([0], np.cumsum(self._frozen)))
        count = len(spec.tree.paths)
        self._own = np.bincount(spec.owner_of, minlength=count)
        self._own_frozen = np.bincount(spec.owner_of[self._frozen], minlength=count)

    def whole(self, module: int) -> bool:
        """Tell whether a module has parameters under it and all of them are frozen."""
        low, high = self.spec.tree.name_starts[module], self.spec.tree.name_ends[module]
        return high > low and int(self._sums[high] - self._sums[low]) == high - low

    def registered(self, module: int) -> bool:
        """Tell whether a module has parameters of its own, children apart, all of them frozen."""
        return bool(0 < self._own[module] == self._own_frozen[module])

    def norm(self, norm: int) -> bool:
        """Tell whether a norm is frozen: its own parameters, or, without any, what is around it."""
        if self._own[norm]:
            return self.registered(norm)
        zone = self._zone(norm)
        if zone is Zone.BLOCK:
            return self.whole(self._block_around(norm))
        if zone not in (Zone.NET, Zone.UNPLACED) and len(names := self._names_in_unit(norm)):
            return bool(self._frozen[names].all())
        return self._neighbours(norm)

    def with_state(self, module: int) -> bool:
        """Tell whether a layer that keeps other state is frozen, or, without parameters, its place.

        That is the layer that it is a part of, else its block, else what stands beside it.
        """
        tree = self.spec.tree
        if tree.name_ends[module] > tree.name_starts[module]:
            return self.whole(module)
        around = tree.parents[module]
        while around > 0 and tree.name_ends[around] == tree.name_starts[around]:
            around = tree.parents[around]
        if around >= 0 and (self._own[around] or self.spec.placement.kinds[around] in LAYERS):
            return self.whole(around)
        block = self._block_around(module)
        return self.whole(block) if block >= 0 else self._neighbours(module)

    def _zone(self, owner: int) -> Zone:
        at = self.spec.placement
        return at.units[at.unit_of[owner]].zone if owner in at.unit_of else Zone.UNPLACED

    def _block_around(self, module: int) -> int:
        """Return the block that a module is in, -1 for none."""
        tree = self.spec.tree
        blocks = [block for run in self.spec.runs for block in run.blocks]
        return next((b for b in blocks if b <= module < tree.ends[b]), -1)

    def _names_in_unit(self, owner: int) -> NDArray[np.intp]:
        """Return the names of all parameters in an owner's stretch of the network."""
        at = self.spec.placement
        unit = at.unit_of[owner]
        same = [at.unit_of[other] == unit for other in self.spec.tree.owners]
        return np.flatnonzero(np.asarray(same, np.bool_))

    def _neighbours(self, module: int) -> bool:
        """Tell whether the layers right before and after a module are frozen.

        Of a norm that is not in the head, those in the head do not count, if there are others.
        """
        ranks, place = self.spec.placement.ranks, self._rank(module)
        owners = [n for n in np.flatnonzero(self._own).tolist() if n in ranks]
        if self._zone(module) is not Zone.HEAD:
            owners = [n for n in owners if self._zone(n) is not Zone.HEAD] or owners
        before = max((n for n in owners if ranks[n] < place), key=ranks.__getitem__, default=None)
        after = min((n for n in owners if ranks[n] > place), key=ranks.__getitem__, default=None)
        beside = [self.registered(n) for n in (before, after) if n is not None]
        return bool(beside) and all(beside)

    def _rank(self, module: int) -> tuple[int, int]:
        ranks = self.spec.placement.ranks
        return ranks.get(module, (next(iter(ranks.values()), (-1, 0))[0], module))
