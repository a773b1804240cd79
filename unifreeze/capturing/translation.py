"""A plan written for one port of a network, said so that it means the same on the other."""

from __future__ import annotations

from unifreeze.arguments import checked
from unifreeze.capturing.captured import Capture, made
from unifreeze.capturing.shortest import Aim, by_name, fresh, shortest_plan
from unifreeze.errors import PlanError, listing
from unifreeze.plan import FreezePlan, refuse_phases
from unifreeze.resolution import resolve_spec
from unifreeze.structure import ModelSpec


@checked
def translate(
    plan: FreezePlan, source: ModelSpec, target: ModelSpec, *, native: bool = False
) -> Capture:
    """Say in neutral words, or in the target's own names, what a plan decides on the source.

    Which parameter is which goes by canonical names. A plan in neutral words is checked on both.

    Args:
        plan: The plan; of what is not its rules, `dropout` and a `norm_stats` of one word are
            taken over, and a note names what else there is.
        source: The model it was written for.
        target: The other port of that network.
        native: Use the target's own native paths; the plan is then for the target alone.

    Raises:
        ResolveError: The plan does not fit the source, or nothing says the same on the target.
        PlanError: The two models have no parameter in common, or all rules are in phases.
    """
    if not plan.rules:
        refuse_phases(plan)
    resolution = resolve_spec(plan, fresh(source))
    names = [row.name for row in source.parameters]
    decided = dict(zip(names, resolution.trainable.tolist(), strict=True))
    aim = by_name(target, decided)
    if not aim.known.any():
        raise PlanError(
            "the two models have no parameter in common",
            context=f"{listing(names, limit=3)} against "
            f"{listing([row.name for row in target.parameters], limit=3)}",
            hint="give two ports of one network",
        )
    if native:
        rules = shortest_plan(target, aim.trainable, native_names=True)
    else:
        rules = shortest_plan(
            source, resolution.trainable, others=[Aim(target, aim.trainable, aim.known)]
        )
    notes = [_left(target, aim), _policies(plan)]
    stats = plan.norm_stats if isinstance(plan.norm_stats, str) else "hold"
    said = FreezePlan(rules.rules, stats, plan.dropout)
    title = f"Translated from {source.framework} for {target.framework}"
    return made(said, target, title, notes)


def _left(target: ModelSpec, aim: Aim) -> str:
    rows = zip(target.parameters, aim.known, strict=True)
    unknown = [row.path for row, known in rows if not known and not row.fixed]
    if not unknown:
        return ""
    return (
        f"{len(unknown)} parameters have no partner in the source, "
        f"and become what the rules make of them: {listing(unknown, limit=3)}."
    )


def _policies(plan: FreezePlan) -> str:
    named = [
        name
        for name, there in (
            ("groups", plan.groups),
            ("phases", plan.phases),
            ("norm_stats by selector", not isinstance(plan.norm_stats, str)),
        )
        if there
    ]
    return f"not carried over, write anew: {', '.join(named)}." if named else ""
