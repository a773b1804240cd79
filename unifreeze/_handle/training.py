"""The training under a plan: its param groups, its optimizer, its phases and its history."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unifreeze._handle.best_values import BestValues
from unifreeze._handle.groups import check_in_place, check_optimizers, group_rates
from unifreeze._handle.history import History, RunReport, run_report
from unifreeze._handle.history.history import numbers
from unifreeze._handle.in_force import PlanInForce
from unifreeze._handle.known_optimizer import KnownOptimizer
from unifreeze._handle.phase_log import PhaseLog
from unifreeze._handle.ranks import BEGIN, Metrics, Report, SharedDecisions, agree_on_phase
from unifreeze._handle.resolved_phases import ResolvedPhases
from unifreeze._handle.schedule import Schedule
from unifreeze._handle.smallest_gradients import smallest
from unifreeze._handle.steered_optimizer import SteeredOptimizer
from unifreeze._handle.trained_values import load_state
from unifreeze._plan import Phase
from unifreeze._protocol import ParamGroup
from unifreeze._resolution import Resolution
from unifreeze.errors import OptimizerError, UnifreezeError


class Training:
    """A run under a plan in force.

    Attributes:
        link: The optimizer that trains, and what the phases do to it.
        listeners: Functions that are called with each phase that begins.
        history: What was measured in each epoch, and what trained in it.
    """

    def __init__(self, plan: PlanInForce, best: BestValues) -> None:
        """Begin a run.

        Args:
            plan: The plan in force.
            best: The best values of phases, from which later ones may begin.
        """
        self._plan, self._best = plan, best
        self.history = History()
        self._log = PhaseLog()
        self.link: SteeredOptimizer | KnownOptimizer = (
            SteeredOptimizer(plan, self._log)
            if plan.phases.schedule.steers
            else KnownOptimizer(plan)
        )
        self.listeners: list[Callable[[Phase], None]] = []
        self._shared = SharedDecisions()
        self._default_rate: float | None = None
        """The learning rate that the optimizer's class has chosen; None if the user has."""

    @property
    def told(self) -> bool:
        """True once the run was told of an epoch or step, also before a resume."""
        return self._plan.phases.schedule.told or bool(self.history.rows)

    def param_groups(self, lr: float | None) -> list[dict[str, Any]]:
        """Build param groups as the framework's optimizers take them."""
        return self._plan.backend.param_groups(self._plan.model, self._groups(), lr=lr)

    def build(self, cls: type, settings: dict[str, Any]) -> Any:
        """Build an optimizer; raises as `Handle.optimizer` does."""
        if "learning_rate" in settings:  # Paddle's name for it
            if "lr" in settings:
                raise OptimizerError("lr and learning_rate are the same setting", hint="give one")
            settings["lr"] = settings.pop("learning_rate")
        first = self._plan.phases.first_rate
        given = settings.setdefault("lr", first) if first is not None else None
        if isinstance(given, int | float) and given != first:
            raise OptimizerError(
                f"lr={given}, and the plan's first phase sets {first}",
                hint="leave lr out, or take it out of the phases",
            )
        self._plan.take_in_wrapping()
        groups, chosen = self._groups(), "lr" in settings
        optimizer = self._plan.backend.optimizer(self._plan.model, cls, groups, settings)
        self._refuse_mixed_rows([optimizer])
        self.link.take(optimizer)
        self._default_rate = None if chosen else self._plan.backend.base_rate(optimizer)
        self._name_states(optimizer)
        return optimizer

    def attach(self, optimizer: Any) -> None:
        """Let phases steer an optimizer; raises as `Handle.attach` does."""
        self._plan.check_present("attach an optimizer")
        self._plan.take_in_wrapping()
        self._refuse_mixed_rows([optimizer])
        self.link.attach(optimizer)
        self._default_rate = None
        self._name_states(optimizer)

    def default_rate(self) -> str:
        """Return a line on the learning rate in force that nobody has chosen; "" if there is none.

        Group scales multiply it, so the rates of groups stand in the line, too.
        """
        optimizer, default = self.link.optimizer, self._default_rate
        if optimizer is None or not default:
            return ""
        line = f"learning rate: {default:g}, the default of {type(optimizer).__name__}; no lr given"
        try:
            rates = self.rates()
        except UnifreezeError:  # the plan has ended, or the optimizer was changed by others
            return line
        groups = ", ".join(f"{name} = {rate:g}" for name, rate in rates.items())
        return line if set(rates.values()) == {default} else f"{line} (groups: {groups})"

    def rates(self) -> dict[str, float]:
        """Return the rate of each group at the next step; raises as `Handle.rates` does."""
        self._plan.check_present("read rates")
        plan, link = self._plan, self.link
        groups, rate = plan.phases.groups(), link.next_rate()
        return group_rates(plan.backend, plan.model, groups, link.optimizer, rate)

    def check_optimizers(self, optimizers: Sequence[Any]) -> None:
        """Refuse optimizers that would not do what the plan says."""
        plan = self._plan
        plan.check_present("check optimizers")
        check_optimizers(plan.backend, plan.model, plan.phases.groups(), optimizers)
        self._refuse_mixed_rows(optimizers)
        self.link.check(optimizers)

    def _refuse_mixed_rows(self, optimizers: Sequence[Any]) -> None:
        """Refuse what mixes rows, if rows of a table train in any phase."""
        if any(resolution.rows for resolution in self._plan.phases.resolutions):
            for optimizer in optimizers:
                self._plan.backend.refuse_mixed_rows(optimizer)

    def values_written(self, paths: Sequence[str]) -> None:
        """Let the optimizer copy values that were loaded into the model."""
        if self.link.optimizer is not None:
            live = self._plan.backend.objects(self._plan.model)
            self._plan.backend.values_written(self.link.optimizer, [live[path] for path in paths])

    def _groups(self) -> tuple[ParamGroup, ...]:
        """Return the groups that an optimizer is built over."""
        self._plan.check_present("build param groups")
        groups = self._plan.phases.groups()
        if not groups:
            raise OptimizerError("the plan leaves nothing to train")
        check_in_place(self._plan.backend, self._plan.model, groups)
        return groups

    def _name_states(self, optimizer: Any) -> None:
        """Let the optimizer's saved states be matched by parameters' names."""
        live = self._plan.backend.objects(self._plan.model)
        paths = {id(live[path]): path for path in reversed(live)}  # of a tied one, the first name
        self._plan.backend.name_states(optimizer, paths)

    def step(
        self, epoch: int | None, step: int | None, metrics: Mapping[str, float] | None
    ) -> bool:
        """Go on to an epoch or a step; raises as `Handle.step` does."""
        self._plan.check_lasts("step")
        numbers(metrics)  # what is not a number is refused before anything changes
        epoch, step, metrics = self._report(epoch, step, metrics)
        schedule = self._plan.phases.schedule.copy()
        reported = schedule.reported
        entered = schedule.advance(epoch, step, metrics)
        if entered and not schedule.current.stop:
            with self._plan.backend.settled(self._plan.model):
                self._check_can_change(schedule.current)
                self._plan.verify(BEGIN)
                self._enter(schedule, entered)
        elif schedule.reported != reported and schedule.watch.since_best == 0:
            self._best.save(schedule.reported)
        phases = self._plan.phases
        phases.schedule = schedule
        self._plan.reminder.stop()
        self._log.began(phases, entered)
        for number in entered:
            for call in self.listeners:
                call(phases.phases[number])
        self._note(epoch, step, metrics)
        return bool(entered)

    def would_stop(
        self, epoch: int | None, step: int | None, metrics: Mapping[str, float] | None
    ) -> bool:
        """Return whether the training ends before an epoch or step, and change nothing."""
        epoch, step, metrics = self._report(epoch, step, metrics)
        schedule = self._plan.phases.schedule.copy()
        if not schedule.current.stop:
            schedule.advance(epoch, step, metrics)
        return schedule.current.stop

    def _report(
        self, epoch: int | None, step: int | None, metrics: Metrics
    ) -> tuple[int | None, int | None, Metrics]:
        """Return what the first of several processes reports, where a metric decides."""
        plan = self._plan
        if not plan.phases.waits_for_a_metric or not plan.backend.several():
            return epoch, step, metrics
        processes = plan.backend.processes(plan.model)
        own = Report(epoch, step, metrics, self._best.identity)
        epoch, step, metrics, self._best.identity = self._shared.report(processes, plan.phases, own)
        return epoch, step, metrics

    def report(self, metrics: Mapping[str, float] | None) -> RunReport:
        """Return the report of the run, with the metrics measured after the last epoch."""
        if metrics:
            self.history.measured(metrics)
        told = not self._plan.phases.schedule.waits
        return run_report(self.history, told=told, remark=self._plan.order.remark)

    def go_on(self, phases: ResolvedPhases, history: History) -> None:
        """Continue a run from a saved state; on any error nothing has changed.

        Args:
            phases: The plan's phases at the place where it was saved.
            history: Its history up to there.
        """
        if phases.resolution is not self._plan.phases.resolution:
            self._plan.enter(phases)
        self._plan.phases = phases
        self._best.refer()
        self.link.phase_began()
        self._log.resumed(phases)
        self.history = history

    def _enter(self, schedule: Schedule, entered: list[int]) -> None:
        """Put another phase in force; on any error the last one stays."""
        plan, last = self._plan, self._plan.phases
        processes = plan.backend.processes(plan.model)
        best = self._best.load(last.phases[entered[0]], schedule.left)
        measured = self._measured(entered)
        if measured != last.measured:
            measured = self._shared.measured(processes, measured)
        following = last.at(schedule, measured)
        agree_on_phase(processes, following)
        if best is not None:
            self.values_written(load_state(plan.backend, plan.model, last.spec, best))
        plan.enter(following)
        self._clear_moments(last.resolution, following.resolution)
        self.link.phase_began()

    def _check_can_change(self, phase: Phase) -> None:
        if self.link.optimizer is None:
            raise OptimizerError(
                f"phase {phase.name!r} begins, and no optimizer is attached that would train it",
                hint="build one with handle.optimizer(cls, …), or handle.attach(optimizer)",
            )
        plan = self._plan
        plan.check_present(f"begin phase {phase.name!r}")
        check_optimizers(plan.backend, plan.model, plan.phases.groups(), [self.link.optimizer])

    def _measured(self, entered: list[int]) -> dict[int, tuple[str, ...]]:
        """Return what is frozen by measurement so far, the phases that begin now included."""
        phases = self._plan.phases
        measured = dict(phases.measured)
        for number in entered:
            wanted = phases.phases[number].freeze_smallest
            if wanted is not None:
                both = phases.resolution, phases.resolutions[number]
                measured[number] = smallest(
                    self._plan.backend, self._plan.model, both, wanted, phases.sums
                )
        return measured

    def _clear_moments(self, before: Resolution, now: Resolution) -> None:
        """Clear the optimizer's moments of what the new phase freezes, if the plan says so."""
        if self._plan.phases.plan.moments == "clear" and self.link.optimizer is not None:
            paths = set(before.trainable_paths) & set(now.frozen_paths)
            live = self._plan.backend.objects(self._plan.model)
            self._plan.backend.clear_moments(
                self.link.optimizer, [live[path] for path in sorted(paths)]
            )

    def _note(
        self, epoch: int | None, step: int | None, metrics: Mapping[str, float] | None
    ) -> None:
        """Note in the history how much trains from here on."""
        trainable, total = self._plan.resolution.counts()
        name = self._plan.phases.schedule.current.name
        self.history.note(
            trainable=trainable, total=total, epoch=epoch, step=step, phase=name, metrics=metrics
        )
