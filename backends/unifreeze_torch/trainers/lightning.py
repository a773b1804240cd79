"""A plan in the Trainer of Lightning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback

from unifreeze import FreezePlan
from unifreeze.backend import (
    CachedRun,
    CacheSettings,
    Handle,
    LastCallback,
    Undo,
    check_arguments,
)
from unifreeze.errors import ScheduleError
from unifreeze_torch import _guards as guards
from unifreeze_torch.trainers._trainer_run import TorchTrainerRun, saved_in


class FreezeCallback(Callback):  # type: ignore[misc]
    """Carries a plan out while `Trainer.fit` trains.

    The plan is applied to the LightningModule, so native paths begin with its attributes:
    `net.layer4`. While `configure_optimizers` runs, whatever any phase trains requires a gradient.
    The state goes into the checkpoints, the plan into the log folder as `freeze_plan.yaml`. After
    each validation what was logged is reported to the plan; without a validation, after each epoch.
    The trainer's loggers get the `scalars` of the handle where the trainer logs a step, and as a
    phase begins.

    Args:
        plan: The plan; or the handle of one already applied, when the optimizer was built from it.
        batch: One batch of inputs, see `unifreeze.apply`.
        keep_values: See `unifreeze.apply`.
        cache: A folder: what is frozen then runs once for each row of data, as in `Handle.cached`;
            or that method's arguments by name: `cache={"folder": "rows", "budget": "5GB"}`.

    For example `Trainer(callbacks=[FreezeCallback(plan)])`; whole runs are in
    `examples/trainers/`.
    """

    @check_arguments
    def __init__(
        self,
        plan: FreezePlan | Handle,
        *,
        batch: Any = None,
        keep_values: bool = False,
        cache: CacheSettings | None = None,
    ) -> None:
        self._run = TorchTrainerRun(plan, batch=batch, keep_values=keep_values, cache=cache)
        self._saved: dict[str, Any] | None = None
        self._put_modes_back: Undo = lambda: None
        self._unmeasured = False

    @property
    def handle(self) -> Handle | None:
        """The plan in force; None before the first fit."""
        return self._run.handle

    @property
    def cached_run(self) -> CachedRun | None:
        """The cached block of the run, to be printed; None without `cache`, or before training."""
        return self._run.cache.run

    def state_dict(self) -> dict[str, Any]:
        """Return what goes into a checkpoint."""
        return self._run.state(unmeasured=self._unmeasured)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep what a checkpoint says until training begins."""
        self._saved = state_dict

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Put the plan in force before optimizers are built; a model may come only after that."""
        if stage == "fit" and next(pl_module.parameters(), None) is not None:
            self._run.prepare(pl_module)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Restore the flags of the plan, now that the optimizers are built."""
        self._run.narrow()
        self._put_modes_back = guards.remember(pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin with the weights, optimizer and checkpoint that the trainer has loaded."""
        saved, self._saved = saved_in(self._saved), None
        self._run.prepare(pl_module)
        if saved and saved.unmeasured and self._run.awaited():
            raise ScheduleError(
                "the checkpoint was saved between an epoch's last batch and its validation, which "
                "is not made up for, and a phase waits for a metric",
                hint="resume another one; by default ModelCheckpoint saves after the validation",
            )
        self._run.begin(trainer.optimizers, saved, resumed=trainer.global_step > 0)
        self._run.call_last(trainer.callbacks, _Last)
        self._put_modes_back = guards.remember(pl_module)
        folder = trainer.log_dir or trainer.default_root_dir
        self._run.keep_in(folder, saves=trainer.is_global_zero and not trainer.fast_dev_run)
        trainer.should_stop = trainer.should_stop or self._run.in_force.stopped
        self._run.cache.enter(self._run.in_force)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Enter the phase that begins with the epoch, where a run goes on from a checkpoint."""
        self._go_on(trainer, pl_module, trainer.current_epoch)

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Enter the phase that begins with the next step of the optimizer."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._go_on(trainer, pl_module, trainer.current_epoch)
            if self._run.in_force.stopped:
                raise StopIteration  # what the trainer itself does where a module returns -1

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Go on to the next step here: the trainer stops after a batch, not before one."""
        self._unmeasured = trainer.is_last_batch and _validates(trainer)
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped and not trainer.is_last_batch and not trainer.should_stop:
            self._go_on(trainer, pl_module, trainer.current_epoch)
        if stepped or trainer.is_last_batch:
            self._log(trainer)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Report what was measured, after modes are put back.

        Lightning puts them back by setting `training`, past `train()`. So the guards of held
        modules would believe that the loop still asks for inference mode.
        """
        self._put_modes_back()
        self._unmeasured = False
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._report(trainer.callback_metrics)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Go on to the next epoch, unless somebody stops the trainer, which may have to go on."""
        self._unmeasured = False  # also if the last validation was before the last batch
        if not trainer.enable_validation:
            self._report(trainer.callback_metrics)
        if not trainer.should_stop:
            self._go_on(trainer, pl_module, trainer.current_epoch + 1)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave the cached block: rows are written, and the model is as it was."""
        self._run.cache.leave()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Verify what is frozen, a first time."""
        self._run.end()

    def _log(self, trainer: Any) -> None:
        """Give the scalars to the trainer's loggers where it logs a step, and as a phase begins.

        `log_dict` of the module would report them to the plan, as if they were measured.
        """
        every, step = trainer.log_every_n_steps, trainer.global_step
        if trainer.loggers and (self._run.unlogged or (every and step % every == 0)):
            scalars = self._run.scalars()
            for logger in trainer.loggers:
                logger.log_metrics(scalars, step=step - 1)  # Lightning counts from 0 here

    def _report(self, metrics: Mapping[str, Any]) -> None:
        self._run.report({name: float(value) for name, value in metrics.items()})

    def _go_on(self, trainer: Any, pl_module: Any, epoch: int) -> None:
        if _is_over(trainer, epoch):
            return
        if self._run.go_on(epoch, trainer.global_step):
            self._put_modes_back = guards.remember(pl_module)
        self._run.metrics.clear()
        trainer.should_stop = trainer.should_stop or self._run.in_force.stopped


class _Last(LastCallback, Callback):  # type: ignore[misc]
    """The last callback of a fit."""

    teardown = LastCallback.take_last_look


def _validates(trainer: Any) -> bool:
    """Return whether the epoch ends with a validation."""
    every = trainer.check_val_every_n_epoch
    return bool(
        trainer.enable_validation and (not every or not (trainer.current_epoch + 1) % every)
    )


def _is_over(trainer: Any, epoch: int) -> bool:
    """Return whether the trainer ends before this epoch, or before the next step."""
    epochs, steps = trainer.max_epochs, trainer.max_steps
    return bool((epochs not in (None, -1) and epoch >= epochs) or 0 <= steps <= trainer.global_step)
