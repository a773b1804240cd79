"""A plan from measurements: train the block that does harm, or units with large gradients."""

from __future__ import annotations

from collections.abc import Sequence

from unifreeze._authoring.capture.plan_comments import join_with_and
from unifreeze._authoring.suggest.model_units import ModelUnit, has_head, middle, reached, run_of
from unifreeze._authoring.suggest.plan_draft import Draft, Stage
from unifreeze._authoring.suggest.rules_of_thumb import head_first
from unifreeze._authoring.suggest.task_facts import HEAD_EPOCHS, RATES, Task
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
    task: Task, spec: ModelSpec, units: list[ModelUnit], measures: Sequence[Measure], loss: float
) -> Draft:
    """Draft a plan from measurements.

    Raises:
        TargetError: No gradient reaches anything.
    """
    order, within = ranked(measures), _within_reach(task, units)
    if order[0].harmful:
        chosen, why, remarks = order[:1], _harm(order[0], loss), _other_harm(order)
        remarks += [] if order[0].unit in within else [TOO_DEEP]
    else:
        reachable = [unit for unit in order if unit.ratio and unit.unit in within]
        if not reachable:
            raise TargetError(
                "no gradient reaches the units that are within the compute given",
                context=f"these are: {', '.join(sorted(within))}",
                hint="give more compute, or a loss that depends on them",
            )
        largest = reachable[0].ratio or 0.0
        chosen = [unit for unit in reachable if (unit.ratio or 0.0) >= CLOSE * largest]
        why, remarks = _largest(chosen), _beyond(order, within, largest)
    names = {unit.unit for unit in chosen}
    train = run_of(spec, [unit for unit in units if unit.label in names])
    stage = Stage("measured", train, why, HEAD_EPOCHS, RATES["top"])
    if task.new_head and has_head(units):
        later = [] if names == {"head"} else [stage]
        return Draft((head_first(), *later), (*remarks, HEAD_NOISE, NO_IMPORTANCE))
    if len(names) == len(units):
        stage = Stage("measured", ("all",), why, HEAD_EPOCHS, RATES["all"])
    return Draft((stage,), (*remarks, NO_IMPORTANCE))


def _within_reach(task: Task, units: list[ModelUnit]) -> set[str]:
    """Return the units that gradients may reach for the given compute."""
    deep = middle(units)
    count = reached(task.reach, len(deep))
    beyond = {unit.label for unit in deep[: len(deep) - count]}
    if task.reach < 1:
        beyond |= {unit.label for unit in units if unit.zone is Zone.STEM}
    return {unit.label for unit in units} - beyond


def _harm(worst: Measure, loss: float) -> str:
    assert worst.change is not None
    return (
        f"With {worst.unit} the loss is {loss:.4g}, without it {loss + worst.change:.4g}: it is "
        "damaged, untrained, foreign to this data, or spoilt by a damaged block below it that the "
        "rest cannot do without."
    )


def _other_harm(order: Sequence[Measure]) -> list[str]:
    others = [measure.unit for measure in order[1:] if measure.harmful]
    if not others:
        return []
    return [
        f"The loss is also lower without {join_with_and(others)}. Where one block is damaged, "
        "those above it seem to do harm, too: measure again once this one is tuned."
    ]


def _largest(chosen: Sequence[Measure]) -> str:
    shown = join_with_and([f"{unit.unit} {unit.ratio:.3g}" for unit in chosen])
    return (
        f"The largest gradients relative to the weights, down to {CLOSE:.0%} of the first: {shown} "
        "(Auto-RGN, Lee et al. 2022)."
    )


def _beyond(order: Sequence[Measure], within: set[str], largest: float) -> list[str]:
    beyond = [measure for measure in order if measure.unit not in within]
    deeper = [measure.unit for measure in beyond if (measure.ratio or 0.0) >= largest]
    if not deeper:
        return []
    names = join_with_and(deeper)
    return [f"Deeper than the compute given lets gradients pass, and so left out: {names}."]
