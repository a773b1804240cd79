"""A plan from what was measured: the block that does harm, or where gradients are largest."""

from __future__ import annotations

from collections.abc import Sequence

from unifreeze._authoring.suggest.model_units import Stretch, has_head, middle, reached, run_of
from unifreeze._authoring.suggest.plan_draft import Draft, Stage, listed
from unifreeze._authoring.suggest.rules_of_thumb import head_first
from unifreeze._authoring.suggest.task_facts import HEAD_EPOCHS, RATES, Inputs
from unifreeze._authoring.suggest.unit_measures import CLOSE, Measure, ranked
from unifreeze._structure import ModelSpec, Zone
from unifreeze.errors import TargetError

HEAD_NOISE = (
    "The new head is random still, and so are the gradients that come through it: train it alone, "
    "then measure again."
)
TOO_DEEP = "It lies deeper than the compute given lets gradients pass, and is trained all the same."
NO_IMPORTANCE = (
    "Freezing changes no output, so that evaluating with parts frozen says nothing about them; "
    "passing a block by does."
)


def by_measures(
    inputs: Inputs, spec: ModelSpec, units: list[Stretch], measures: Sequence[Measure], loss: float
) -> Draft:
    """Draft a plan by what was measured.

    Raises:
        TargetError: No gradient reaches anything.
    """
    order, within = ranked(measures), _within_reach(inputs, units)
    if order[0].harmful:
        chosen, why, remarks = order[:1], _harm(order[0], loss), _other_harm(order)
        remarks += [] if order[0].unit in within else [TOO_DEEP]
    else:
        open_to = [one for one in order if one.ratio and one.unit in within]
        if not open_to:
            raise TargetError(
                "no gradient reaches the units that are within the compute given",
                context=f"these are: {', '.join(sorted(within))}",
                hint="give more compute, or a loss that depends on them",
            )
        largest = open_to[0].ratio or 0.0
        chosen = [one for one in open_to if (one.ratio or 0.0) >= CLOSE * largest]
        why, remarks = _largest(chosen), _beyond(order, within, largest)
    names = {one.unit for one in chosen}
    train = run_of(spec, [unit for unit in units if unit.label in names])
    step = Stage("measured", train, why, HEAD_EPOCHS, RATES["top"])
    if inputs.new_head and has_head(units):
        kept = [] if names == {"head"} else [step]
        return Draft((head_first(), *kept), (*remarks, HEAD_NOISE, NO_IMPORTANCE))
    if len(names) == len(units):
        step = Stage("measured", ("all",), why, HEAD_EPOCHS, RATES["all"])
    return Draft((step,), (*remarks, NO_IMPORTANCE))


def _within_reach(inputs: Inputs, units: list[Stretch]) -> set[str]:
    """Return the units that gradients may reach for the compute given."""
    deep = middle(units)
    count = reached(inputs.reach, len(deep))
    out = {unit.label for unit in deep[: len(deep) - count]}
    if inputs.reach < 1:
        out |= {unit.label for unit in units if unit.zone is Zone.STEM}
    return {unit.label for unit in units} - out


def _harm(worst: Measure, loss: float) -> str:
    assert worst.change is not None
    return (
        f"With {worst.unit} the loss is {loss:.4g}, without it {loss + worst.change:.4g}: it is "
        "damaged, untrained, foreign to this data, or spoilt by a damaged block below it that the "
        "rest cannot do without."
    )


def _other_harm(order: Sequence[Measure]) -> list[str]:
    others = [one.unit for one in order[1:] if one.harmful]
    if not others:
        return []
    return [
        f"The loss is also lower without {listed(others)}. Where one block is damaged, those above "
        "it seem to do harm, too: measure again once this one is tuned."
    ]


def _largest(chosen: Sequence[Measure]) -> str:
    shown = listed([f"{one.unit} {one.ratio:.3g}" for one in chosen])
    return (
        f"The largest gradients relative to the weights, down to {CLOSE:.0%} of the first: {shown} "
        "(Auto-RGN, Lee et al. 2022)."
    )


def _beyond(order: Sequence[Measure], within: set[str], largest: float) -> list[str]:
    left = [one.unit for one in order if one.unit not in within and (one.ratio or 0.0) >= largest]
    if not left:
        return []
    return [f"Deeper than the compute given lets gradients pass, and so left out: {listed(left)}."]
