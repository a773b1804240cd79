"""`translate`: from a plan for one port of a network to one that means the same on the other."""

from __future__ import annotations

from typing import Any

from unifreeze._arguments import checked
from unifreeze._authoring.capture.capture_model import Capture, make_capture
from unifreeze._authoring.capture.paired_decisions import by_name, by_pairing, rule_for_both
from unifreeze._authoring.capture.plan_search import Aim, shortest_plan, unfrozen
from unifreeze._handle.target import Target
from unifreeze._plan import FreezePlan, refuse_phases
from unifreeze._plan.structure import covers
from unifreeze._ports.pairing import Pairing
from unifreeze._protocol import Batch, backend_for
from unifreeze._protocol.live import Model
from unifreeze._resolution import LIKE_ORDER, corrected, out_of_order, resolve_spec
from unifreeze._structure import Mask, ModelSpec
from unifreeze._structure.branches import branches_of, unlike_branches
from unifreeze._structure.counted_layers import groups_of
from unifreeze.errors import PlanError, counted, listing

PAIRED = "give the pairing of the two: pairing=… (--pairing)"
CURE = "give a batch for both (batch=…, --batch), or the pairing of the two: pairing=… (--pairing)"


@checked
def translate(
    plan: FreezePlan,
    source: Model,
    target: Model,
    *,
    batch: Any = None,
    native: bool = False,
    pairing: Pairing | None = None,
) -> Capture:
    """Rewrite a plan in neutral words, or in the target's native names, to mean the same there.

    Parameters are matched by canonical names, where both models have the same layers, or by a
    pairing. A plan in neutral words is checked on both models. If no neutral words say it, a plan
    from a pairing has a selector for each framework.

    Args:
        plan: The plan. Besides its rules, `dropout` and a `norm_stats` of one word are kept;
            a note names what is not.
        source: The live model it was written for.
        target: A live model: the other port of that network.
        batch: One batch of inputs for both, or one for each by its framework's name; positions then
            count in order of execution.
        native: Use the target's native paths; the plan is then for the target alone.
        pairing: The pairing of the two, which then decides which parameter is which.

    Raises:
        ResolveError: The plan does not fit the source, or no plan means the same on the target.
        PlanError: Names do not say which parameter is which; or only the order of equal branches
            does, and it may differ between the two; or all rules are in phases.

    >>> translate(FreezePlan().freeze('path:"blocks"'), torch_model, paddle_model).plan
    FreezePlan().only("head")
    """
    sides = [Target(model, backend_for(model)) for model in (source, target)]
    names = sides[0].backend.name, sides[1].backend.name
    batches = (None, None) if batch is None else Batch.for_sides(batch, names)
    specs = [side.describe(inputs) for side, inputs in zip(sides, batches, strict=True)]
    return translate_spec(plan, *specs, native=native, pairing=pairing)


def translate_spec(
    plan: FreezePlan,
    source: ModelSpec,
    target: ModelSpec,
    *,
    native: bool = False,
    pairing: Pairing | None = None,
) -> Capture:
    """Translate a plan between two described models; see `translate`, which raises the same."""
    if not plan.rules:
        refuse_phases(plan)
    carried = covers(plan.structure, target.framework)
    source, target = (corrected(plan, side) if carried else side for side in (source, target))
    resolution = resolve_spec(plan, unfrozen(source))
    trainable = resolution.trainable
    if resolution.rows:
        raise PlanError(
            f"rows of a table are not translated: {resolution.rows[0]}",
            context="both frameworks count rows alike, so only the name of the table may differ",
            hint="take that rule out, translate the rest, and add it with the table's name there: "
            f'train: rows("word_embeddings", {resolution.rows[0].start}:)',
        )
    if pairing is not None:
        aim = by_pairing(source, trainable, target, pairing)
    else:
        aim = by_name(source, trainable, target)
    if not aim.known.any():
        raise PlanError(
            "the two models have no parameter in common",
            context=f"{listing([row.name for row in source.parameters], limit=3)} against "
            f"{listing([row.name for row in target.parameters], limit=3)}",
            hint="give two ports of one network",
        )
    rules = _rules(source, trainable, aim, native=native, paired=pairing is not None)
    notes = [_unpaired_note(target, aim), _not_carried_note(plan, carried=carried)]
    stats = plan.norm_stats if isinstance(plan.norm_stats, str) else "hold"
    translated = FreezePlan(
        rules.rules, stats, plan.dropout, structure=plan.structure if carried else ()
    )
    if pairing is None:
        _check_order(translated, source, trainable, aim)
    title = f"Translated from {source.framework} for {target.framework}"
    return make_capture(translated, target, title, notes, order=target.order)


def _check_order(plan: FreezePlan, source: ModelSpec, trainable: Mask, aim: Aim) -> None:
    """Refuse positions where the two models may have their layers in different orders."""
    for spec in (source, aim.spec):
        if why := out_of_order(plan, spec):
            raise PlanError(
                f"positions would count in order of registration, and {why}",
                context=f"the plan would be: {'; '.join(map(str, plan.rules))}",
                hint=CURE,
            )
    executed = source.order == "execution"
    flags = trainable.tolist()
    there = branches_of(source, flags, _counted(source))
    wrong = list(unlike_branches(there, aim.spec, aim.trainable.tolist(), _counted(aim.spec)))
    if wrong:
        raise PlanError(LIKE_ORDER, context="\n".join(wrong[:4]), hint=PAIRED if executed else CURE)


def _counted(spec: ModelSpec) -> set[tuple[str, str]]:
    return {(unit, kind) for unit, kinds in groups_of(spec).items() for kind in kinds}


def _rules(
    source: ModelSpec, trainable: Mask, aim: Aim, *, native: bool, paired: bool
) -> FreezePlan:
    if native:
        return shortest_plan(aim.spec, aim.trainable, native_names=True)
    try:
        return shortest_plan(source, trainable, others=[aim], one_model=False, neutral_only=paired)
    except PlanError:
        if not paired or source.framework == aim.spec.framework:
            raise
        return rule_for_both(Aim.of(source, trainable), aim)


def _unpaired_note(target: ModelSpec, aim: Aim) -> str:
    rows = zip(target.parameters, aim.known, strict=True)
    unknown = [row.path for row, known in rows if not known and not row.fixed]
    if not unknown:
        return ""
    return (
        f"{counted(len(unknown), 'parameter has', 'parameters have')} no partner in the source; "
        f"the rules decide: {listing(unknown, limit=3)}."
    )


def _not_carried_note(plan: FreezePlan, *, carried: bool) -> str:
    named = [
        name
        for name, there in (
            ("groups", plan.groups),
            ("phases", plan.phases),
            ("norm_stats by selector", not isinstance(plan.norm_stats, str)),
            ("structure", not carried),
        )
        if there
    ]
    return f"not carried over, write anew: {', '.join(named)}." if named else ""
