"""One training run under a plan, as the callback of a trainer follows it.

The handle decides everything; this module has what the callbacks of all trainers share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from unifreeze._handle.handle import Handle
from unifreeze._handle.history.history import numbers
from unifreeze._handle.trainer_cache import CacheSettings, TrainerCache, loop_around
from unifreeze._handle.verify_last import LastLook, take_out
from unifreeze._plan import FreezePlan
from unifreeze._plan.phases import When
from unifreeze._protocol.batches import Batch
from unifreeze._protocol.live import LiveOptimizer, Model
from unifreeze._whole_files import writing_hint
from unifreeze.errors import OptimizerError, ScheduleError

PLAN_FILE, BEST_FOLDER = "freeze_plan.yaml", "freeze_best"
"""Names in the folder of a run: the plan's file, and the folder of best values."""


class TrainerRun:
    """A training run under a plan; what differs between frameworks is added by derived classes.

    Attributes:
        plan: The plan as it was given.
        handle: The plan in force; None before the trainer has a model.
        metrics: What was measured and the plan has not been told yet, by name.
        best_folder: Where best values are kept; "" before they are, and where a handle was given.
        last_look: Verifies when training ends, and again after all other callbacks.
        cache: The cached block of the run.
        unlogged: A phase has begun that the trainer's logger was not told of.
        log: Gives a dictionary to the trainer's logger.
    """

    def __init__(
        self,
        plan: FreezePlan | Handle,
        *,
        batch: Any,
        keep_values: bool,
        cache: CacheSettings | None = None,
    ) -> None:
        self.applies = not isinstance(plan, Handle)
        self.handle = plan if isinstance(plan, Handle) else None
        self.plan = plan.plan if isinstance(plan, Handle) else plan
        self.metrics: dict[str, float] = {}
        self.best_folder = ""
        self.last_look = LastLook()
        self.cache = TrainerCache(cache)
        self.unlogged = False
        self.log: Callable[[dict[str, float]], object] = _log_nothing
        self._stop_logging: Callable[[], None] = _log_nothing
        self._batch = None if batch is None else Batch.of(batch)
        self._keep_values = keep_values

    @property
    def in_force(self) -> Handle:
        """The handle of a run that has a model."""
        if self.handle is None:
            raise ScheduleError("the trainer has no model yet, so no plan is in force")
        return self.handle

    def apply_to(self, model: Model) -> None:
        """Put the plan in force on the trainer's model; a handle that was given is in force."""
        if self.applies:
            self.handle = self.plan.apply(model, batch=self._batch, keep_values=self._keep_values)

    def attach(self, optimizers: Sequence[LiveOptimizer]) -> None:
        """Let the plan's phases steer the trainer's optimizer.

        Raises:
            OptimizerError: There are several, or they would not do what the plan says.
        """
        if self.in_force.phase is not None:
            if len(optimizers) != 1:
                raise OptimizerError(
                    f"{len(optimizers)} optimizers train, and phases steer one",
                    hint="put all parameters into one optimizer, or write the loop yourself",
                )
            self.in_force.attach(optimizers[0])
        self.unlogged = self.in_force.phase is not None
        self.in_force.check_optimizer(*optimizers)

    def awaited(self) -> set[str]:
        """Return the names of the metrics that phases wait for."""
        entries = [phase.entry for phase in self.in_force.plan.phases]
        return {entry.metric for entry in entries if isinstance(entry, When)}

    def take(self, metrics: Mapping[str, float]) -> None:
        """Keep what was measured until the plan is told of the next epoch or step.

        Raises:
            ScheduleError: A metric is not a number.
        """
        self.metrics |= numbers(metrics)

    def go_on(self, epoch: int, step: int) -> bool:
        """Tell the plan which epoch and step begin next; return whether a phase began."""
        began = self.in_force.step(epoch=epoch, step=step, metrics=self.metrics or None)
        self.unlogged = self.unlogged or began
        return began

    def scalars(self) -> dict[str, float]:
        """Return what the trainer's logger is told now; nothing once the plan is gone."""
        self.unlogged = False
        return self.in_force.scalars() if self.in_force._in_force.lasts else {}

    def log_with_trainer(self, callback: object) -> None:
        """Add the scalars to whatever a trainer logs of its training, until the run ends.

        Args:
            callback: The callback that the trainer is just calling. The trainer's method `log`
                takes a dictionary, which holds `loss` if it is of training.
        """
        self._stop_logging()
        trainer = loop_around(callback)[0]
        before = vars(trainer).get("log") if trainer is not None else None
        log = getattr(trainer, "log", None)
        log = getattr(log, "of_trainer", log)  # a run that failed has left its stand-in
        if log is None:
            return

        @wraps(log)
        def log_scalars_too(logs: dict[str, float], *args: Any, **options: Any) -> Any:
            if "loss" in logs:
                logs.update(self.scalars())
            return log(logs, *args, **options)

        def stop_logging() -> None:
            if vars(trainer).get("log") is log_scalars_too:
                del trainer.log
                if before is not None:
                    trainer.log = log
            self.log, self._stop_logging = _log_nothing, _log_nothing

        log_scalars_too.of_trainer = log  # type: ignore[attr-defined]
        trainer.log, self.log, self._stop_logging = log_scalars_too, log, stop_logging

    def log_phase(self) -> None:
        """Have the trainer log the scalars if a phase has begun that its logger was not told of."""
        if self.unlogged:
            self.log(self.scalars())

    def end(self, *, verify: bool = True) -> None:
        """Verify as training ends; without `verify`, accept the values that the model has now."""
        self.cache.leave()
        self._stop_logging()
        self.last_look.expect(self.in_force, verify=verify)

    def keep_in(self, folder: str | Path, *, saves: bool = True) -> None:
        """Save the plan and the best values in a folder; with a handle given, only the plan.

        Args:
            folder: The folder; it is made.
            saves: True in the process that saves, False in others that train with it.

        Raises:
            ScheduleError: The folder cannot be made.
        """
        if saves:
            try:
                Path(folder).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ScheduleError(
                    f"cannot keep the plan in {folder}: {error.strerror or error}",
                    hint=writing_hint(error),
                ) from None
            self.in_force.plan.save(Path(folder) / PLAN_FILE)
        if not self.best_folder:
            self.keep_best(Path(folder) / BEST_FOLDER)

    def keep_best(self, folder: str | Path) -> None:
        """Keep the best values in a folder; a given handle keeps its own folder."""
        if self.applies:
            self.in_force.keep_best(folder)
            self.best_folder = str(folder)

    def call_last(self, callbacks: list[Any], last_callback: type[LastCallback]) -> None:
        """Add a callback behind all others of a trainer.

        Args:
            callbacks: The list that the trainer goes through.
            last_callback: Class of the callback to add, which is one of that trainer's callbacks.
        """
        callbacks.append(last_callback(self.last_look, callbacks))


class LastCallback:
    """Stands behind all other callbacks for one run, and sees what they write as it ends.

    The adapter of a trainer names `take_last_look` after the hook that its trainer calls last.
    """

    def __init__(self, look: LastLook, callbacks: list[Any]) -> None:
        super().__init__()
        self._look, self._callbacks = look, callbacks

    def take_last_look(self, *_args: Any, **_objects: Any) -> None:
        """Verify what is frozen for the last time, and leave the list of callbacks."""
        take_out(self._callbacks, self)
        self._look.take()


def _log_nothing(*_: object) -> None:
    """Stand for the log of a trainer that has none."""
