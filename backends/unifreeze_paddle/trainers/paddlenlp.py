"""A plan in PaddleNLP's `Trainer`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from paddlenlp.peft import LoRAModel
from paddlenlp.trainer import TrainerCallback

from unifreeze import FreezePlan
from unifreeze.backend import (
    CachedRun,
    CacheSettings,
    Handle,
    LastCallback,
    calling_list,
    check_arguments,
    resolve_phases,
)
from unifreeze.errors import ScheduleError, UnsupportedPlanError, counted, listing
from unifreeze_paddle.trainers._run_state import RunState
from unifreeze_paddle.trainers._trainer_run import PaddleTrainerRun

STATE_FILE = "unifreeze.json"
"""The file in each checkpoint's folder that says how far the run had come."""


class FreezeCallback(TrainerCallback):  # type: ignore[misc]
    """Carries a plan out while a `paddlenlp.trainer.Trainer` trains.

    The trainer's own optimizer holds every parameter, frozen or not, so nothing needs to be set up.
    Metrics of an evaluation go to the plan with and without `eval_` (and with `val_`) before them.
    Each checkpoint's folder gets an `unifreeze.json`, the output folder a `freeze_plan.yaml`, and
    `trainer.train(resume_from_checkpoint=…)` goes on in the right phase. With whatever the trainer
    logs of its training go the `scalars` of the handle, and alone once a phase has begun; with
    `logging_strategy="no"` they do not.

    A phase never begins while gradients are being accumulated: where the batches of an epoch do not
    fill the last step, the trainer carries them over, and a phase that begins with the next epoch
    does so after that epoch's first step.

    Args:
        plan: The plan; or the handle of one already applied, when the optimizer was built from it.
        batch: One batch of inputs, see `unifreeze.apply`.
        keep_values: See `unifreeze.apply`.
        cache: A folder: what is frozen then runs once for each row of data, as in `Handle.cached`;
            or that method's arguments by name: `cache={"folder": "rows", "budget": "5GB"}`.
        resume: The checkpoint's folder, if it is neither in the trainer's output folder nor given
            as `args.resume_from_checkpoint`: the trainer does not tell callbacks.

    Attributes:
        handle: The plan in force; None before training begins.

    For example `Trainer(model, args=args, callbacks=[FreezeCallback(plan)])`; whole runs are in
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
        self._resume = resume
        self._training = self._accumulating = False

    @property
    def handle(self) -> Handle | None:
        """The plan in force; None before training begins."""
        return self._run.handle

    @property
    def cached_run(self) -> CachedRun | None:
        """The cached block of the run, to be printed; None without `cache`, or before training."""
        return self._run.cache.run

    def on_init_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Let a cached block end if training fails."""
        self._run.cache.leave_if_fails(self, "train")

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Put the plan in force, on the weights of the checkpoint if the trainer resumes one."""
        epoch = state.global_step // _steps_per_epoch(args, more["train_dataloader"])
        saved = None
        if state.global_step:
            saved = self._saved(args, state)
            unnoted = saved.epoch < epoch  # it was stopped before the epoch's end was noted
            update = {"epoch": epoch, "waiting": saved.waiting or unnoted}
            saved = saved.model_copy(update=update)
        self._run.begin(more["model"], more["optimizer"], saved)
        if args.save_strategy.value != "no":
            _refuse_unsaved(self._run.in_force)
        self._training, self._accumulating = True, False
        self._run.call_last(calling_list(self), _Last)
        if args.logging_strategy.value != "no":
            self._run.log_with_trainer(self)
        if args.should_save:
            self._run.keep_in(Path(args.output_dir))
        self._run.cache.enter(self._run.in_force, self)

    def _saved(self, args: Any, state: Any) -> RunState:
        """Read how far the resumed run had come; the trainer has loaded everything else."""
        usual = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        given = [self._resume, args.resume_from_checkpoint]
        folders = [Path(path) for path in given if isinstance(path, str | Path)] or [usual]
        files = [folder / STATE_FILE for folder in folders if (folder / STATE_FILE).is_file()]
        if not files and not self._run.plan.phases:
            return RunState(handle={}, epoch=0, step=state.global_step, reports={}, waiting=False)
        if not files:
            raise ScheduleError(
                f"the trainer resumes at step {state.global_step}, and nothing tells the phase",
                context=f"there is no {STATE_FILE} in {', '.join(map(str, folders))}",
                hint="FreezeCallback(plan, resume=…) with the checkpoint's folder",
            )
        saved = RunState.load_from(files[0])
        if saved.step != state.global_step:
            raise ScheduleError(
                f"the trainer resumes at step {state.global_step}, and {files[0]} is of step "
                f"{saved.step}",
                hint="resume=… is the folder that the trainer resumes from",
            )
        return saved

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Enter the phase that begins with the epoch."""
        self._advance(control)

    def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Enter the phase that begins with the optimizer's step."""
        self._advance(control)

    def _advance(self, control: Any) -> None:
        if not self._accumulating:
            self._run.go_on(self._run.epoch, self._run.step)
            self._stop_if_due(control)

    def _stop_if_due(self, control: Any) -> None:
        if self._run.stops():
            control.should_training_stop = True

    def on_substep_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Remember that gradients are being accumulated."""
        self._accumulating = True

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Stop if the schedule ends before the next step."""
        self._accumulating, self._run.step = False, state.global_step
        self._stop_if_due(control)
        if not control.should_log:  # else the trainer logs at once
            self._run.log_phase()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Stop if the schedule ends before the next epoch."""
        self._run.end_epoch()
        self._stop_if_due(control)
        if args.load_best_model_at_end:  # at the end of training other weights have been loaded
            self._run.in_force.verify()

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **more: Any
    ) -> None:
        """Report what an evaluation measured."""
        if self._training:
            self._run.report(metrics or {})
            self._stop_if_due(control)

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Write into the checkpoint's folder how far the run has come."""
        self._run.waiting = False  # the trainer evaluates before it saves
        if args.should_save:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            self._run.save(folder / STATE_FILE)
            self._run.keep_in(Path(args.output_dir))

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Verify what is frozen, or accept the best checkpoint's values as the ones to hold."""
        self._training = False
        best = args.load_best_model_at_end and state.best_model_checkpoint is not None
        self._run.end(verify=not best)


class _Last(LastCallback, TrainerCallback):  # type: ignore[misc]
    """The last callback of a run."""

    on_train_end = LastCallback.take_last_look


def _refuse_unsaved(handle: Handle) -> None:
    """Refuse phases that freeze again what was trained: a LoRAModel saves only what trains.

    Raises:
        UnsupportedPlanError: Naming what would be lost.
    """
    if not isinstance(handle.model, LoRAModel):
        return
    spec = handle.resolution.spec
    trained = np.zeros(len(spec), np.bool_)
    for phase, resolution in zip(
        handle.plan.phases, resolve_phases(handle.plan, spec), strict=True
    ):
        lost = np.flatnonzero(trained & ~resolution.trainable)
        if len(lost):
            raise UnsupportedPlanError(
                f"phase {phase.name!r} freezes again {counted(len(lost), 'parameter')}, and from "
                "then on no checkpoint holds what was learned: a LoRAModel saves only what trains",
                context=listing(spec.parameters[number].path for number in lost),
                hint="let them train to the end: add rules to the phase before, with add; with "
                'save_strategy="no" nothing is saved anyway',
            )
        trained |= resolution.trainable


def _steps_per_epoch(args: Any, loader: Any) -> int:
    """Count an epoch's steps as the trainer does; without a length, all are of one epoch."""
    try:
        return max(len(loader) // int(args.gradient_accumulation_steps), 1)
    except TypeError:
        return int(args.max_steps)
