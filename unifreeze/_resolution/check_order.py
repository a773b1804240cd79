"""Whether a plan decides the same by the order in which layers run as by that of registration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set

import numpy as np

from unifreeze._plan import FreezePlan
from unifreeze._plan.selectors import Expression, Word, stand_ins_of
from unifreeze._plan.selectors.expression import Quoted, Within, parts
from unifreeze._plan.selectors.vocabulary import TOWERS
from unifreeze._plan.selectors.words_for_towers import is_tower
from unifreeze._resolution.held_by import Grounds
from unifreeze._resolution.plan_selectors import all_expressions
from unifreeze._resolution.resolution import Resolution
from unifreeze._structure import Mask, ModelSpec
from unifreeze.errors import OrderError, ResolveError, counted, listing

_BY_PLACE = frozenset({"stem", "neck", "head", "backbone", "embeddings", "classifier", "params"})
_BY_PLACE |= {"blocks", "layers", "stages", "encoder", "decoder", "query", "key", "value"}
_BY_PLACE |= {*TOWERS}

ORDER_CURES = (
    "give a batch: plan.apply(model, batch=…); or take it as registered: order: as_described"
)

Places = Mapping[int, bool]
"""Modules in which a plan counts, as if each were the whole; True if it counts only blocks."""


def rests_on_order(plans: Sequence[FreezePlan], spec: ModelSpec) -> Places:
    """Return where plans count layers in an order that no batch has shown; {} for nowhere.

    Args:
        plans: A plan, or those that hold in its phases.
        spec: The model's description.
    """
    if spec.order == "execution" or any(plan.order == "as_described" for plan in plans):
        return {}
    places = _places(plans, spec)
    return {**places, 0: False} if stand_ins_of(spec).owners or _stands_alone(spec) else places


def never_ran(places: Places, spec: ModelSpec, ran: Set[int], *, below: int = 0) -> Iterator[str]:
    """Yield native paths of parameters that a plan counts, and that no pass has used.

    Args:
        places: Where the plan counts.
        spec: The model's description.
        ran: The modules whose own tensors some pass has used.
        below: The module to look at, by its number.
    """
    tree = spec.tree
    used = zip(tree.tensor_of, tree.owners, strict=True) if ran else ()
    seen = {tensor for tensor, owner in used if owner in ran}
    blocks = [part for run in spec.runs for block in run.parts() for part in block]
    inside = [(part, tree.ends[part]) for part in blocks]
    for place, of_blocks in places.items():
        first = max(tree.name_starts[place], tree.name_starts[below])
        for name in range(first, min(tree.name_ends[place], tree.name_ends[below])):
            owner, tensor = tree.owners[name], tree.tensor_of[name]
            if tensor in seen:
                continue
            if not of_blocks or any(low <= owner < high for low, high in inside):
                seen.add(tensor)
                yield tree.names[name]


def unseen_notices(plan: FreezePlan, spec: ModelSpec) -> Iterator[str]:
    """Say which parameters a batch never ran, though the plan counts them."""
    places = _places([plan], spec)
    if spec.order != "execution" or plan.order == "as_described" or not places:
        return
    if idle := list(never_ran(places, spec, used_owners(spec))):
        yield (
            f"the batch never ran {counted(len(idle), 'parameter')} that the plan's words count, "
            f"and so their place is not known: {listing(idle)}; if training runs them, give a "
            "batch that does, too"
        )


def used_owners(executed: ModelSpec) -> frozenset[int]:
    """Return the owners of tensors that a pass has run."""
    return frozenset(executed.tree.owners) - executed.placement.unreached


def _places(plans: Sequence[FreezePlan], spec: ModelSpec) -> dict[int, bool]:
    places: dict[int, bool] = {}
    for plan in plans:
        for expression in _expressions(plan, spec.framework):
            for place, of_blocks in _counted(expression, spec, 0):
                places[place] = of_blocks and places.get(place, True)
    return places


def _counted(expression: Expression, spec: ModelSpec, at: int) -> Iterator[tuple[int, bool]]:
    """Yield the modules in which an expression counts; `at` is the module it is read in."""
    if isinstance(expression, Within):
        if is_tower(expression.place, quoted=expression.quoted, spec=spec):
            # What a tower is rests on what enters it, and that on the order of all layers.
            yield at, False
            return
        place = spec.module(expression.place)
        if place is not None:  # under an optional rule it may be missing
            yield from _counted(expression.inner, spec.within(place)[0], at + place)
        return
    if isinstance(expression, Quoted) and expression.by == "at":
        yield at, False
    elif isinstance(expression, Word) and expression.name in _BY_PLACE:
        yield at, expression.name == "blocks"
    for part in parts(expression):
        yield from _counted(part, spec, at)


def _stands_alone(spec: ModelSpec) -> bool:
    """Return whether some layer with state holds still or not by the layers beside it."""
    grounds = Grounds(spec, spec.found, np.zeros(len(spec), np.bool_))
    return any(map(grounds.by_neighbours, {state.owner for state in spec.states if state.moves}))


def _expressions(plan: FreezePlan, framework: str) -> Iterator[Expression]:
    """Yield the expressions of a plan, and the word by which rates that fall with depth count."""
    yield from all_expressions(plan, framework)
    if any(group.layer_decay is not None for group in plan.groups):
        yield Word("layers")


def check_order(
    pairs: Sequence[tuple[str, Resolution, Resolution | ResolveError]], executed: ModelSpec
) -> None:
    """Refuse decisions by registration that execution would make otherwise.

    What the pass never ran is not compared, because its place is not known.

    Args:
        pairs: For each phase its name, what was decided, and what the order of execution decides.
        executed: The description by order of execution.

    Raises:
        OrderError: Naming both sets of the first phase in which they differ.
    """
    reached = _reached(executed)
    for phase, now, then in pairs:
        where = f"phase {phase!r}: " if phase else ""
        if isinstance(then, ResolveError):
            raise _error(where, [f"as they run, the plan does not fit: {then.fact}"])
        if lines := _difference(now, then, reached):
            raise _error(where, [*_both(now, then), *lines])


def _error(where: str, lines: Sequence[str]) -> OrderError:
    return OrderError(
        f"{where}layers run in another order than they are registered in, and the plan counted "
        "them as registered",
        context="\n".join(lines),
        hint=ORDER_CURES,
    )


def _both(now: Resolution, then: Resolution) -> list[str]:
    """Say what trains in either order."""
    rows = (("registered", now.trainable_paths), ("executed", then.trainable_paths))
    return [f"as {how}, {len(paths)} train: {listing(paths)}" for how, paths in rows]


def _reached(spec: ModelSpec) -> Mask:
    """Return for each parameter whether the pass ran any layer that it belongs to."""
    used = used_owners(spec)
    ran = np.asarray([owner in used for owner in spec.tree.owners], np.bool_)
    reached = np.zeros(len(spec), np.bool_)
    reached[spec.tensor_of[ran]] = True
    return reached


def _difference(now: Resolution, then: Resolution, reached: Mask) -> list[str]:
    """Return a line for each sort of difference between two ways of counting."""

    def paths(mask: Mask) -> list[str]:
        return now.spec.paths_of(np.flatnonzero(mask & reached))

    held = set(now.held) ^ set(then.held)
    norms = sorted(held.difference(then.spec.placement.unreached))
    rates = now.lr_scale != then.lr_scale
    rates |= ~np.isclose(now.weight_decay, then.weight_decay, equal_nan=True)
    differences = {
        "as registered alone": paths(now.trainable & ~then.trainable),
        "as executed alone": paths(then.trainable & ~now.trainable),
        "statistics that hold in one of the two alone": [now.spec.tree.paths[n] for n in norms],
        "another learning rate or weight decay": paths(rates & now.trainable & then.trainable),
    }
    return [f"{what}: {listing(names)}" for what, names in differences.items() if names]
