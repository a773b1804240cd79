"""The phases of a plan on one model: all of them resolved, and which one holds now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from unifreeze.backend import Rate
from unifreeze.errors import ScheduleError
from unifreeze.plan import FreezePlan, Settings, settings_of
from unifreeze.resolution import Resolution, resolve_phases
from unifreeze.schedule import Schedule
from unifreeze.structure import ModelSpec

STATE_FORMAT = 1


class Phased:
    """A plan's phases on one model.

    Attributes:
        plan: The plan.
        schedule: Where the run stands.
        resolutions: What each phase decides.
        base: The learning rate that the attached optimizer was built with; None without one.
    """

    def __init__(self, plan: FreezePlan, spec: ModelSpec, schedule: Schedule | None = None) -> None:
        self.plan = plan
        self.schedule = schedule or Schedule(plan.phases)
        self.resolutions = resolve_phases(plan, spec)
        self.base: float | None = None
        self._settings = settings_of(plan.phases, plan.rules, plan.norm_stats)

    @property
    def resolution(self) -> Resolution:
        """What the current phase decides."""
        return self.resolutions[self.schedule.phase]

    @property
    def settings(self) -> Settings:
        """What holds in the current phase."""
        return self._settings[self.schedule.phase]

    @property
    def first_rate(self) -> float | None:
        """The learning rate that the first phase sets."""
        return self._settings[0].lr

    @property
    def sets_rates(self) -> bool:
        """Tell whether any phase sets a learning rate or weight decay."""
        return any(s.lr is not None or s.weight_decay is not None for s in self._settings)

    def ever_trained(self) -> Resolution:
        """Return a resolution that trains what any phase trains, for the optimizer."""
        trainable = self.resolutions[0].trainable.copy()
        for resolution in self.resolutions[1:]:
            trainable |= resolution.trainable
        return replace(self.resolutions[0], trainable=trainable)

    def rate(self) -> Rate:
        """Return what the current phase makes of the optimizer's settings."""
        lr, decay = self.settings.lr, self.settings.weight_decay
        factor = 1.0 if lr is None or not self.base else lr / self.base
        return Rate(factor, decay)

    def state(self) -> dict[str, Any]:
        """Return where the run stands as plain data."""
        return {
            "unifreeze_state": STATE_FORMAT,
            "plan": self.plan.digest,
            "phase": self.schedule.current.name,
            "schedule": self.schedule.state(),
        }

    def restored(self, state: Mapping[str, Any]) -> Schedule:
        """Return the schedule at the place of a saved state.

        Raises:
            ScheduleError: It is none, or of another plan; the message shows the difference.
        """
        version = state.get("unifreeze_state") if isinstance(state, Mapping) else None
        if version != STATE_FORMAT:
            what = "no state of a plan" if version is None else f"of state format {version}"
            raise ScheduleError(f"this is {what}; this release reads {STATE_FORMAT}")
        if state.get("plan") != self.plan.digest:
            names = ", ".join(phase.name for phase in self.plan.phases)
            raise ScheduleError(
                f"the state is of another plan ({state.get('plan')}, in phase "
                f"{state.get('phase')!r}), and not of this one ({self.plan.digest})",
                context=f"the phases here are: {names}",
                hint="load it under the plan that it was saved under; save plans beside runs",
            )
        return self.schedule.restored(state.get("schedule") or {})
