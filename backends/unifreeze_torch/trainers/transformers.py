"""A plan in the Trainer of Hugging Face transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from transformers import TrainerCallback

from unifreeze import FreezePlan
from unifreeze.backend import (
    CachedRun,
    CacheSettings,
    Handle,
    LastCallback,
    calling_list,
    check_arguments,
)
from unifreeze.errors import ScheduleError, UnsupportedPlanError, counted, listing
from unifreeze_torch import backend
from unifreeze_torch.trainers._trainer_run import TorchTrainerRun, saved_in

STATE = "unifreeze"
"""Key of the state in a checkpoint's `trainer_state.json`."""
_TIMES = ("_runtime", "_per_second", "_time")


class FreezeCallback(TrainerCallback):  # type: ignore[misc]
    """Carries a plan out while a Trainer trains.

    The Trainer builds its optimizer from what requires a gradient; until training begins that is
    whatever any phase trains. The state goes into the checkpoints' `trainer_state.json`, the plan
    into the output folder as `freeze_plan.yaml`. With whatever the Trainer logs of its training go
    the `scalars` of the handle, and alone as a phase begins; with `logging_strategy="no"` they do
    not.

    What an evaluation measures is reported under its own names; for a phase that waits for `loss`
    or `val_loss`, `eval_loss` is reported under that name, too. Evaluations with a prefix other
    than `eval` are not reported. A phase's weight decay holds for all parameters whose decay the
    plan's own `groups` do not set, also for biases and norms, which the Trainer does not decay.

    Args:
        plan: The plan; or the handle of one already applied, when the optimizer was built from it.
        batch: One batch of inputs, see `unifreeze.apply`.
        keep_values: See `unifreeze.apply`.
        cache: A folder: what is frozen then runs once for each row of data, as in `Handle.cached`;
            or that method's arguments by name: `cache={"folder": "rows", "budget": "5GB"}`.

    For example `Trainer(model, args, callbacks=[FreezeCallback(plan)])`; whole runs are in
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
        self._epoch = 0
        self._training = self._unmeasured = self._repeats = False
        self._evaluates_first: bool | None = None

    @property
    def handle(self) -> Handle | None:
        """The plan in force; None before the Trainer has a model."""
        return self._run.handle

    @property
    def cached_run(self) -> CachedRun | None:
        """The cached block of the run, to be printed; None without `cache`, or before training."""
        return self._run.cache.run

    def on_init_end(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """Put the plan in force, before the optimizer is built."""
        self._run.cache.leave_if_fails(self, "train")
        self._run.prepare(objects["model"])

    def on_train_begin(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """Begin with the weights, optimizer and checkpoint that the Trainer has loaded."""
        run, resumed = self._run, state.global_step > 0
        run.prepare(objects["model"])  # model_init builds another for each run
        if args.save_strategy != "no":
            _refuse_unsaved(run.in_force)
        saved = saved_in(state.stateful_callbacks.get(STATE)) if resumed else None
        run.begin([objects["optimizer"]], saved, resumed=resumed)
        run.call_last(calling_list(self), _Last)
        if args.logging_strategy != "no":
            run.log_with_trainer(self)
        self._epoch, self._training = int(state.epoch), True
        state.stateful_callbacks[STATE] = _Live(self._state)
        run.keep_in(args.output_dir, saves=state.is_world_process_zero)
        makes_up = bool(saved and saved.unmeasured and args.eval_strategy == "epoch")
        self._repeats = resumed and args.eval_on_start and not makes_up
        if makes_up:
            # The checkpoint was saved before its epoch's evaluation; the Trainer would skip that.
            self._evaluates_first, args.eval_on_start = args.eval_on_start, True
        if not args.eval_on_start:
            self._go_on(state, control)
        if run.in_force.stopped:  # the Trainer looks only after the next step
            raise ScheduleError("the schedule has ended, and there is nothing left to train")
        run.cache.enter(run.in_force, self)

    def on_step_begin(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """Report what was measured, even if a metric is missing that a phase waits for."""
        self._repeats = False
        if self._run.metrics:
            self._go_on(state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """Go on to the next step here: the Trainer stops after a step, not before one."""
        self._run.metrics.clear()
        self._unmeasured = int(state.epoch) > self._epoch
        if not self._unmeasured and not control.should_evaluate:
            self._go_on(state, control)
        if not control.should_log:  # else the Trainer logs at once
            self._run.log_phase()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """Go on to the next epoch."""
        if args.load_best_model_at_end:  # other values may be loaded before training ends
            self._run.in_force.verify()
        self._epoch, self._unmeasured = self._epoch + 1, control.should_evaluate
        if not control.should_evaluate:
            self._go_on(state, control)

    def on_evaluate(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """Take in what was measured; a phase that waits for it begins before the next step."""
        if not self._training:
            return
        if self._evaluates_first is not None:
            args.eval_on_start, self._evaluates_first = self._evaluates_first, None
        if not self._repeats:  # the run before this resumed one has reported it
            self._run.report(self._named(objects["metrics"]))
        if int(state.epoch) <= self._epoch:  # else the epoch's end is still to come
            self._unmeasured = False
            with suppress(ScheduleError):  # another data set may bring what is missing
                self._go_on(state, control)

    def _named(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return an evaluation's metrics under their names, and under those phases wait for."""
        awaited, named = self._run.awaited(), dict[str, float]()
        for name, value in metrics.items():
            if name.startswith("eval_") and not name.endswith(_TIMES):
                bare = name.removeprefix("eval_")
                names = {name} | ({bare, f"val_{bare}"} & awaited)
                named |= dict.fromkeys(names, value)
        return named

    def on_train_end(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """Verify what is frozen, or accept the best checkpoint's values as the ones to hold."""
        self._training = False
        best = args.load_best_model_at_end and state.best_model_checkpoint is not None
        self._run.end(verify=not best)

    def _go_on(self, state: Any, control: Any) -> None:
        if not control.should_training_stop:
            self._run.go_on(max(self._epoch, int(state.epoch)), state.global_step)
            control.should_training_stop = self._run.in_force.stopped

    def _state(self) -> dict[str, Any]:
        return self._run.state(unmeasured=self._unmeasured)


class _Last(LastCallback, TrainerCallback):  # type: ignore[misc]
    """The last callback of a run."""

    on_train_end = LastCallback.take_last_look


def _refuse_unsaved(handle: Handle) -> None:
    """Refuse to train what no checkpoint would hold: PEFT saves little more than adapters.

    Raises:
        UnsupportedPlanError: Naming what would be lost.
    """
    configs = getattr(handle.model, "peft_config", None) or {}
    if not configs or any(config.is_prompt_learning for config in configs.values()):
        return
    from peft import get_peft_model_state_dict

    known = {
        tensor.data_ptr()
        for name in configs
        for tensor in get_peft_model_state_dict(
            handle.model, adapter_name=name, save_embedding_layers=False
        ).values()
    }
    live = backend.objects(handle.model)
    trained = [path for group in handle.groups() for path in group.paths]
    lost = [path for path in trained if live[path].data_ptr() not in known]
    if lost:
        raise UnsupportedPlanError(
            f"the plan trains {counted(len(lost), 'parameter')} that the model's checkpoints lack: "
            "PEFT saves adapters, and what it is told",
            context=listing(lost),
            hint="name their modules in the adapter's config, modules_to_save=[…], or train the "
            'adapters alone; with save_strategy="no" nothing is saved anyway',
        )


class _Live:
    """A value in the Trainer's state that is asked for when a checkpoint is written.

    The Trainer makes a deep copy of its state then.
    """

    def __init__(self, ask: Callable[[], dict[str, Any]]) -> None:
        self.ask = ask

    def __deepcopy__(self, _memo: object) -> dict[str, Any]:
        return self.ask()
