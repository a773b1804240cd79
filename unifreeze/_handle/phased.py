"""The phases of a plan on one model: all of them resolved, and which one holds now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np

from unifreeze._handle.groups import Classes
from unifreeze._handle.saved_state import check_origin, origin_of
from unifreeze._handle.schedule import Schedule
from unifreeze._handle.smallest_gradients import Sums, frozen_by_name
from unifreeze._plan import FreezePlan, Phase, PhaseSettings, settings_of
from unifreeze._protocol import Rate
from unifreeze._resolution import Resolution, expand_plan, resolve_phases
from unifreeze._structure import Mask, ModelSpec
from unifreeze.errors import ScheduleError


class Phased:
    """A plan's phases on one model.

    Attributes:
        plan: The plan as it was given.
        schedule: Where the run stands.
        base: The learning rate that the attached optimizer was built with; None without one.
        measured: For each phase that froze by measurement, canonical names of what it froze.
        taken: Steps of the optimizer that the current phase has had.
        sums: Of each parameter's gradient norms in the current phase, by canonical name.
        resolutions: What each phase decides.
    """

    def __init__(self, plan: FreezePlan, spec: ModelSpec, last: Phased | None = None) -> None:
        self.plan, self.spec = plan, spec
        self._expanded = expand_plan(plan, spec)
        self._prior = resolve_phases(self._expanded, spec)
        phases = self._expanded.phases
        if last is not None and [p.name for p in last.phases] != [p.name for p in phases]:
            raise ScheduleError(
                "the model has changed so that the plan's generators make other phases of it",
                hint="apply the plan anew",
            )
        self.schedule: Schedule = last.schedule if last else Schedule(phases)
        self.base: float | None = last.base if last else None
        self.taken: int = last.taken if last else 0
        self.sums: Sums = last.sums if last else {}
        self.measured: dict[int, tuple[str, ...]] = {}
        self.resolutions = self._prior
        self._settings = settings_of(phases, plan.rules, plan.norm_stats)
        if last is not None and last.measured:
            self.measure(last.measured)

    def at(self, schedule: Schedule, measured: Mapping[int, tuple[str, ...]]) -> Phased:
        """Return these phases at the beginning of another of them."""
        made = copy(self)
        made.schedule, made.taken, made.sums = schedule, 0, {}
        if measured != self.measured:
            made.measure(measured)
        return made

    def measure(self, measured: Mapping[int, tuple[str, ...]]) -> None:
        """Take in what phases have frozen by measurement."""
        self.measured = dict(measured)
        self.resolutions = resolve_phases(self.expanded, self.spec) if measured else self._prior

    @property
    def expanded(self) -> FreezePlan:
        """The plan with plain phases: of generators, and of what has been measured so far."""
        return self._with(self.measured)

    def _with(self, measured: Mapping[int, tuple[str, ...]]) -> FreezePlan:
        if not measured:
            return self._expanded
        return replace(self._expanded, phases=tuple(frozen_by_name(self.phases, measured)))

    def decided(self, spec: ModelSpec) -> Sequence[Resolution]:
        """Resolve every phase against a description of the model in another order.

        What was measured is of certain tensors, which have other names there.
        """
        names: dict[str, str] = {}
        if self.measured:
            for name in self.spec.first_names.tolist():
                names.update(zip(self.spec.part_names(name), spec.part_names(name), strict=True))
        there = {n: tuple(map(names.__getitem__, found)) for n, found in self.measured.items()}
        return resolve_phases(self._with(there), spec)

    @property
    def phases(self) -> Sequence[Phase]:
        """The plain phases, before anything was measured."""
        return self._expanded.phases

    @property
    def resolution(self) -> Resolution:
        """What the current phase decides."""
        return self.resolutions[self.schedule.phase]

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
        """Tell whether any phase sets a learning rate or weight decay."""
        return any(s.lr is not None or s.weight_decay is not None for s in self._settings)

    def settings(self, number: int | None = None) -> PhaseSettings:
        """Return what holds in a phase; None for the current one."""
        return self._settings[self.schedule.phase if number is None else number]

    def ever_trained(self) -> Resolution:
        """Return a resolution that trains what any phase may train, for the optimizer."""
        trainable = self._prior[0].trainable.copy()
        for resolution in self._prior[1:]:
            trainable |= resolution.trainable
        return replace(self._prior[0], trainable=trainable)

    def warmed(self) -> Classes | None:
        """Return for each parameter the phases that unfreeze it with a warm-up; None without any.

        What is measured later freezes only, so this is the same all through the run.
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
        """Return what the current phase makes of the optimizer's settings at its latest step.

        Args:
            fresh: The identities of what the phase has unfrozen with a warm-up.
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
        return {
            **origin,
            "phase": self.schedule.current.name,
            "schedule": self.schedule.state(),
            "taken": self.taken,
            "sums": dict(self.sums),
            "measured": {str(number): list(names) for number, names in self.measured.items()},
        }

    def restored(self, state: Mapping[str, Any]) -> Phased:
        """Return these phases at the place of a saved state.

        Raises:
            ScheduleError: It is none, or of another plan or model; the message shows the
                difference.
        """
        check_origin(state, self.plan, self.spec, digest=self._expanded.digest)
        made = copy(self)
        try:
            made.schedule = self.schedule.restored(state["schedule"])
            made.taken = int(state["taken"])
            made.sums = {str(name): float(value) for name, value in state["sums"].items()}
            measured = {int(n): tuple(names) for n, names in state["measured"].items()}
            made.measure(measured if state["plan"] == self._expanded.digest else {})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ScheduleError(f"this is not a state of a plan: {error!r}") from None
        return made
