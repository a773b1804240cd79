"""Which layers hold still: running statistics, other training-time state, stochastic layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from unifreeze._plan import FreezePlan, pick
from unifreeze._plan.selectors import Selector, StandIns, stand_ins_of
from unifreeze._resolution.held_by import Grounds, Names
from unifreeze._resolution.select_parameters import select
from unifreeze._structure import Mask, ModelSpec, Tree, running_owners


class Stillness(NamedTuple):
    """Which modules should hold still.

    Attributes:
        modules: All of them, modules without an inference mode included.
        unasked: Modules that hold because their parameters were found frozen, not by any rule.
    """

    modules: set[int]
    unasked: set[int]


def wanted_still(plan: FreezePlan, spec: ModelSpec, trainable: Mask, decided: Mask) -> Stillness:
    """Decide which modules' training-time state holds still.

    Args:
        plan: Its `norm_stats` policy decides about running statistics.
        spec: The model.
        trainable: The decision for each parameter.
        decided: For each parameter, whether a rule decided it.
    """
    grounds = Grounds(spec, trainable, decided)
    moving = [state for state in spec.states if state.moves]
    norms = running_owners(moving)
    rest = {state.owner for state in moving}.difference(running_owners(spec.states))
    layers = {owner: grounds.of_state(owner) for owner in sorted(rest)}
    held = {owner for owner, names in layers.items() if grounds.all_frozen(names)}
    unasked = {owner for owner in held if grounds.untouched(layers[owner])}
    if plan.norm_stats == "update":
        return Stillness(held, unasked)
    if plan.norm_stats == "hold_all":
        return Stillness(held | set(norms), unasked)
    around = _around(spec, grounds, norms)
    stand_ins = stand_ins_of(spec)
    asked = _by_rules(plan, spec, stand_ins) | _by_policy(plan, spec, stand_ins)
    still = {norm: asked.get(norm, grounds.all_frozen(around[norm])) for norm in norms}
    held |= {norm for norm in norms if still[norm]}
    silent = (held & around.keys()) - asked.keys()
    unasked |= {norm for norm in silent if grounds.untouched(around[norm])}
    return Stillness(held, unasked)


def _around(spec: ModelSpec, grounds: Grounds, norms: Iterable[int]) -> dict[int, Names]:
    """Return for each norm the parameters that decide for it where no rule does."""
    known = set(spec.statistics_owners())
    return {n: grounds.of_norm(n) if n in known else grounds.of_state(n) for n in norms}


def _by_policy(plan: FreezePlan, spec: ModelSpec, stand_ins: StandIns) -> dict[int, bool]:
    """Return, for norms that rules of `norm_stats` select, whether the last rule holds them."""
    asked: dict[int, bool] = {}
    if isinstance(plan.norm_stats, str):
        return asked
    for number, rule in enumerate(plan.norm_stats):
        where = f"norm_stats[{number}].{rule.verb}"
        selector = pick(rule.choice, spec.framework, where)
        taken = _norms_in(selector, spec, stand_ins, where)
        asked |= dict.fromkeys(taken, rule.verb == "hold")
    return asked


def _by_rules(plan: FreezePlan, spec: ModelSpec, stand_ins: StandIns) -> dict[int, bool]:
    """Return, for norms without parameters, whether the last rule that names them freezes them.

    A rule that selects them only by their place does not decide for them: their surroundings do.
    The same holds for everything else that `only` freezes.
    """
    asked: dict[int, bool] = {}
    if not stand_ins.owners:
        return asked
    for rule in plan.rules:
        reach = stand_ins.reach(rule.selector(spec.framework).expression)
        if rule.verb == "only":
            asked = {}
        rows = zip(stand_ins.owners, reach.selected, reach.named, strict=True)
        for owner, selected, named in rows:
            if named:
                asked[owner] = rule.verb == "freeze"
            elif selected:
                asked.pop(owner, None)
    return asked


def _norms_in(
    selector: Selector, spec: ModelSpec, stand_ins: StandIns, where: str
) -> Iterable[int]:
    """Return the norms that a selector selects, or of which it selects any parameter."""
    reach = stand_ins.reach(selector.expression)
    bare = [owner for owner, taken in zip(stand_ins.owners, reach.selected, strict=True) if taken]
    mask = select(selector, spec, where, optional=bool(bare))
    return [*np.unique(spec.owner_of[spec.atoms.name[mask]]).tolist(), *bare]


def quiet_modules(
    plan: FreezePlan, spec: ModelSpec, trainable: Mask, decided: Mask
) -> tuple[int, ...]:
    """Return every module inside a fully frozen one, where the plan turns dropout off there.

    Modules in which no rule decides anything stay as they are. So do norms with running statistics,
    because `norm_stats` says what they do.
    """
    if plan.dropout == "live":
        return ()
    grounds, tree = Grounds(spec, trainable, decided), spec.tree
    quiet: set[int] = set()
    index = 0
    while index < len(tree.paths):
        names = grounds.under(index)
        frozen = grounds.all_frozen(names)
        if frozen and grounds.all_decided(names):
            quiet.update(range(index, tree.ends[index]))
        elif (frozen and grounds.any_decided(names)) or _bare_in(quiet, tree, index):
            quiet.add(index)
        # What is decided as a whole, or not at all, needs no look inside.
        aside = frozen and (grounds.all_decided(names) or not grounds.any_decided(names))
        index = tree.ends[index] if aside else index + 1
    return tuple(sorted(quiet.difference(running_owners(spec.states))))


def _bare_in(quiet: set[int], tree: Tree, module: int) -> bool:
    """Return whether a module has no parameters under it and its parent is quiet."""
    bare = tree.name_starts[module] == tree.name_ends[module]
    return bare and tree.parents[module] in quiet
