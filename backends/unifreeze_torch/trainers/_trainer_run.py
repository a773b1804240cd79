"""One training run under a plan, as a trainer's callback follows it: prepared, begun, saved.

What is decided, the handle decides; here is only what the trainers need around it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unifreeze import FreezePlan
from unifreeze.backend import Batch, Handle, LastLook, ParamGroup, When
from unifreeze.errors import OptimizerError, ScheduleError
from unifreeze_torch import backend

PLAN_FILE, BEST_FOLDER = "freeze_plan.yaml", "freeze_best"
"""What is kept beside the run: the plan, and the best values of phases that others begin from."""


class TrainerRun:
    """A run under a plan.

    Attributes:
        handle: The plan in force; None before the trainer has a model.
        metrics: What was measured since the last step, by name.
        last: What verifies when all has ended.
    """

    def __init__(self, plan: FreezePlan | Handle, *, batch: Any, keep_values: bool) -> None:
        self.handle = plan if isinstance(plan, Handle) else None
        self.metrics: dict[str, float] = {}
        self.last = LastLook()
        self._plan, self._keep_values = plan, keep_values
        self._batch = None if batch is None else Batch.of(batch)
        self._model: Any = None
        self._start: dict[str, Any] = {}
        self._thawed: list[Any] = []
        self._begun = self._unheard = False

    @property
    def in_force(self) -> Handle:
        """The handle of a run that has a model."""
        if self.handle is None:
            raise ScheduleError("the trainer has no model yet, so no plan is in force")
        return self.handle

    def prepare(self, model: Any) -> None:
        """Put the plan in force on the trainer's model, and make everything ready for an optimizer.

        Until the run begins, whatever any phase trains requires a gradient: trainers and users
        build optimizers from the parameters that do.
        """
        if self._model is not model:
            if isinstance(self._plan, FreezePlan):
                batch, keep = self._batch, self._keep_values
                self.handle = self._plan.apply(model, batch=batch, keep_values=keep)
            self._model, self._start = model, self.in_force.state_dict()
            self._thawed, self._begun = [], False
        if self.in_force.phase is None or backend.processes() > 1:
            return  # what exchanges gradients between processes counts on the flags it finds
        live = backend.objects(self.in_force.model)
        for path in _paths(self.in_force.groups()):
            if not live[path].requires_grad:
                backend.set_flag(live[path], True)
                self._thawed.append(live[path])

    def narrow(self) -> None:
        """End what `prepare` has made of the flags."""
        while self._thawed:
            tensor = self._thawed.pop()
            tensor.requires_grad, tensor.grad = False, None

    def begin(
        self, optimizers: Sequence[Any], saved: Mapping[str, Any] | None, *, resumed: bool
    ) -> None:
        """Begin to train, with the weights that the model has now.

        Args:
            optimizers: The trainer's.
            saved: What `state` returned for the checkpoint that was loaded; None without one.
            resumed: Steps have been made before.

        Raises:
            ScheduleError: The checkpoint knows nothing of the plan's phases, or is another plan's.
            OptimizerError: The optimizer would not do what the plan says.
            UnsupportedPlanError: The trainer has made something of the model that breaks the plan.
        """
        handle = self.in_force
        self.narrow()
        handle.reapply()
        said = saved["handle"] if saved else {}
        if resumed and not self._begun and handle.phase is not None and "schedule" not in said:
            raise ScheduleError(
                "training goes on from a checkpoint that says nothing of the plan's phases",
                hint="checkpoints have it if they are written with FreezeCallback in the trainer",
            )
        if said:
            handle.load_state_dict(said)
        elif resumed or saved:
            handle.rebase()
        else:
            handle.load_state_dict(self._start)
            self.metrics = {}
        if saved:
            self.report(saved["metrics"])
        self.last = LastLook()
        self._attach([getattr(one, "optimizer", one) for one in optimizers])
        self._begun = True

    def _attach(self, optimizers: list[Any]) -> None:
        """Let the plan steer the trainer's optimizer; accelerate's own is around the real one."""
        if self.in_force.phase is not None:
            if len(optimizers) != 1:
                raise OptimizerError(
                    f"{len(optimizers)} optimizers train, and phases steer one",
                    hint="put all parameters into one optimizer, or write the loop yourself",
                )
            self.in_force.attach(optimizers[0])
        self.in_force.check_optimizer(*optimizers)

    def report(self, metrics: Mapping[str, float]) -> None:
        """Take in what was measured; the handle hears of it when it goes on."""
        self.metrics |= metrics
        self._unheard = bool(self.metrics)

    def go_on(self, epoch: int, step: int) -> bool:
        """Tell the handle which epoch and step begin next; return whether a phase began."""
        began = self.in_force.step(epoch=epoch, step=step, metrics=self.metrics or None)
        self._unheard = False
        return began

    def end(self, *, verify: bool = True) -> None:
        """Give the history what was measured after the last step; verify, or accept the values."""
        if self._unheard:
            self.in_force.report(self.metrics)
        self.last.expect(self.in_force, verify=verify)

    def awaited(self) -> set[str]:
        """Return names of the metrics that phases wait for."""
        entries = [phase.entry for phase in self.in_force.plan.phases]
        return {entry.metric for entry in entries if isinstance(entry, When)}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold: plain data."""
        state = {} if self.handle is None else self.handle.state_dict()
        return {"handle": state, "metrics": dict(self.metrics)}

    def keep_in(self, folder: str | Path, *, saves: bool) -> None:
        """Keep beside the run what belongs there, if it is this process that saves."""
        if isinstance(self._plan, FreezePlan):
            self.in_force.keep_best(Path(folder) / BEST_FOLDER)
        if saves:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.in_force.plan.save(Path(folder) / PLAN_FILE)


def _paths(groups: Sequence[ParamGroup]) -> list[str]:
    return [path for group in groups for path in group.paths]
