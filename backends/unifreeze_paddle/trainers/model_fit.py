"""A plan in `paddle.Model.fit`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import paddle

from unifreeze import FreezePlan
from unifreeze.backend import (
    CachedRun,
    CacheSettings,
    Handle,
    LastCallback,
    calling_list,
    check_arguments,
)
from unifreeze.errors import OptimizerError, ScheduleError, counted
from unifreeze_paddle.trainers._run_state import RunState
from unifreeze_paddle.trainers._trainer_run import PaddleTrainerRun, is_grouped

_NO_METRICS = ("step", "batch_size")
_LOGGERS = (paddle.callbacks.VisualDL, paddle.callbacks.WandbCallback)
"""Callbacks that log what `fit` measures in each batch: the names in their `train_metrics`."""


class FreezeCallback(paddle.callbacks.Callback):  # type: ignore[misc]
    """Carries a plan out while `Model.fit` trains.

    The optimizer given to `Model.prepare` must hold whatever any phase trains, which
    `model.parameters()` does. Validation metrics go to the plan under the names that `fit` logs
    and with `eval_` and `val_` before them. Whenever the model is saved, a file beside it says how
    far the run has come: `3.unifreeze.json` beside `3.pdparams`; `freeze_plan.yaml` is there, too.

    If a `VisualDL` or `WandbCallback` is among the callbacks, it logs the `scalars` of the handle
    with each batch.

    `fit` cannot resume a run: `Model.load` brings back weights, optimizer and scheduler, and `fit`
    counts epochs from 0 again. With `resume` this callback loads them, goes on in the right phase,
    and takes the `epochs` of `fit` as those of the whole run: the same script, with `resume` added,
    ends where the uninterrupted run would have. Checkpoints of the resumed run are numbered from 0
    again, so give it a `save_dir` of its own; the order of the data and the random state are as the
    script sets them.

    Args:
        plan: The plan; or the handle of one already applied, when the optimizer was built from it.
        batch: One batch of inputs, see `unifreeze.apply`.
        keep_values: See `unifreeze.apply`.
        cache: A folder: what is frozen then runs once for each row of data, as in `Handle.cached`;
            or that method's arguments by name: `cache={"folder": "rows", "budget": "5GB"}`.
        resume: A checkpoint as `Model.load` takes it: "folder/3".

    Attributes:
        handle: The plan in force; None before training begins.

    For example `model.fit(data, callbacks=FreezeCallback(plan))`; whole runs are in
    `examples/trainers/`.
    """

    @check_arguments
    def __init__(
        self,
        plan: FreezePlan | Handle,
        *,
        batch: Any = None,
        keep_values: bool = False,
        resume: str | Path | None = None,
        cache: CacheSettings | None = None,
    ) -> None:
        super().__init__()
        self._run = PaddleTrainerRun(plan, batch=batch, keep_values=keep_values, cache=cache)
        self._resume = None if resume is None else Path(resume)
        self._begun = self._training = False
        self._first, self._total = 0, None
        self._loggers: list[Any] = []

    @property
    def handle(self) -> Handle | None:
        """The plan in force; None before training begins."""
        return self._run.handle

    @property
    def cached_run(self) -> CachedRun | None:
        """The cached block of the run, to be printed; None without `cache`, or before training."""
        return self._run.cache.run

    def on_train_begin(self, logs: Any = None) -> None:
        """Put the plan in force; a second `fit` with the same callback goes on with the run."""
        optimizer = self.model._optimizer
        if is_grouped(optimizer):
            raise OptimizerError(
                "paddle.Model.fit cannot step an optimizer with param groups",
                hint="set no rates or decay by group in the plan, or write the loop yourself",
            )
        if self._begun:
            self._run.attach([optimizer])
        else:
            state = None if self._resume is None else self._load(self._resume)
            self._run.begin(self.model.network, optimizer, state)
            self._begun = True
        self._first, self._training = self._run.epoch, True
        self._check_goes_on()
        self._save_beside()
        callbacks = calling_list(self)
        self._loggers = [row for row in callbacks if isinstance(row, _LOGGERS)]
        self._run.call_last(callbacks, _Last)
        self._run.cache.leave_if_fails(self, "_run_one_epoch")
        self._run.cache.enter(self._run.in_force, self)
        if (stand_in := vars(self.model.network).get("forward")) is not None:
            # The model counts its inputs by the arguments of forward, `self` among them.
            stand_in.__signature__ = inspect.signature(type(self.model.network).forward)

    def _load(self, checkpoint: Path) -> RunState:
        """Load a checkpoint's weights, optimizer and scheduler; return how far its run had come."""
        state = RunState.load_from(_state_file(checkpoint))
        self.model.load(str(checkpoint))
        return state

    def _check_goes_on(self) -> None:
        if self._resume is None:
            return
        by_epochs = getattr(self.model, "num_iters", None) is None
        self._total = self.params["epochs"] if by_epochs else None
        if self._total is not None and self._first >= self._total:
            raise ScheduleError(
                f"the run of {self._resume} has ended, after {counted(self._first, 'epoch')}",
                hint="`epochs` counts those of the whole run, also of a resumed one",
            )

    def _save_beside(self) -> None:
        """Let the model save how far the run has come, and its plan, with everything else."""
        # A second fit finds the stand-in of the first one.
        models_save = getattr(self.model.save, "models_save", self.model.save)

        def save(path: str, training: bool = True) -> None:
            models_save(path, training)
            if training and paddle.distributed.ParallelEnv().local_rank == 0:
                file = _state_file(Path(path))
                self._run.save(file)
                self._run.keep_in(file.parent)

        save.models_save = models_save  # type: ignore[attr-defined]
        self.model.save = save

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Enter the phase that begins with the epoch."""
        self._run.go_on(self._first + epoch, self._run.step)

    def on_train_batch_begin(self, step: int, logs: Any = None) -> None:
        """Enter the phase that begins with the optimizer's step, where one begins."""
        if step % self.model._accumulate == 0:
            self._run.go_on(self._run.epoch, self._run.step)
        if self._loggers and logs is not None:
            scalars = self._run.scalars()
            logs.update(scalars)  # the loggers read it once the batch has run
            for logger in self._loggers:
                logger.train_metrics = [*self.params["metrics"], *scalars]

    def on_train_batch_end(self, step: int, logs: Any = None) -> None:
        """Count the optimizer's step; end the epoch early if the schedule ends here."""
        last = step + 1 == self.params["steps"]
        if not last and (step + 1) % self.model._accumulate:
            return
        self._run.step += 1
        if not last and self._run.stops():
            self.model.num_iters = 1  # what fit counts down after each batch, to stop at 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stop if the schedule ends here, or a resumed run has had all its epochs."""
        for name in [name for name in logs or () if name.startswith("unifreeze/")]:
            del logs[name]  # `fit` goes on with the same dictionary in its evaluation
        self._run.end_epoch()
        self._stop_if_due()
        if self._run.epoch == self._total:
            self.model.stop_training = True

    def on_eval_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Report what the validation measured."""
        if self._training:
            self._run.report({k: v for k, v in (logs or {}).items() if k not in _NO_METRICS})
            self._stop_if_due()

    def _stop_if_due(self) -> None:
        if self._run.stops():
            self.model.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        """Verify what is frozen."""
        self._training = False
        self._run.end(verify=True)


class _Last(LastCallback, paddle.callbacks.Callback):  # type: ignore[misc]
    """The last callback of a run."""

    on_train_end = LastCallback.take_last_look


def _state_file(checkpoint: Path) -> Path:
    return checkpoint.with_name(f"{checkpoint.name}.unifreeze.json")
