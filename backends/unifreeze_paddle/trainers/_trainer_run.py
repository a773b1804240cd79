"""One training run under a plan, as a trainer's callback follows it: counted, reported, saved.

What is decided, the handle decides; here is only what all trainers need around it.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from unifreeze import FreezePlan
from unifreeze.backend import Batch, Handle, LastLook, When
from unifreeze.errors import ScheduleError, counted
from unifreeze_paddle import _phase_rates as steering
from unifreeze_paddle.trainers._run_state import RunState

PLAN_FILE = "freeze_plan.yaml"
"""What the plan is saved as, beside the run."""
BEST_FOLDER = "freeze_best"
"""Where the best values are kept, beside the run, for phases that begin from them."""


class TrainerRun:
    """A run in progress.

    Attributes:
        handle: The plan in force; None before the run begins.
        epoch: The epoch that begins next, or that is under way.
        step: The step of the optimizer that begins next, counted over the whole run.
        waiting: The evaluation after an epoch that has ended may still be to come.
        last: What verifies when all has ended.
    """

    def __init__(self, plan: FreezePlan | Handle, *, batch: Any, keep_values: bool) -> None:
        self.handle = plan if isinstance(plan, Handle) else None
        self.plan = plan.plan if isinstance(plan, Handle) else plan
        self.epoch = self.step = 0
        self.waiting = False
        self.last = LastLook()
        self._given, self._start = self.handle, self.handle.state_dict() if self.handle else {}
        self._batch = None if batch is None else Batch.of(batch)
        self._keep_values = keep_values
        self._reports: dict[str, float] = {}
        self._best = ""
        self._files: set[Path] = set()
        """What has been saved since the last step: an evaluation that follows belongs to it."""

    def begin(self, model: Any, optimizer: Any, state: RunState | None = None) -> None:
        """Put the plan in force, go on from a saved state, steer the optimizer.

        Args:
            model: The model, with the weights that the run begins with.
            optimizer: The trainer's optimizer.
            state: What was saved with those weights; None for a run from the start.
        """
        if self._given is None:
            _refuse_processes()
            self.handle = self.plan.apply(model, batch=self._batch, keep_values=self._keep_values)
        else:
            self._given.reapply()  # what the trainer has turned on since is checked again
            self._given.load_state_dict(self._start)
        self.epoch, self.step, self._reports, self._best = 0, 0, {}, ""
        if state is not None:
            self._go_on_from(state)
        self.attach(optimizer)
        if self.stops():
            raise ScheduleError(
                f"the schedule has ended, after {counted(self.epoch, 'epoch')} and "
                f"{counted(self.step, 'step')}",
                hint="there is nothing left to train; a run from the start needs no checkpoint",
            )

    def _go_on_from(self, state: RunState) -> None:
        phases = self.in_force.plan.phases
        if state.waiting and any(isinstance(phase.entry, When) for phase in phases):
            raise ScheduleError(
                f"the checkpoint was saved before what epoch {state.epoch - 1} came to was measured"
                ", and a phase waits for a metric",
                hint="resume an earlier checkpoint",
            )
        self.in_force.rebase()
        if state.handle:
            self.in_force.load_state_dict(state.handle)
        self.epoch, self.step, self._reports = state.epoch, state.step, dict(state.reports)
        self._keep_best(state.best)

    @property
    def in_force(self) -> Handle:
        """The handle of a run that has begun."""
        if self.handle is None:
            raise ScheduleError("the run has not begun, so no plan is in force")
        return self.handle

    def attach(self, optimizer: Any) -> None:
        """Let the plan steer the trainer's optimizer.

        Raises:
            OptimizerError: It lacks something that the plan trains, or would not do what it says.
        """
        handle = self.in_force
        if handle.phase is None:
            handle.check_optimizer(optimizer)
        else:
            handle.attach(optimizer)

    def report(self, metrics: Mapping[str, Any]) -> None:
        """Take in what was measured, under its own name and with `eval_` and `val_` before it."""
        for name, value in metrics.items():
            number = _number(value)
            if number is not None:
                bare = name.removeprefix("eval_").removeprefix("val_")
                names = (name, bare, f"eval_{bare}", f"val_{bare}")
                self._reports |= dict.fromkeys(names, number)
        self._write()

    def advance(self, epoch: int, step: int) -> None:
        """Go on to an epoch and step that are about to begin, with what was measured since."""
        self._settle()
        self.epoch, self.step = epoch, step
        self.in_force.step(epoch=epoch, step=step, metrics=self._reports or None)
        self._reports = {}

    def end_epoch(self) -> None:
        """Count an epoch that has ended; an evaluation may follow."""
        self.epoch, self.waiting = self.epoch + 1, True
        self._write()

    def stops(self) -> bool:
        """Tell whether the schedule ends the training before the next epoch or step.

        Trainers look whether to stop when a step or an epoch has ended, not when one begins.
        """
        try:
            return self.in_force.would_stop(epoch=self.epoch, step=self.step, metrics=self._reports)
        except ScheduleError:  # told where it counts: when the epoch or step begins
            return False

    def end(self, *, verify: bool) -> None:
        """End the run: the schedule hears that it stopped; verify, or accept the values."""
        self._settle()
        if self.stops():
            self.advance(self.epoch, self.step)
        self.last.expect(self.in_force, verify=verify)

    def keep_in(self, folder: Path) -> None:
        """Keep beside the run what belongs there; who gives a handle has said where already."""
        folder.mkdir(parents=True, exist_ok=True)
        self.in_force.plan.save(folder / PLAN_FILE)
        if not self._best:
            self._keep_best(str(folder / BEST_FOLDER))

    def _keep_best(self, folder: str) -> None:
        if folder and self._given is None:
            self.in_force.keep_best(folder)
            self._best = folder

    def save(self, file: Path) -> None:
        """Write where the run stands beside a checkpoint; what is measured next is added to it."""
        self._files.add(file)
        self._write()

    def _write(self) -> None:
        if not self._files:
            return
        state = RunState(
            handle=self.in_force.state_dict(),
            epoch=self.epoch,
            step=self.step,
            reports=self._reports,
            waiting=self.waiting,
            best=self._best,
        )
        for file in self._files:
            state.save_beside(file)

    def _settle(self) -> None:
        """Nothing more will be measured here."""
        self.waiting = False
        self._write()
        self._files.clear()


def is_grouped(optimizer: Any) -> bool:
    """Tell whether an optimizer has param groups."""
    rows = getattr(optimizer, "_parameter_list", None)
    return rows is not None and len(rows) > 0 and isinstance(rows[0], dict)


def _number(value: Any) -> float | None:
    """Return a measured value as a number; of several, as of accuracy at 1 and 5, the first."""
    while isinstance(value, list | tuple) and value:
        value = value[0]
    if isinstance(value, np.ndarray) and value.size:
        value = value.reshape(-1)[0]
    plain = isinstance(value, Real | np.number) and not isinstance(value, bool)
    return float(value) if plain else None


def _refuse_processes() -> None:
    """Refuse to change flags of a model that the trainer has already wrapped."""
    if (count := steering.processes()) > 1:
        raise ScheduleError(
            f"{count} processes train together, and the trainer wraps the model before any "
            "callback; gradients of what is thawed then would never be exchanged",
            hint="handle = plan.apply(model) before the trainer is made, FreezeCallback(handle)",
        )
