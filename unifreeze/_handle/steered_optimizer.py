"""The optimizer that trains under a plan with phases: at each step it gets the phase's rate."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from math import isfinite
from typing import Any

from unifreeze._handle.groups import check_optimizers
from unifreeze._handle.in_force import PlanInForce
from unifreeze._handle.phase_log import PhaseLog
from unifreeze._handle.resolved_phases import ResolvedPhases
from unifreeze._handle.step_reminders import untold_error
from unifreeze._identity import WeakIdentityDict
from unifreeze._protocol import Rate, Undo
from unifreeze._undo import nothing
from unifreeze.errors import OptimizerError

_steering: WeakIdentityDict[weakref.ref[SteeredOptimizer]] = WeakIdentityDict()
"""For each optimizer, the object that steers it."""


class SteeredOptimizer:
    """The optimizer that a plan's phases steer: the `Control` that a backend asks at each step.

    Attributes:
        optimizer: The optimizer; None before one is attached.
    """

    def __init__(self, plan: PlanInForce, log: PhaseLog) -> None:
        self._plan, self._log = plan, log
        self.optimizer: Any = None
        self._undo: Undo = nothing
        self._fresh: frozenset[int] = frozenset()
        """Identities of the parameters that the current phase warms up."""

    def take(self, optimizer: Any) -> None:
        """Steer an optimizer that the handle has built."""
        self.attach(optimizer)

    def attach(self, optimizer: Any) -> None:
        """Steer an optimizer; raises as `Handle.attach` does."""
        backend, phases = self._plan.backend, self._plan.phases
        check_optimizers(backend, self._plan.model, phases.groups(), [optimizer])
        base = backend.base_rate(optimizer)
        if not base and phases.sets_rates:
            raise OptimizerError(
                f"phases set learning rates, and {type(optimizer).__name__} has none of its own",
                context=f"it was built with {base}",
                hint="build it with lr=…, which a phase's rate is then compared with",
            )
        self._detach_ended_plan(optimizer)
        self.detach()
        self.phase_began()
        self._undo = backend.steer(optimizer, self)
        _steering[optimizer] = weakref.ref(self)
        phases.base, self.optimizer = base, optimizer
        self._plan.reminder.end()

    def _detach_ended_plan(self, optimizer: Any) -> None:
        """Detach a plan that is no longer in force from an optimizer; refuse if it still is."""
        reference = _steering.get(optimizer)
        steering = reference() if reference is not None else None
        if steering is None or steering is self:
            return
        if steering._plan.lasts:
            raise OptimizerError(
                "the optimizer is steered by the phases of another plan, which is in force",
                context="each of its steps has one factor on the rate",
                hint="build an optimizer for each, or apply one plan to all: "
                'uf.apply(plan, {"a": …, "b": …})',
            )
        steering.detach()

    def detach(self) -> None:
        """Restore the optimizer as it was before it was attached."""
        self._undo()
        self._undo = nothing
        if self.optimizer is not None:
            _steering.pop(self.optimizer, None)

    def check(self, optimizers: Sequence[Any]) -> None:
        """Do nothing: the first step of the attached optimizer is checked in any case."""

    def rebase(self, rate: float) -> None:
        """Use another rate as the one that the optimizer was built with."""
        self._plan.phases.base = rate

    def warmed_sets(self) -> list[frozenset[int]]:
        """Return the identities of the parameters that each phase with a warm-up unfreezes."""
        sets = (self._identities(number) for number in range(len(self._plan.phases.phases)))
        return [identities for identities in sets if identities]

    def begin_step(self) -> None:
        """Count a step of the optimizer that is about to happen.

        Raises:
            ScheduleError: The schedule was never told where the run is; nothing has changed.
            OptimizerError: Another plan has replaced this one before the schedule was told.
        """
        phases = self._plan.phases
        if phases.schedule.waits and not self._plan.lasts:
            raise OptimizerError(
                "the optimizer is steered by the phases of a plan that was replaced by another",
                hint="build one from the plan in force: handle.optimizer(cls, …), or "
                "handle.attach(optimizer)",
            )
        if phases.schedule.waits:
            raise untold_error(phases.phases, "the optimizer takes a step")
        self._plan.order.stepped(self._plan.backend, self.optimizer)
        self._plan.gradients.stepped(self._plan.backend, self.optimizer)
        self._log.began(phases)
        phases.taken += 1
        if phases.following is not None and phases.following.freeze_smallest:
            self._add_gradients(phases)

    def _add_gradients(self, phases: ResolvedPhases) -> None:
        """Add up the norms of gradients, by which the next phase decides what to freeze."""
        names = {row.path: row.name for row in phases.spec.parameters}
        gradients = self._plan.backend.gradients(self._plan.model)
        norms = {
            names[path]: norm
            for path, norm in gradients.items()
            if norm is not None and path in names
        }
        if all(map(isfinite, norms.values())):  # or a loss scaler is about to skip the step
            phases.sums |= {n: phases.sums.get(n, 0.0) + norm for n, norm in norms.items()}

    def rate(self) -> Rate:
        """Return how the current phase changes the optimizer's settings."""
        return self._plan.phases.rate(self._fresh)

    def next_rate(self) -> Rate:
        """Return how it changes them at the step that comes next."""
        return self._plan.phases.rate(self._fresh, ahead=1)

    def phase_began(self) -> None:
        """Find the parameters that the current phase warms up."""
        self._fresh = self._identities(self._plan.phases.schedule.phase)

    def _identities(self, number: int) -> frozenset[int]:
        """Return the identities of the parameters that a phase unfreezes with a warm-up."""
        phases = self._plan.phases
        fresh = phases.fresh(number)
        if not fresh.any():
            return frozenset()
        live, spec = self._plan.backend.objects(self._plan.model), phases.spec
        return frozenset(id(live[spec.tree.names[name]]) for name in spec.first_names[fresh])
