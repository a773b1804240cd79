"""Whether a plan that counted layers as they are registered decides the same as they run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from unifreeze.errors import OrderError, ResolveError, listing
from unifreeze.plan import FreezePlan, pick
from unifreeze.resolution.grounds import Grounds
from unifreeze.resolution.value import Resolution
from unifreeze.select import Expression, Word, stand_ins_of
from unifreeze.select.expression import Quoted, nodes
from unifreeze.structure import Mask, ModelSpec

_BY_PLACE = frozenset({"stem", "neck", "head", "backbone", "embeddings", "classifier", "params"})
_BY_PLACE |= {"blocks", "layers", "stages", "encoder", "decoder", "query", "key", "value"}

_CURES = "give a batch: plan.apply(model, batch=…); or take it as registered: order: as_described"


def rests_on_order(plans: Sequence[FreezePlan], spec: ModelSpec) -> bool:
    """Tell whether what some plans decide depends on the order of layers, which no batch has shown.

    Args:
        plans: A plan, or those that hold in its phases.
        spec: The model's description.
    """
    if spec.order == "execution" or any(plan.order == "as_described" for plan in plans):
        return False
    if stand_ins_of(spec).owners or _stands_alone(spec):
        return True
    return any(map(_counts, (e for plan in plans for e in _expressions(plan, spec.framework))))


def _stands_alone(spec: ModelSpec) -> bool:
    """Tell whether what stands beside some layer with state decides if it holds still."""
    grounds = Grounds(spec, spec.found, np.zeros(len(spec), np.bool_))
    return any(map(grounds.by_neighbours, {state.owner for state in spec.states if state.moves}))


def _expressions(plan: FreezePlan, framework: str) -> Iterator[Expression]:
    for rule in plan.rules:
        yield from nodes(rule.selector(framework).expression)
    for group in plan.groups:
        if group.layer_decay is not None:
            yield Word("blocks")
        yield from nodes(pick(group.match, framework, "match").expression)
    if not isinstance(plan.norm_stats, str):
        for norms in plan.norm_stats:
            yield from nodes(pick(norms.choice, framework, "norm_stats").expression)


def _counts(expression: Expression) -> bool:
    if isinstance(expression, Quoted):
        return expression.by == "at"
    return isinstance(expression, Word) and expression.name in _BY_PLACE


class Difference(NamedTuple):
    """What is decided otherwise in order of execution.

    Attributes:
        trains: Native paths of what trains as registered, and not as executed.
        freezes: What trains as executed, and not as registered.
        norms: Layers whose statistics hold in one of the two orders alone.
        rates: What has another learning rate or weight decay.
    """

    trains: list[str]
    freezes: list[str]
    norms: list[str]
    rates: list[str]

    def lines(self) -> Iterator[str]:
        """Say it, a line for each."""
        if self.trains:
            yield f"as registered alone: {listing(self.trains)}"
        if self.freezes:
            yield f"as executed alone: {listing(self.freezes)}"
        if self.norms:
            yield f"statistics that hold in one of the two alone: {listing(self.norms)}"
        if self.rates:
            yield f"another learning rate or weight decay: {listing(self.rates)}"


def check_order(
    pairs: Sequence[tuple[str, Resolution, Resolution | ResolveError]], executed: ModelSpec
) -> None:
    """Refuse decisions by registration that execution would make otherwise.

    What the pass never ran is not looked at: its place is not known.

    Args:
        pairs: For each phase its name, what was decided, and what is by order of execution.
        executed: The description by order of execution.

    Raises:
        OrderError: Naming both sets of the first phase in which they differ.
    """
    reached = _reached(executed)
    for phase, now, then in pairs:
        where = f"phase {phase!r}: " if phase else ""
        if isinstance(then, ResolveError):
            raise _error(where, [f"as they run, the plan does not fit: {then.fact}"])
        if lines := list(_difference(now, then, reached).lines()):
            raise _error(where, [*_both(now, then), *lines])


def _error(where: str, lines: Sequence[str]) -> OrderError:
    return OrderError(
        f"{where}layers run in another order than they are registered in, and the plan counted "
        "them as registered",
        context="\n".join(lines),
        hint=_CURES,
    )


def _both(now: Resolution, then: Resolution) -> list[str]:
    """Say what trains in either order."""
    rows = (("registered", now.trainable_paths), ("executed", then.trainable_paths))
    return [f"as {how}, {len(paths)} train: {listing(paths)}" for how, paths in rows]


def _reached(spec: ModelSpec) -> Mask:
    """Return for each parameter whether the pass ran any layer that it belongs to."""
    unreached = spec.placement.unreached
    ran = np.asarray([owner not in unreached for owner in spec.tree.owners], np.bool_)
    reached = np.zeros(len(spec), np.bool_)
    reached[spec.tensor_of[ran]] = True
    return reached


def _difference(now: Resolution, then: Resolution, reached: Mask) -> Difference:
    def paths(mask: Mask) -> list[str]:
        names = now.spec.tree.names
        return [names[name] for name in now.spec.first_names[mask & reached]]

    held = set(now.held) ^ set(then.held)
    norms = sorted(held.difference(then.spec.placement.unreached))
    rates = now.lr_scale != then.lr_scale
    rates |= ~np.isclose(now.weight_decay, then.weight_decay, equal_nan=True)
    return Difference(
        paths(now.trainable & ~then.trainable),
        paths(then.trainable & ~now.trainable),
        [now.spec.tree.paths[norm] for norm in norms],
        paths(rates & now.trainable & then.trainable),
    )
