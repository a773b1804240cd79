"""A training run in a trainer of PyTorch, which optimizes whatever requires a gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from unifreeze import FreezePlan
from unifreeze.backend import Handle, LastLook, TrainerRun
from unifreeze.errors import ScheduleError
from unifreeze_torch import _exchange as exchange
from unifreeze_torch import backend


class TorchTrainerRun(TrainerRun):
    """A run whose parameters require a gradient until the trainer has built its optimizer."""

    def __init__(self, plan: FreezePlan | Handle, *, batch: Any, keep_values: bool) -> None:
        super().__init__(plan, batch=batch, keep_values=keep_values)
        self._model: nn.Module | None = None
        self._start: dict[str, Any] = {}
        self._thawed: list[nn.Parameter] = []
        self._begun = self._unreported = False

    def prepare(self, model: nn.Module) -> None:
        """Put the plan in force on the trainer's model, and make everything ready for an optimizer.

        Until the run begins, whatever any phase trains requires a gradient: trainers and users
        build optimizers from the parameters that do.
        """
        if self._model is not model:
            self.apply_to(model)
            self._model, self._start = model, self.in_force.state_dict()
            self._thawed, self._begun = [], False
        if self.in_force.phase is None:
            return
        live = backend.objects(self.in_force.model)
        for group in self.in_force.groups():
            for path in group.paths:
                if not backend.get_flag(live[path]):
                    backend.set_flag(live[path], trainable=True)
                    self._thawed.append(live[path])

    def narrow(self) -> None:
        """Restore the flags that `prepare` changed."""
        for parameter in self._thawed:
            backend.set_flag(parameter, trainable=False)
            parameter.grad = None
        exchange.rebuild(self._thawed)
        self._thawed = []

    def begin(
        self, optimizers: Sequence[Any], saved: Mapping[str, Any] | None, *, resumed: bool
    ) -> None:
        """Begin to train, with the weights that the model has now.

        Args:
            optimizers: The trainer's.
            saved: What `state` returned for the checkpoint that was loaded; None without one.
            resumed: The optimizer has made steps before.

        Raises:
            ScheduleError: The checkpoint does not hold the state of the plan's phases, or it is of
                another plan.
            OptimizerError: The optimizer would not do what the plan says.
            UnsupportedPlanError: The trainer has changed the model in a way that breaks the plan.
        """
        handle = self.in_force
        self.narrow()
        handle.reapply()
        state = saved["handle"] if saved else {}
        if resumed and not self._begun and handle.phase is not None and "schedule" not in state:
            raise ScheduleError(
                "training goes on from a checkpoint that says nothing of the plan's phases",
                hint="checkpoints have it if they are written with FreezeCallback in the trainer",
            )
        if state:
            handle.load_state_dict(state)
        elif resumed or saved:
            handle.rebase()
        else:
            handle.load_state_dict(self._start)
            self.metrics = {}
        if saved:
            self.report(saved["metrics"])
        self.last_look, self.best_folder = LastLook(), ""
        # Accelerate's optimizer stands around the one that makes the steps.
        self.attach([getattr(optimizer, "optimizer", optimizer) for optimizer in optimizers])
        self._begun = True

    def report(self, metrics: Mapping[str, float]) -> None:
        """Keep what was measured until the plan is told of the next epoch or step."""
        self.metrics |= metrics
        self._unreported = bool(self.metrics)

    def go_on(self, epoch: int, step: int) -> bool:
        """Tell the plan which epoch and step begin next; return whether a phase began."""
        began = super().go_on(epoch, step)
        self._unreported = False
        return began

    def end(self, *, verify: bool = True) -> None:
        """Give the history what was measured after the last step, and verify; see `TrainerRun`."""
        if self._unreported:
            self.in_force.report(self.metrics)
        super().end(verify=verify)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold: plain data."""
        state = {} if self.handle is None else self.handle.state_dict()
        return {"handle": state, "metrics": dict(self.metrics)}
