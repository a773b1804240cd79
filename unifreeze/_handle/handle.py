"""The handle that a user holds: passes each call to the plan in force, training, or saving."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unifreeze._arguments import checked_methods
from unifreeze._handle.best_values import BestValues
from unifreeze._handle.cached_block import CachedBlocks
from unifreeze._handle.checks import Checks
from unifreeze._handle.history import RunReport
from unifreeze._handle.in_force import PlanInForce
from unifreeze._handle.saved_run import SavedRun
from unifreeze._handle.target import Target
from unifreeze._handle.told_to_others import ToldToOthers
from unifreeze._handle.training import Training
from unifreeze._handle.verify import Verified
from unifreeze._pictures import html_of
from unifreeze._plan import FreezePlan, Phase
from unifreeze._protocol import Batch, ParamGroup
from unifreeze._resolution import Resolution


@checked_methods
class Handle(Checks, CachedBlocks, ToldToOthers):
    """A plan in force on a live model; made by `unifreeze.apply`.

    Attributes:
        model: The live model.

    >>> handle = plan.apply(model)
    >>> handle
    <unifreeze.Handle on Plain: trainable params: 21 || all params: 213 || trainable%: 9.8592>
    >>> optimizer = handle.optimizer(AdamW, lr=1e-3, weight_decay=0.01)
    >>> train(model, optimizer)
    >>> print(handle.verify())
    unchanged: 12 frozen parameters, 6 held state tensors
    >>> handle.remove()
    """

    def __init__(
        self,
        plan: FreezePlan,
        target: Target,
        *,
        batch: Batch | None,
        keep_values: bool,
    ) -> None:
        self.model, self._backend = target.model, target.backend
        self._in_force = PlanInForce(plan, target, batch=batch, keep_values=keep_values)
        self._best = BestValues(self._in_force)
        self._training = Training(self._in_force, self._best)
        self._saved = SavedRun(self._in_force, self._training, self._best)

    @property
    def plan(self) -> FreezePlan:
        """The plan in force: with plain phases in place of generators and of measurements so far.

        Save this plan beside a run.
        """
        return self._in_force.phases.expanded

    @property
    def resolution(self) -> Resolution:
        """The decisions for the model; of a plan with phases, those of the current phase."""
        return self._in_force.resolution

    def verify(self) -> Verified:
        """Check that everything frozen is bit for bit as it was when the plan took effect.

        Returns:
            How much was checked.

        Raises:
            FrozenDriftError: Naming each tensor that moved, or was reloaded, resized, cast,
                replaced, thawed, removed or is new, with how much, and each flag and mode
                that others have switched.
                The amount is exact if the plan was applied with `keep_values=True`, else a lower
                bound.
        """
        return self._in_force.verify()

    def rebase(self) -> None:
        """Hold frozen tensors to the values and shapes that they have now.

        If a tensor has another shape, the plan is resolved and written again.

        Raises:
            UnifreezeError: A frozen tensor is no longer there; that takes `reapply`.
        """
        self._in_force.rebase()

    def reapply(self) -> None:
        """Apply the plan to modules that were replaced or added after it took effect.

        The plan is resolved and written again. Tensors that were frozen before and are still the
        same objects keep their baseline, so that `verify` still finds a change of them.
        """
        self._in_force.reapply()

    def remove(self) -> None:
        """Put flags, modes and hooks back as they were before the first plan; values stay."""
        try:
            self._in_force.remove()
        finally:
            if not self._in_force.lasts:
                self._training.link.detach()

    def groups(self) -> tuple[ParamGroup, ...]:
        """Return the plan's param groups: trainable parameters with one set of settings each.

        With phases they hold all that any phase trains, and are the same in every phase.

        Parameters are in canonical order, groups in the order of their first parameter; both are
        the same in every framework and from run to run.
        """
        return self._in_force.phases.groups()

    def param_groups(self, lr: float | None = None) -> list[dict[str, Any]]:
        """Build param groups as the framework's optimizers take them.

        Args:
            lr: Base learning rate. PyTorch's group rates are absolute, so it is needed there when
                a group scales it; Paddle's are scales on the optimizer's rate.
        """
        return self._training.param_groups(lr)

    def optimizer(self, cls: type, **settings: Any) -> Any:
        """Build an optimizer over all that the plan trains, with the plan's group settings.

        Args:
            cls: The framework's optimizer class.
            **settings: Its settings under neutral names (`lr`, `weight_decay`, …). Without `lr` the
                class's own default is in force, if it has one; group scales multiply it, and
                `print(handle)` shows it.

        Raises:
            OptimizerError: The optimizer is known to move frozen parameters, is not an optimizer of
                this framework, or there is nothing to train.

        >>> optimizer = handle.optimizer(AdamW, lr=1e-3, weight_decay=0.01)
        """
        return self._training.build(cls, settings)

    def attach(self, optimizer: Any) -> None:
        """Let phases steer an optimizer that was built elsewhere.

        It must hold every parameter that any phase trains, so that its groups never change. During
        each step every group's rate is multiplied by the phase's rate over the rate that the
        optimizer was built with, and then put back: schedulers and saved states of optimizers never
        see a phase's rate.

        Raises:
            OptimizerError: It lacks parameters that a phase trains, or breaks when flags change.
        """
        self._training.attach(optimizer)

    def rates(self) -> dict[str, float]:
        """Return the learning rate of each group, by its name, that the next step would use.

        It is the rate that a scheduler has set, times the group's scale and, with phases, the
        factors of the phase and its warm-up. Groups are those of `groups()`; frozen parameters are
        listed with the rate that they would train with.

        Raises:
            OptimizerError: The handle has no optimizer: none that `optimizer` has built is still
                there, and none is attached.

        >>> handle = plan.with_group("bias", lr_scale=10, weight_decay=0).apply(model)
        >>> optimizer = handle.optimizer(AdamW, lr=0.001)
        >>> handle.rates()
        {'lr x 1': 0.001, 'lr x 10, weight decay 0': 0.01}
        """
        return self._training.rates()

    def check_optimizer(self, *optimizers: Any) -> None:
        """Refuse an optimizer, or several together, that would not carry out the plan.

        Raises:
            OptimizerError: They lack a parameter that any phase trains, or were built without the
                settings of the plan's groups.
        """
        self._training.check_optimizers(optimizers)

    @property
    def phase(self) -> Phase | None:
        """The phase that the run is in; None if the plan has none."""
        return self._in_force.phases.schedule.named_phase

    @property
    def stopped(self) -> bool:
        """True once the schedule has ended the training."""
        return self._in_force.phases.schedule.current.stop

    def on_phase(self, call: Callable[[Phase], None]) -> None:
        """Call a function with each phase that begins, after it has: to build a new scheduler."""
        self._training.listeners.append(call)

    def keep_best(self, folder: str | Path) -> None:
        """Keep the best values of each phase in a folder, for a phase that begins from them.

        Phases with `restore_best` need it. The folder holds the latest best values and those that
        the last three saved states refer to, as safetensors files.
        """
        self._best.keep_in(folder)

    def step(
        self,
        *,
        epoch: int | None = None,
        step: int | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> bool:
        """Go on to an epoch or a step, and enter the phase that begins there, if one does.

        Call it before the epoch's first batch, or before each step, between the optimizer's step
        and the next forward pass. Calling it again for the same epoch or step changes nothing. When
        a phase begins, everything frozen is verified first.

        Args:
            epoch: The epoch that is about to begin, counted from 0.
            step: The step that is about to begin, counted from 0 over the whole run.
            metrics: What was measured since the last call, by name.

        Returns:
            Whether a phase began.

        Raises:
            ScheduleError: The schedule cannot go on, or a metric is not a number; nothing has
                changed then.
            FrozenDriftError: Something frozen has moved during the phase that ends.
            OptimizerError: No optimizer is attached.

        >>> handle = phases.apply(model)  # the second phase begins at epoch 2
        >>> optimizer = handle.optimizer(AdamW)
        >>> [handle.step(epoch=epoch) for epoch in range(4)]
        [False, False, True, False]
        """
        return self._training.step(epoch, step, metrics)

    def would_stop(
        self,
        *,
        epoch: int | None = None,
        step: int | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> bool:
        """Return whether `step` with the same arguments would end the training; nothing changes.

        It is for trainers that ask when a step has ended whether to stop.

        Raises:
            ScheduleError: As `step` does.
        """
        return self._training.would_stop(epoch, step, metrics)

    def report(self, metrics: Mapping[str, float] | None = None) -> RunReport:
        """Return the report of the run: for each epoch its phase, what trained, what was measured.

        Args:
            metrics: What was measured after the last epoch, which no `step` has brought.

        >>> handle.step(epoch=0)
        False
        >>> train(model, optimizer)
        >>> print(handle.report({"val_loss": 0.5}))
        epoch  trainable  frozen  val loss
        0             21   90.1%       0.5
        """
        return self._training.report(metrics)

    def state_dict(self) -> dict[str, Any]:
        """Return where the run stands: plain data, the same in every framework.

        It names the plan and the model, says whether `step` was ever called (`told`), and holds the
        history of the run and, for a plan with phases, where it stands in them.
        """
        return self._saved.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue a run from its saved state; frozen tensors are held to their current values.

        Raises:
            ScheduleError: The state is of another plan or model; the message shows the difference.

        >>> handle.step(epoch=3)
        False
        >>> state = handle.state_dict()
        >>> resumed = plan.apply(model)
        >>> resumed.load_state_dict(state)
        >>> resumed.state_dict()["history"]["epoch"]
        3
        """
        self._saved.load(state)

    def trainable_state_dict(self) -> dict[str, Any]:
        """Return all values that have been trained so far, and the digest of their base.

        Plain data and NumPy arrays (bfloat16 as float32) under native paths: parameters that any
        phase up to now has trained, and statistics that moved meanwhile. The rest is the base.
        """
        return self._saved.trained()

    def save_trained(self, path: str | Path) -> None:
        """Write the values of `trainable_state_dict`, and no others, as one safetensors file.

        Values keep their dtype, bfloat16 too, and stand under native paths: any library that reads
        safetensors reads them. The header names the base, tensor by tensor, and the plan, for
        `unifreeze.load_trained`. The file takes its place once it is complete.

        Args:
            path: A `.safetensors` file; an older one of that name is replaced.

        Raises:
            WeightFileError: The file cannot be written; an older one is as it was.

        >>> handle.save_trained(folder / "head.safetensors")
        """
        self._saved.save_trained(path)

    def load_trainable_state_dict(self, state: Mapping[str, Any]) -> None:
        """Write the values of `trainable_state_dict` into a model on the same base.

        Raises:
            WeightFileError: The base or the model is a different one; nothing has been written.
        """
        self._saved.load_trained(state)

    _repr_html_ = html_of

    def __str__(self) -> str:
        trainable, total = self.resolution.counts()
        share = 100 * trainable / total if total else 0.0
        counts = (
            f"trainable params: {trainable:,} || all params: {total:,} || trainable%: {share:.4f}"
        )
        return "\n".join(filter(None, [counts, self._training.default_rate()]))

    def __repr__(self) -> str:
        lines = "; ".join(str(self).splitlines())
        return f"<unifreeze.Handle on {type(self.model).__name__}: {lines}>"
