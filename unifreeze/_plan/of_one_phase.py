"""The plan that holds in one phase of a run, as a plan without phases."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from unifreeze._plan.phases import settings_of
from unifreeze.errors import PlanError, nearest

if TYPE_CHECKING:
    from unifreeze._plan.model import FreezePlan


def phase_number(plan: FreezePlan, phase: int | str) -> int:
    """Return the number of a phase, given its number or its name.

    Raises:
        PlanError: The plan has no such phase.
    """
    names = [candidate.name for candidate in plan.phases]
    if phase in names:
        return names.index(str(phase))
    if isinstance(phase, int) and not isinstance(phase, bool) and 0 <= phase < len(names):
        return phase
    close = nearest(phase, names, limit=1) if isinstance(phase, str) else []
    raise PlanError(
        f"the plan has no phase {phase!r}",
        context=f"its phases are: {', '.join(names) or 'none'}",
        hint=f"did you mean {close[0]!r}?" if close else "",
    )


def plans_of_phases(plan: FreezePlan) -> list[FreezePlan]:
    """Return for each phase the plan that holds in it.

    Raises:
        PlanError: Some phases are still to be made by generators.
    """
    generators = [phase.name for phase in plan.phases if phase.generator is not None]
    if generators:
        raise PlanError(
            f"the plan has generators, whose phases depend on the model: {', '.join(generators)}",
            hint="expand them first: plan.expand(model), or `unifreeze expand`",
        )
    return [
        replace(plan, rules=each.rules, norm_stats=each.norm_stats, phases=(), captured=None)
        for each in settings_of(plan.phases, plan.rules, plan.norm_stats)
    ]
