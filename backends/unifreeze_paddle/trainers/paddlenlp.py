"""A plan in PaddleNLP's `Trainer`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from paddlenlp.peft import LoRAModel
from paddlenlp.trainer import TrainerCallback

from unifreeze import FreezePlan
from unifreeze.backend import (
    Handle,
    LastLook,
    calling_list,
    check_arguments,
    resolve_phases,
    take_out,
)
from unifreeze.errors import ScheduleError, UnsupportedPlanError, counted, listing
from unifreeze_paddle.trainers._run import TrainerRun
from unifreeze_paddle.trainers._saved import RunState

STATE_FILE = "unifreeze.json"
"""What says where a run stands, in each checkpoint's folder."""


class FreezeCallback(TrainerCallback):  # type: ignore[misc]
    """Carries a plan out while a `paddlenlp.trainer.Trainer` trains.

    The trainer's own optimizer holds every parameter, frozen or not, so nothing needs to be set up.
    Metrics of an evaluation go to the plan with and without `eval_` (and with `val_`) before them.
    Each checkpoint's folder gets an `unifreeze.json`, the output folder a `freeze_plan.yaml`, and
    `trainer.train(resume_from_checkpoint=…)` goes on in the right phase.

    A phase never begins while gradients are being accumulated: where the batches of an epoch do not
    fill the last step, the trainer carries them over, and a phase that begins with the next epoch
    does so after that epoch's first step.

    Args:
        plan: The plan; or the handle of one already applied, when the optimizer was built from it.
        batch: One batch of inputs, see `unifreeze.apply`.
        keep_values: See `unifreeze.apply`.
        resume: The checkpoint's folder, if it is neither in the trainer's output folder nor given
            as `args.resume_from_checkpoint`: callbacks are not told it.

    Attributes:
        handle: The plan in force; None before training begins.

    >>> Trainer(model, args=args, callbacks=[FreezeCallback(plan)]).train()  # doctest: +SKIP
    """

    @check_arguments
    def __init__(
        self,
        plan: FreezePlan | Handle,
        *,
        batch: Any = None,
        keep_values: bool = False,
        resume: str | Path | None = None,
    ) -> None:
        super().__init__()
        self._run = TrainerRun(plan, batch=batch, keep_values=keep_values)
        self._resume = resume
        self._training = self._accumulating = False

    @property
    def handle(self) -> Handle | None:
        """The plan in force; None before training begins."""
        return self._run.handle

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Put the plan in force, on the weights of the checkpoint if the trainer resumes one."""
        epoch = state.global_step // _steps_per_epoch(args, more["train_dataloader"])
        saved = None
        if state.global_step:
            saved = self._saved(args, state)
            unnoted = saved.epoch < epoch  # it was stopped before the epoch's end was noted
            found = {"epoch": epoch, "waiting": saved.waiting or unnoted}
            saved = saved.model_copy(update=found)
        self._run.begin(more["model"], more["optimizer"], saved)
        if args.save_strategy.value != "no":
            _refuse_unsaved(self._run.in_force)
        self._training, self._accumulating = True, False
        callbacks = calling_list(self)
        callbacks.append(_Last(self._run.last, callbacks))
        if args.should_save:
            self._run.keep_in(Path(args.output_dir))

    def _saved(self, args: Any, state: Any) -> RunState:
        """Read where the resumed run stood; the trainer has loaded everything else."""
        own = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        given = [self._resume, args.resume_from_checkpoint]
        folders = [Path(one) for one in given if isinstance(one, str | Path)] or [own]
        found = [folder / STATE_FILE for folder in folders if (folder / STATE_FILE).is_file()]
        if not found and not self._run.plan.phases:
            return RunState(handle={}, epoch=0, step=state.global_step, reports={}, waiting=False)
        if not found:
            raise ScheduleError(
                f"the trainer resumes at step {state.global_step}, and nothing tells the phase",
                context=f"there is no {STATE_FILE} in {', '.join(map(str, folders))}",
                hint="FreezeCallback(plan, resume=…) with the checkpoint's folder",
            )
        saved = RunState.load_from(found[0])
        if saved.step != state.global_step:
            raise ScheduleError(
                f"the trainer resumes at step {state.global_step}, and {found[0]} is of step "
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
            self._run.advance(self._run.epoch, self._run.step)
            self._stop_if_due(control)

    def _stop_if_due(self, control: Any) -> None:
        if self._run.stops():
            control.should_training_stop = True

    def on_substep_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Remember that gradients wait for more."""
        self._accumulating = True

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Stop if the schedule does before the next step."""
        self._accumulating, self._run.step = False, state.global_step
        self._stop_if_due(control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Stop if the schedule does before the next epoch."""
        self._run.end_epoch()
        self._stop_if_due(control)
        if args.load_best_model_at_end:  # at the end of training other weights have been loaded
            self._run.in_force.verify()

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **more: Any
    ) -> None:
        """Hand on what an evaluation measured."""
        if self._training:
            self._run.report(metrics or {})
            self._stop_if_due(control)

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Write where the run stands into the checkpoint's folder."""
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


class _Last(TrainerCallback):  # type: ignore[misc]
    """Stands behind all other callbacks for one run, and sees what they write as it ends."""

    def __init__(self, look: LastLook, callbacks: list[Any]) -> None:
        self._look, self._callbacks = look, callbacks

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Verify what is frozen, for the last time."""
        take_out(self._callbacks, self)
        self._look.take()


def _refuse_unsaved(handle: Handle) -> None:
    """Refuse to freeze again what checkpoints then lack: a LoRAModel saves only what trains.

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
