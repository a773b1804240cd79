"""A training run in a trainer of Paddle, whose state is saved in files beside the checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from paddle import nn
from paddle.optimizer import Optimizer

from unifreeze import FreezePlan
from unifreeze.backend import CacheSettings, Handle, TrainerRun
from unifreeze.errors import ScheduleError, counted
from unifreeze_paddle.trainers._run_state import RunState


class PaddleTrainerRun(TrainerRun):
    """A run that counts its epochs and steps, and writes into files how far it has come.

    Attributes:
        epoch: The epoch that begins next, or that is under way.
        step: The step of the optimizer that begins next, counted over the whole run.
        waiting: The evaluation after an epoch that has ended may still be to come.
    """

    def __init__(
        self,
        plan: FreezePlan | Handle,
        *,
        batch: Any,
        keep_values: bool,
        cache: CacheSettings | None = None,
    ) -> None:
        super().__init__(plan, batch=batch, keep_values=keep_values, cache=cache)
        self.epoch = self.step = 0
        self.waiting = False
        self._start = self.handle.state_dict() if self.handle else {}
        self._files: set[Path] = set()
        """What was saved since the last step: what an evaluation measures now is added to it."""

    def begin(self, model: nn.Layer, optimizer: Optimizer, state: RunState | None = None) -> None:
        """Put the plan in force, go on from a saved state, steer the optimizer.

        Args:
            model: The model, with the weights that the run begins with.
            optimizer: The trainer's optimizer.
            state: What was saved with those weights; None for a run from the start.

        Raises:
            ScheduleError: The schedule has ended already, or the state is not one to go on from.
            OptimizerError: The optimizer would not do what the plan says.
        """
        if self.applies:
            self.apply_to(model)
        else:
            self.in_force.reapply()  # what the trainer has turned on since is checked again
            self.in_force.load_state_dict(self._start)
        self.epoch, self.step, self.metrics, self.best_folder = 0, 0, {}, ""
        if state is not None:
            self._go_on_from(state)
        self.attach([optimizer])
        if self.stops():
            raise ScheduleError(
                f"the schedule has ended, after {counted(self.epoch, 'epoch')} and "
                f"{counted(self.step, 'step')}",
                hint="there is nothing left to train; a run from the start needs no checkpoint",
            )

    def _go_on_from(self, state: RunState) -> None:
        if state.waiting and self.awaited():
            raise ScheduleError(
                f"the checkpoint was saved before the evaluation of epoch {state.epoch - 1}, and a "
                "phase waits for a metric",
                hint="resume an earlier checkpoint",
            )
        self.in_force.rebase()
        if state.handle:
            self.in_force.load_state_dict(state.handle)
        self.epoch, self.step, self.metrics = state.epoch, state.step, dict(state.reports)
        if state.best:
            self.keep_best(state.best)

    def report(self, metrics: Mapping[str, Any]) -> None:
        """Keep what was measured, under its own name and with `eval_` and `val_` before it."""
        for name, value in metrics.items():
            number = _number(value)
            if number is not None:
                bare = name.removeprefix("eval_").removeprefix("val_")
                names = (name, bare, f"eval_{bare}", f"val_{bare}")
                self.metrics |= dict.fromkeys(names, number)
        self._write()

    def go_on(self, epoch: int, step: int) -> bool:
        """Tell the plan which epoch and step begin next; return whether a phase began."""
        self._close_files()
        self.epoch, self.step = epoch, step
        began = super().go_on(epoch, step)
        self.metrics = {}
        return began

    def end_epoch(self) -> None:
        """Count an epoch that has ended; an evaluation may follow."""
        self.epoch, self.waiting = self.epoch + 1, True
        self._write()

    def stops(self) -> bool:
        """Return whether the schedule ends the training before the next epoch or step.

        Trainers look whether to stop when a step or an epoch has ended, not when one begins.
        """
        try:
            return self.in_force.would_stop(epoch=self.epoch, step=self.step, metrics=self.metrics)
        except ScheduleError:  # `go_on` raises it again, once the epoch or step begins
            return False

    def end(self, *, verify: bool = True) -> None:
        """Tell the schedule if it ends the run here, and verify; see `TrainerRun`."""
        self._close_files()
        if self.stops():
            self.go_on(self.epoch, self.step)
        super().end(verify=verify)

    def save(self, file: Path) -> None:
        """Write into a file how far the run has come, and again with what is measured next."""
        self._files.add(file)
        self._write()

    def _write(self) -> None:
        if not self._files:
            return
        state = RunState(
            handle=self.in_force.state_dict(),
            epoch=self.epoch,
            step=self.step,
            reports=self.metrics,
            waiting=self.waiting,
            best=self.best_folder,
        )
        for file in self._files:
            state.save_beside(file)

    def _close_files(self) -> None:
        """Write the files a last time: whatever is measured from here on is of a later step."""
        self.waiting = False
        self._write()
        self._files.clear()


def is_grouped(optimizer: Optimizer) -> bool:
    """Return whether an optimizer has param groups."""
    rows = getattr(optimizer, "_parameter_list", None)
    return rows is not None and len(rows) > 0 and isinstance(rows[0], dict)


def _number(value: Any) -> float | None:
    """Return a metric as a number: the first of several, as of top-1 and top-5 accuracy."""
    while isinstance(value, list | tuple) and value:
        value = value[0]
    if isinstance(value, np.ndarray) and value.size:
        value = value.reshape(-1)[0]
    plain = isinstance(value, Real | np.number) and not isinstance(value, bool)
    return float(value) if plain else None
