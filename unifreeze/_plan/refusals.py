"""Values in place of a plan, and plans with phases, where they cannot be used."""

from __future__ import annotations

from unifreeze._plan.model import FreezePlan
from unifreeze.errors import PlanError, brief, counted


def check_plan(plan: object) -> None:
    """Refuse what is not a plan; a path is a likely mistake.

    Raises:
        PlanError: It is none.
    """
    if not isinstance(plan, FreezePlan):
        raise PlanError(
            f"{brief(plan)} is not a FreezePlan", hint="read a file with FreezePlan.load(path)"
        )


def refuse_phases(plan: FreezePlan) -> None:
    """Refuse a plan with phases where one that holds all the time is wanted.

    Raises:
        PlanError: It has some.
    """
    if plan.phases:
        raise PlanError(
            f"the plan has {counted(len(plan.phases), 'phase')}, and "
            "one that holds all the time is wanted",
            context=f"they are: {', '.join(phase.name for phase in plan.phases)}",
            hint="take one phase of it: plan.in_phase(0)",
        )
