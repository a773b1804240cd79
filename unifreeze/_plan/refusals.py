"""Refuse values that are not plans, and plans with phases where phases cannot be used."""

from __future__ import annotations

from unifreeze._plan.model import FreezePlan
from unifreeze.errors import PlanError, brief, counted


def check_plan(plan: object) -> None:
    """Refuse a value that is not a plan, such as the path of a plan file.

    Raises:
        PlanError: It is not a plan.
    """
    if not isinstance(plan, FreezePlan):
        raise PlanError(
            f"{brief(plan)} is not a FreezePlan", hint="read a file with FreezePlan.load(path)"
        )


def refuse_phases(plan: FreezePlan) -> None:
    """Refuse a plan with phases where a plan must hold all the time.

    Raises:
        PlanError: The plan has phases.
    """
    if plan.phases:
        raise PlanError(
            f"the plan has {counted(len(plan.phases), 'phase')}, "
            "but only a plan without phases can be used here",
            context=f"they are: {', '.join(phase.name for phase in plan.phases)}",
            hint="take one phase of it: plan.in_phase(0)",
        )
