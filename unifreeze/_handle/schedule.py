"""The schedule of a run: counts epochs, steps and reports of a metric, and says which phase holds.

It knows no model and no framework, so that both frameworks, and a resumed run, enter the same
phases at the same steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from numbers import Integral
from typing import Any, ClassVar

from unifreeze._handle.state_schema import ScheduleState, WatchState, read_state
from unifreeze._plan import After, At, Phase, When
from unifreeze.errors import ScheduleError, brief, counted

UNTOLD = "the schedule was never told of an epoch or step"
"""The text for a run whose later phases wait, and for which `handle.step` was never called."""
PATIENCE = 4
"""Grace: epochs a metric may be missing before the first report, on top of `reports`."""


@dataclass
class MetricWatch:
    """What a metric has done since the current phase began.

    Attributes:
        best: The best report so far.
        last: The last report.
        since_best: Reports since then that were not better.
        rising: Reports in a row that were worse than the one before.
        missed: Epochs that began without any report so far.
        best_at: Epoch and step of the best report.
    """

    best: float | None = None
    last: float | None = None
    since_best: int = 0
    rising: int = 0
    missed: int = 0
    best_at: tuple[int, int] | None = None

    def report(self, value: float, entry: When, place: tuple[int, int]) -> None:
        """Count one report of the metric, which was made at an epoch and step."""
        sign = 1.0 if entry.mode == "min" else -1.0
        worse_than_last = self.last is not None and sign * (value - self.last) > entry.min_delta
        self.rising = self.rising + 1 if worse_than_last else 0
        if self.best is None or sign * (self.best - value) > entry.min_delta:
            self.best, self.since_best, self.best_at = value, 0, place
        else:
            self.since_best += 1
        self.last = value

    def is_due(self, entry: When) -> bool:
        """Return whether the metric has turned."""
        return (self.since_best if entry.turn == "stalled" else self.rising) >= entry.reports


@dataclass
class Schedule:
    """The place of a run in its phases.

    Attributes:
        phases: The phases.
        phase: Number of the current one.
        epoch: The last epoch that began; -1 before the first.
        step: The last step that began; -1 before the first, or where steps are not counted.
        entered: Epoch and step at which the current phase began.
        reported: Epoch and step of the last report of a metric.
        watch: What the metric that the next phase waits for has done.
        left: Where the phase before had its best report; None without one.
    """

    steers: ClassVar[bool] = True
    """Phases set rates, so that the optimizer has to ask for them at each step."""
    opening: ClassVar[Sequence[int]] = (0,)
    """Numbers of the phases that are in force from the start."""

    phases: Sequence[Phase]
    phase: int = 0
    epoch: int = -1
    step: int = -1
    entered: tuple[int, int] = (0, 0)
    reported: tuple[int, int] | None = None
    watch: MetricWatch = field(default_factory=MetricWatch)
    left: tuple[int, int] | None = None

    def copy(self) -> Schedule:
        """Return an independent schedule at the same place."""
        return replace(self, watch=replace(self.watch))

    @property
    def current(self) -> Phase:
        """The phase that the run is in."""
        return self.phases[self.phase]

    @property
    def named_phase(self) -> Phase | None:
        """The current phase as users see it; None for a plan without phases."""
        return self.current

    @property
    def told(self) -> bool:
        """True once an epoch or step has begun."""
        return self.epoch >= 0 or self.step >= 0

    @property
    def waits(self) -> bool:
        """True if later phases wait to begin, and no epoch or step has begun."""
        return len(self.phases) > 1 and not self.told

    def advance(
        self, epoch: int | None, step: int | None, metrics: Mapping[str, float] | None
    ) -> list[int]:
        """Go on to an epoch or step, and return the numbers of the phases that begin there.

        Args:
            epoch: The epoch that is about to begin, counted from 0.
            step: The step that is about to begin, counted from 0 over the whole run.
            metrics: What was measured since the last call.

        Raises:
            ScheduleError: Time goes back, a metric is missing or not a number, or the unit that the
                next phase is counted in is not given.
        """
        before = self.epoch
        self._go_on(epoch, step)
        self._watch(metrics, new_epoch=self.epoch > before)
        entered = []
        while self._next_is_due():
            self.phase += 1
            self.left = self.watch.best_at
            self.entered, self.watch = self._now(step), MetricWatch()
            self.reported = (self.epoch, self.step)  # earlier reports do not count for the next
            entered.append(self.phase)
        return entered

    def _now(self, step: int | None) -> tuple[int, int]:
        """Return the epoch and step about to begin; an epoch alone is told before its steps."""
        return max(self.epoch, 0), self.step + 1 if step is None else int(step)

    def _go_on(self, epoch: int | None, step: int | None) -> None:
        if epoch is None and step is None:
            raise ScheduleError(
                "step() needs the epoch or the step that is about to begin",
                hint="handle.step(epoch=epoch) before the first batch of each epoch, from 0 on",
            )
        for unit, given, last in (("epoch", epoch, self.epoch), ("step", step, self.step)):
            if given is None:
                continue
            if isinstance(given, bool) or not isinstance(given, Integral) or given < 0:
                raise ScheduleError(f"{unit} is a whole number from 0 on, not {brief(given)}")
            if given < last:
                raise ScheduleError(
                    f"{unit} {given} after {unit} {last}: a schedule never goes back",
                    hint="to train anew, apply the plan anew",
                )
        self.epoch = self.epoch if epoch is None else int(epoch)
        self.step = self.step if step is None else int(step)

    def _next(self) -> Phase | None:
        return self.phases[self.phase + 1] if self.phase + 1 < len(self.phases) else None

    def _watch(self, metrics: Mapping[str, float] | None, *, new_epoch: bool) -> None:
        """Count a report of the metric that the next phase waits for, once at each place."""
        following = self._next()
        if following is None or not isinstance(following.entry, When):
            return
        entry = following.entry
        waits = f"phase {following.name!r} waits for {entry.metric}"
        place = (self.epoch, self.step)
        if not metrics:
            self.watch.missed += new_epoch and self.watch.last is None
            if self.watch.missed > entry.reports + PATIENCE:
                raise ScheduleError(
                    f"{waits}, and {counted(self.watch.missed, 'epoch')} began without it",
                    hint=f'give it: handle.step(epoch=…, metrics={{"{entry.metric}": …}})',
                )
            return
        if entry.metric not in metrics:
            raise ScheduleError(f"{waits}, and it is not among {', '.join(sorted(metrics))}")
        value = float(metrics[entry.metric])
        if not isfinite(value):
            raise ScheduleError(f"{waits}, and it is {value} (epoch {self.epoch})")
        if place != self.reported:
            self.reported = place
            self.watch.report(value, entry, place)

    def _next_is_due(self) -> bool:
        following = self._next()
        if following is None:
            return False
        match following.entry:
            case At(unit, count):
                return self._count(following, unit) >= count
            case After(unit, count):
                start = self.entered[0 if unit == "epoch" else 1]
                return self._count(following, unit) >= start + count
            case When():
                return self.watch.is_due(following.entry)
        return False

    def _count(self, following: Phase, unit: str) -> int:
        """Return the epoch or step that began last."""
        counts = {"epoch": self.epoch, "step": self.step}
        if counts[unit] < 0:
            counted_unit = "step" if unit == "epoch" else "epoch"
            if counts[counted_unit] > 0:
                raise ScheduleError(
                    f"phase {following.name!r} begins {following.entry}; "
                    f"only {counted_unit}s are given",
                    hint=f"handle.step({unit}=…)",
                )
        return counts[unit]

    def state(self) -> dict[str, Any]:
        """Return the place as plain data."""
        watch = {**vars(self.watch), "best_at": _plain(self.watch.best_at)}
        return ScheduleState(
            phase=self.phase,
            epoch=self.epoch,
            step=self.step,
            entered=list(self.entered),
            reported=_plain(self.reported),
            watch=WatchState(**watch),
        ).plain()

    def restored(self, state: Mapping[str, Any]) -> Schedule:
        """Return a schedule of the same phases at the place that `state` returned.

        Raises:
            ScheduleError: It is not such a state.
        """
        read = read_state(ScheduleState, state, "schedule")
        schedule = Schedule(
            self.phases,
            read.phase,
            read.epoch,
            read.step,
            (read.entered[0], read.entered[1]),
            _place(read.reported),
            MetricWatch(**{**vars(read.watch), "best_at": _place(read.watch.best_at)}),
        )
        number, count = schedule.phase, len(self.phases)
        if not 0 <= number < count:
            raise ScheduleError(f"there is no phase {number}: the plan has {count}")
        return schedule

    def saved(self, counts: Mapping[str, Any]) -> dict[str, Any]:
        """Return the entries of a run's state that say where the run stands.

        Args:
            counts: What else is counted in the current phase, as plain data.
        """
        return {"schedule": self.state(), **counts}

    def read(self, state: Mapping[str, Any]) -> tuple[Schedule, Mapping[str, Any]]:
        """Return the schedule in a run's state, and what else was counted.

        Raises:
            KeyError: The state lacks it.
            ScheduleError: It is not the state of a schedule.
        """
        return self.restored(state["schedule"]), state

    def check_kind(self, state: Mapping[str, Any]) -> None:
        """Refuse the state of a run without phases.

        Raises:
            ScheduleError: It is one.
        """
        if state["phase"] is None:
            raise ScheduleError("the state is of a plan without phases, and this one has some")


def _plain(place: tuple[int, int] | None) -> list[int] | None:
    return None if place is None else list(place)


def _place(plain: list[int] | None) -> tuple[int, int] | None:
    return None if plain is None else (plain[0], plain[1])
