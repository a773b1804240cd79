"""A plan without phases as a run of one phase, which lasts for the whole run.

Whether a plan has phases is asked in this module, and nowhere else in a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unifreeze._handle.schedule import Schedule
from unifreeze._plan import FreezePlan, Phase
from unifreeze._resolution import Resolution, expand_plan, resolve_phases, resolve_spec
from unifreeze._structure import ModelSpec
from unifreeze.errors import ScheduleError

ONE_PHASE = Phase("")
"""The phase of a plan without phases; no phase that a user writes has an empty name."""


@dataclass
class WholeRun(Schedule):
    """The schedule of a plan without phases: one phase lasts for the whole run.

    Nothing is counted, so that epochs and steps may be given or left out, and go back. The phase
    has no name, users never see it, and optimizers train with their own rates.
    """

    steers = False
    opening = ()
    phases: Sequence[Phase] = (ONE_PHASE,)

    @property
    def named_phase(self) -> Phase | None:
        """None: users have named no phase."""
        return None

    def advance(
        self, epoch: int | None, step: int | None, metrics: Mapping[str, float] | None
    ) -> list[int]:
        """Return that no phase begins."""
        return []

    def saved(self, counts: Mapping[str, Any]) -> dict[str, Any]:
        """Return nothing: in a run without phases nothing is counted."""
        return {}

    def read(self, state: Mapping[str, Any]) -> tuple[Schedule, Mapping[str, Any]]:
        """Return this schedule, and that nothing was counted."""
        return self, {"taken": 0, "sums": {}, "measured": {}}

    def check_kind(self, state: Mapping[str, Any]) -> None:
        """Refuse the state of a run with phases.

        Raises:
            ScheduleError: It is one.
        """
        if state["phase"] is not None:
            raise ScheduleError("the state is of a plan with phases, and this one has none")


def phases_of(plan: FreezePlan) -> Sequence[Phase]:
    """Return the phases of a plan with plain phases, or the one of a plan without."""
    return plan.phases or (ONE_PHASE,)


def schedule_of(plan: FreezePlan) -> Schedule:
    """Return the schedule of a run that is about to begin under a plan with plain phases."""
    return Schedule(plan.phases) if plan.phases else WholeRun()


def plans_of(plan: FreezePlan) -> Sequence[FreezePlan]:
    """Return the plan that holds in each phase of a plan with plain phases."""
    return plan.in_phases() or (plan,)


def resolve_all(plan: FreezePlan, spec: ModelSpec) -> Sequence[Resolution]:
    """Resolve a plan with plain phases in each of them; raises as `resolve_phases` does."""
    return resolve_phases(plan, spec) if plan.phases else (resolve_spec(plan, spec),)


def resolve_phase(plan: FreezePlan, spec: ModelSpec, phase: int | str) -> Resolution:
    """Return what a plan decides in one of its phases, with a notice that says in which.

    Args:
        plan: The plan.
        spec: The model's description.
        phase: Its number or name; 0 for a plan without phases.

    Raises:
        ResolveError: The plan does not fit the model.
        PlanError: The plan has no such phase.
    """
    if not plan.phases and phase == 0:
        return resolve_spec(plan, spec)
    expanded = expand_plan(plan, spec)
    number = expanded.phase_number(phase)
    resolution, count = resolve_phases(expanded, spec)[number], len(expanded.phases)
    said = f"this is phase {expanded.phases[number].name!r}, number {number} of {count} from 0 on"
    return replace(resolution, notices=(*resolution.notices, said))
