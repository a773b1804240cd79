"""The phases of a plan, resolved on one model, and which of them holds now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np

from unifreeze._handle.groups import Classes, param_groups
from unifreeze._handle.saved_state import check_origin, origin_of
from unifreeze._handle.schedule import Schedule
from unifreeze._handle.smallest_gradients import Sums, frozen_by_name
from unifreeze._handle.state_schema import CountsState, read_state
from unifreeze._handle.whole_run import phases_of, plans_of, resolve_all, schedule_of
from unifreeze._plan import FreezePlan, Phase, PhaseSettings, When, settings_of
from unifreeze._protocol import ParamGroup, Rate
from unifreeze._resolution import Resolution, corrected, expand_plan
from unifreeze._structure import Mask, ModelSpec
from unifreeze.errors import ScheduleError

Measured = Mapping[int, tuple[str, ...]]
"""For each phase that froze by measurement, canonical names of the parameters that it froze."""


class ResolvedPhases:
    """The phases of a plan on one model; a plan without phases has a single phase without a name.

    Attributes:
        plan: The plan as it was given.
        spec: The model's description.
        phases: The plain phases, before anything was measured.
        schedule: Where the run stands.
        base: The learning rate that the attached optimizer was built with; None without one.
        measured: What phases froze by measurement.
        taken: Optimizer steps taken in the current phase.
        sums: Sums of each parameter's gradient norms in the current phase, by canonical name.
        resolutions: What each phase decides.
    """

    def __init__(
        self, plan: FreezePlan, spec: ModelSpec, last: ResolvedPhases | None = None
    ) -> None:
        """Resolve every phase.

        Args:
            plan: The plan.
            spec: The model's description.
            last: The phases on the model as it was before, whose place in the run is kept.

        Raises:
            ResolveError: The plan does not fit the model.
            ScheduleError: The model has changed so that it has other phases.
        """
        self.plan, self.spec = plan, corrected(plan, spec)
        self._expanded = expand_plan(plan, self.spec)
        self._prior = resolve_all(self._expanded, self.spec)
        self.schedule: Schedule = last.schedule if last else schedule_of(self._expanded)
        self.phases: Sequence[Phase] = phases_of(self._expanded)
        if last is not None and [p.name for p in last.phases] != [p.name for p in self.phases]:
            raise ScheduleError(
                "the model has changed so that the plan's generators make other phases of it",
                hint="apply the plan anew",
            )
        self.base: float | None = last.base if last else None
        self.taken: int = last.taken if last else 0
        self.sums: Sums = last.sums if last else {}
        self.measured: Measured = {}
        self.resolutions = self._prior
        self._settings = settings_of(tuple(self.phases), plan.rules, plan.norm_stats)
        if last is not None and last.measured:
            self.measure(last.measured)

    def at(self, schedule: Schedule, measured: Measured) -> ResolvedPhases:
        """Return these phases at the beginning of another of them."""
        phases = copy(self)
        phases.schedule, phases.taken, phases.sums = schedule, 0, {}
        if measured != self.measured:
            phases.measure(measured)
        return phases

    def measure(self, measured: Measured) -> None:
        """Resolve the phases once more, with what they have frozen by measurement."""
        self.measured = dict(measured)
        self.resolutions = resolve_all(self.expanded, self.spec) if measured else self._prior

    @property
    def expanded(self) -> FreezePlan:
        """The plan with plain phases in place of generators and of measurements so far."""
        return self._with(self.measured)

    def _with(self, measured: Measured) -> FreezePlan:
        if not measured:
            return self._expanded
        return replace(self._expanded, phases=tuple(frozen_by_name(self.phases, measured)))

    def rows(self) -> list[tuple[str, FreezePlan, Resolution]]:
        """Return for each phase its name, the plan that holds in it, and what that plan decides."""
        names = [phase.name for phase in self.phases]
        return list(zip(names, plans_of(self.expanded), self.resolutions, strict=True))

    def decided(self, spec: ModelSpec) -> Sequence[Resolution]:
        """Resolve every phase against a description of the model in another order.

        Parameters that were frozen by measurement have other canonical names there.
        """
        names: dict[str, str] = {}
        spec = corrected(self.plan, spec)
        if self.measured:
            for name in self.spec.first_names.tolist():
                names.update(zip(self.spec.part_names(name), spec.part_names(name), strict=True))
        there = {n: tuple(map(names.__getitem__, here)) for n, here in self.measured.items()}
        return resolve_all(self._with(there), spec)

    def to_check(self) -> list[Resolution]:
        """Return the decisions that the framework has to support, besides the ones it writes now.

        It is empty if all phases decide the same: that is checked when it is written.
        """
        several = list(dict.fromkeys(self.resolutions))
        return several if len(several) > 1 else []

    @property
    def so_far(self) -> Sequence[Resolution]:
        """The decisions of the phases that have begun, the current phase included."""
        return self.resolutions[: self.schedule.phase + 1]

    @property
    def resolution(self) -> Resolution:
        """What the current phase decides."""
        return self.resolutions[self.schedule.phase]

    @property
    def waits_for_a_metric(self) -> bool:
        """True if any later phase does."""
        later = self.phases[self.schedule.phase + 1 :]
        return any(isinstance(phase.entry, When) for phase in later)

    @property
    def following(self) -> Phase | None:
        """The phase after the current one."""
        number = self.schedule.phase + 1
        return self.phases[number] if number < len(self.phases) else None

    @property
    def first_rate(self) -> float | None:
        """The learning rate that the first phase sets."""
        return self._settings[0].lr

    @property
    def sets_rates(self) -> bool:
        """True if any phase sets a learning rate or weight decay."""
        return any(s.lr is not None or s.weight_decay is not None for s in self._settings)

    def settings(self, number: int | None = None) -> PhaseSettings:
        """Return the settings that hold in a phase; None for the current phase."""
        return self._settings[self.schedule.phase if number is None else number]

    def groups(self) -> tuple[ParamGroup, ...]:
        """Return the param groups of all that any phase may train, the same in every phase."""
        return param_groups(self._ever_trained(), self._warmed())

    def _ever_trained(self) -> Resolution:
        """Return a resolution that trains what any phase may train."""
        trainable = self._prior[0].trainable.copy()
        for resolution in self._prior[1:]:
            trainable |= resolution.trainable
        return replace(self._prior[0], trainable=trainable)

    def _warmed(self) -> Classes | None:
        """Return for each parameter the phases that unfreeze it with a warm-up; None without any.

        Later measurements only freeze, so this does not change during the run.
        """
        if not any(phase.warmup for phase in self.phases):
            return None
        rows: list[list[str]] = [[] for _ in range(len(self.spec))]
        for number, phase in enumerate(self.phases):
            for parameter in np.flatnonzero(self.fresh(number)):
                rows[parameter].append(phase.name)
        return [tuple(row) for row in rows]

    def fresh(self, number: int) -> Mask:
        """Return which parameters a phase unfreezes with a warm-up."""
        if number == 0 or self.phases[number].warmup is None:
            return np.zeros(len(self.spec), np.bool_)
        return self._prior[number].trainable & ~self._prior[number - 1].trainable

    def rate(self, fresh: frozenset[int], *, ahead: int = 0) -> Rate:
        """Return how the current phase changes the optimizer's settings at its latest step.

        Args:
            fresh: The identities of the parameters that the phase has unfrozen with a warm-up.
            ahead: Steps after the latest.
        """
        settings, warmup = self.settings(), self.schedule.current.warmup
        taken = self.taken + ahead
        factor = 1.0 if settings.lr is None or not self.base else settings.lr / self.base
        if warmup is None or taken > warmup.steps:
            return Rate(factor, settings.weight_decay)
        return Rate(factor, settings.weight_decay, fresh, warmup.factor(max(taken - 1, 0)))

    def state(self) -> dict[str, Any]:
        """Return where the run stands as plain data."""
        origin = origin_of(
            self.plan, self.spec, digest=self._expanded.digest, digest_now=self.expanded.digest
        )
        counts = {
            "taken": self.taken,
            "sums": dict(self.sums),
            "measured": {str(number): list(names) for number, names in self.measured.items()},
        }
        return {**origin, **self.schedule.saved(counts)}

    def restored(self, state: Mapping[str, Any]) -> ResolvedPhases:
        """Return these phases at the place of a saved state.

        Raises:
            ScheduleError: It is not a state, or is of another plan or model; the message shows the
                difference.
        """
        self.schedule.check_kind(state)
        check_origin(state, self.plan, self.spec, digest=self._expanded.digest)
        phases = copy(self)
        try:
            phases.schedule, plain = self.schedule.read(state)
        except KeyError as error:
            raise ScheduleError(f"this is not a state of a plan: it lacks {error}") from None
        counts = read_state(CountsState, plain, "plan")
        phases.taken, phases.sums = counts.taken, counts.sums
        measured = {int(number): tuple(names) for number, names in counts.measured.items()}
        phases.measure(measured if state["plan"] == self._expanded.digest else {})
        return phases
