"""A plan's phases in force on one live model, and the optimizer that they steer."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from unifreeze._handle.best_values import Best
from unifreeze._handle.groups import check_optimizers, param_groups
from unifreeze._handle.phase_log import PhaseLog
from unifreeze._handle.phased import Phased
from unifreeze._handle.schedule import Schedule
from unifreeze._handle.smallest_gradients import smallest
from unifreeze._handle.step_reminders import untold_error, warn_untold
from unifreeze._handle.trained_values import load_state, trained_state
from unifreeze._identity import WeakIdentityDict
from unifreeze._plan import FreezePlan, Phase
from unifreeze._protocol import Backend, ParamGroup, Rate, Undo
from unifreeze._resolution import Resolution
from unifreeze._structure import ModelSpec
from unifreeze.errors import OptimizerError, ScheduleError

_steered: WeakIdentityDict[weakref.ref[Run]] = WeakIdentityDict()
"""The run that steers an optimizer."""


def _nothing() -> None:
    pass


class Run:
    """A plan's phases on one live model.

    Attributes:
        phased: The phases resolved, and which one holds now.
        optimizer: The optimizer that they steer; None before one is attached.
    """

    def __init__(
        self,
        plan: FreezePlan,
        backend: Backend,
        model: Any,
        *,
        in_force: Callable[[], bool],
        verify: Callable[[], object],
        write: Callable[[], None],
        stepped: Callable[[Backend, Any], object],
    ) -> None:
        """Make one.

        Args:
            plan: A plan with phases.
            backend: The model's backend.
            model: The live model.
            in_force: Tells whether the plan still is.
            verify: Checks everything frozen.
            write: Puts the current phase in force.
            stepped: Called with backend and optimizer at each of its steps.
        """
        self.plan, self.backend, self.model = plan, backend, model
        self.optimizer: Any = None
        self.phased: Phased
        self.in_force, self._verify = in_force, verify
        self._write, self._stepped = write, stepped
        self._stop_steering: Undo = _nothing
        self._fresh: frozenset[int] = frozenset()
        self._listeners: list[Callable[[Phase], None]] = []
        self._best: Best | None = None
        self._stop_watching: Undo = _nothing
        self._warned, self._log = False, PhaseLog()

    @property
    def told(self) -> bool:
        """True once the schedule was told of an epoch or step, also before a resume."""
        return self.phased.schedule.told

    @property
    def waits(self) -> bool:
        """True if later phases wait to begin, and the schedule was never told where the run is."""
        return len(self.phased.phases) > 1 and not self.told

    def watch(self) -> Undo:
        """Warn once if the model trains before the schedule was told; return what stops the watch.

        There is no need for it with an optimizer attached, whose first step is refused.
        """
        self._stop_watching()
        self._stop_watching = _nothing
        if self.waits and self.optimizer is None and not self._warned:
            self._stop_watching = self.backend.watch_training(self.model, self._warn)
        return self._stop_watching

    def _warn(self) -> None:
        self._stop_watching()
        if self.waits and not self._warned:
            self._warned = True
            warn_untold(self.phased.phases)

    def decide(self, spec: ModelSpec, check: Callable[[Resolution], None]) -> Resolution:
        """Return what the current phase decides; `check` is called for every phase of a model."""
        last = getattr(self, "phased", None)
        if last is None or last.spec is not spec:
            self.phased = Phased(self.plan, spec, last)
            self.check(check)
        return self.phased.resolution

    def check(self, check: Callable[[Resolution], None]) -> None:
        """Call a check with what each phase decides."""
        for resolution in dict.fromkeys(self.phased.resolutions):
            check(resolution)

    def groups(self) -> tuple[ParamGroup, ...]:
        """Return the param groups of what any phase trains, the same in all of them."""
        return param_groups(self.phased.ever_trained(), self.phased.warmed())

    def attach(self, optimizer: Any) -> None:
        """Steer an optimizer; raises as `Handle.attach` does."""
        self._check_optimizer(optimizer)
        base = self.backend.base_rate(optimizer)
        if not base and self.phased.sets_rates:
            raise OptimizerError(
                f"phases set learning rates, and {type(optimizer).__name__} has none of its own",
                context=f"it was built with {base}",
                hint="build it with lr=…, which a phase's rate is then compared with",
            )
        self._take_over(optimizer)
        self.detach()
        self._find_fresh()
        self._stop_steering = self.backend.steer(optimizer, self)
        _steered[optimizer] = weakref.ref(self)
        self.phased.base, self.optimizer = base, optimizer
        self._stop_watching()

    def _take_over(self, optimizer: Any) -> None:
        """End what another plan makes of an optimizer, unless that one is still in force."""
        steering = _steered.get(optimizer)
        other = steering() if steering is not None else None
        if other is None or other is self:
            return
        if other.in_force():
            raise OptimizerError(
                "the optimizer is steered by the phases of another plan, which is in force",
                context="each of its steps has one factor on the rate",
                hint="build an optimizer for each, or apply one plan to all: "
                'uf.apply(plan, {"a": …, "b": …})',
            )
        other.detach()

    def detach(self) -> None:
        """Leave the optimizer as it was."""
        self._stop_steering()
        self._stop_steering = _nothing
        if self.optimizer is not None:
            _steered.pop(self.optimizer, None)

    def rebase(self, rate: float) -> None:
        """Take in that the optimizer has another rate of its own, as if built with it."""
        self.phased.base = rate

    def warmed_sets(self) -> list[frozenset[int]]:
        """Return the identities of what each phase with a warm-up unfreezes."""
        numbers = range(len(self.phased.phases))
        return [found for number in numbers if (found := self._identities(number))]

    def begin_step(self) -> None:
        """Take notice of a step of the optimizer that is about to happen.

        Raises:
            ScheduleError: The schedule was never told where the run is; nothing has changed.
            OptimizerError: Another plan has replaced this one before it was told anything.
        """
        phased = self.phased
        if self.waits and not self.in_force():
            raise OptimizerError(
                "the optimizer is steered by the phases of a plan that was replaced by another",
                hint="build one from the plan in force: handle.optimizer(cls, …), or "
                "handle.attach(optimizer)",
            )
        if self.waits:
            raise untold_error(phased.phases, "the optimizer takes a step")
        self._stepped(self.backend, self.optimizer)
        self._log.began(phased)
        phased.taken += 1
        if phased.following is not None and phased.following.freeze_smallest:
            names = {row.path: row.name for row in phased.spec.parameters}
            found = self.backend.gradients(self.model).items()
            norms = {
                names[path]: norm for path, norm in found if norm is not None and path in names
            }
            if all(map(isfinite, norms.values())):  # or a loss scaler is about to skip the step
                phased.sums |= {n: phased.sums.get(n, 0.0) + norm for n, norm in norms.items()}

    def rate(self) -> Rate:
        """Return what the current phase makes of the optimizer's settings."""
        return self.phased.rate(self._fresh)

    def next_rate(self) -> Rate:
        """Return what it makes of them at the step that comes next."""
        return self.phased.rate(self._fresh, ahead=1)

    def step(
        self, epoch: int | None, step: int | None, metrics: Mapping[str, float] | None
    ) -> bool:
        """Go on to an epoch or a step; raises as `Handle.step` does."""
        schedule = self.phased.schedule.copy()
        reported = schedule.reported
        entered = schedule.advance(epoch, step, metrics)
        if entered and not schedule.current.stop:
            self._check_can_change(schedule.current)
            self._verify()
            self._enter(schedule, entered)
        elif schedule.reported != reported and schedule.watch.since_best == 0:
            self._keep_best(schedule)
        self.phased.schedule = schedule
        self._stop_watching()
        self._log.began(self.phased, entered)
        for number in entered:
            for call in self._listeners:
                call(self.phased.phases[number])
        return bool(entered)

    def would_stop(
        self, epoch: int | None, step: int | None, metrics: Mapping[str, float] | None
    ) -> bool:
        """Tell whether the training ends before an epoch or step, and change nothing."""
        schedule = self.phased.schedule.copy()
        schedule.advance(epoch, step, metrics)
        return schedule.current.stop

    def values_written(self, paths: Iterable[str]) -> None:
        """Let the optimizer know of values that were loaded into the model."""
        if self.optimizer is not None:
            live = self.backend.objects(self.model)
            self.backend.values_written(self.optimizer, [live[path] for path in paths])

    def on_phase(self, call: Callable[[Phase], None]) -> None:
        """Call a function with each phase that begins."""
        self._listeners.append(call)

    def keep_best(self, folder: str | Path) -> None:
        """Keep the best values of each phase in a folder."""
        self._best = Best(folder)
        self._best.refer(self.phased.schedule.watch.best_at)

    def state(self) -> dict[str, Any]:
        """Return where the run stands as plain data; the best values it refers to are kept."""
        if self._best is not None:
            self._best.refer(self.phased.schedule.watch.best_at)
        return self.phased.state()

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where a run was saved."""
        last = self.phased
        self.phased = last.restored(state)
        try:
            if self.phased.resolution is not last.resolution:
                self._write()
        except BaseException:
            self.phased = last
            raise
        if self._best is not None:
            self._best.refer(self.phased.schedule.watch.best_at)
        self._find_fresh()
        self._log.resumed(self.phased)

    def _enter(self, schedule: Schedule, entered: list[int]) -> None:
        """Put another phase in force; on any error the last one stays."""
        last = self.phased
        best = self._best_values(schedule, entered)
        following = last.at(schedule, self._measured(entered))
        if best is not None:
            self.values_written(load_state(self.backend, self.model, last.spec, best))
        self.phased = following
        try:
            self._write()
        except BaseException:
            self.phased = last
            raise
        self._clear_moments(last.resolution, following.resolution)
        self._find_fresh()

    def _check_can_change(self, phase: Phase) -> None:
        if self.optimizer is None:
            raise OptimizerError(
                f"phase {phase.name!r} begins, and no optimizer is attached that would train it",
                hint="build one with handle.optimizer(cls, …), or handle.attach(optimizer)",
            )
        self._check_optimizer(self.optimizer)
        if (count := self.backend.processes()) > 1:
            raise ScheduleError(
                f"phase {phase.name!r} begins, and {count} processes train together",
                context="gradients are exchanged for the parameters that trained at the start",
                hint="end the run here, and start the next phase in a new one",
            )

    def _check_optimizer(self, optimizer: Any) -> None:
        check_optimizers(self.backend, self.model, self.groups(), [optimizer])

    def _measured(self, entered: list[int]) -> dict[int, tuple[str, ...]]:
        """Return what is frozen by measurement so far, the phases that begin now included."""
        measured, phased = dict(self.phased.measured), self.phased
        for number in entered:
            wanted = phased.phases[number].freeze_smallest
            if wanted is not None:
                both = phased.resolution, phased.resolutions[number]
                measured[number] = smallest(self.backend, self.model, both, wanted, phased.sums)
        return measured

    def _keep_best(self, schedule: Schedule) -> None:
        """Save the values of a phase that the next one begins from, if they are its best."""
        following = self.phased.following
        if following is not None and following.restore_best and schedule.reported is not None:
            state = trained_state(self.backend, self.model, [self.phased.resolution])
            self._folder(following).save(schedule.reported, state)

    def _best_values(self, schedule: Schedule, entered: list[int]) -> dict[str, Any] | None:
        first = self.phased.phases[entered[0]]
        if not first.restore_best:
            return None
        place = schedule.left
        return self._folder(first).load(place) if place is not None else None

    def _folder(self, phase: Phase) -> Best:
        if self._best is None:
            raise ScheduleError(
                f"phase {phase.name!r} begins from the best values, and none are kept",
                hint="say where, before training: handle.keep_best(folder)",
            )
        return self._best

    def _clear_moments(self, before: Resolution, now: Resolution) -> None:
        if self.plan.moments == "clear" and self.optimizer is not None:
            paths = set(before.trainable_paths) & set(now.frozen_paths)
            live = self.backend.objects(self.model)
            self.backend.clear_moments(self.optimizer, [live[path] for path in sorted(paths)])

    def _find_fresh(self) -> None:
        self._fresh = self._identities(self.phased.schedule.phase)

    def _identities(self, number: int) -> frozenset[int]:
        """Return the identities of what a phase unfreezes with a warm-up."""
        fresh = self.phased.fresh(number)
        if not fresh.any():
            return frozenset()
        live, spec = self.backend.objects(self.model), self.phased.spec
        return frozenset(id(live[spec.tree.names[name]]) for name in spec.first_names[fresh])
