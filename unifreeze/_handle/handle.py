"""The plan in force on one live model: its optimizer, its verification, its removal."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from unifreeze._arguments import checked_methods
from unifreeze._handle.first_pass import OrderCheck, Phases
from unifreeze._handle.gradients import gradient_findings
from unifreeze._handle.groups import (
    check_in_place,
    check_optimizers,
    group_rates,
    param_groups,
)
from unifreeze._handle.history import History, RunReport, run_report
from unifreeze._handle.history.history import numbers
from unifreeze._handle.lease import Lease
from unifreeze._handle.run import Run
from unifreeze._handle.saved_state import check_format, check_origin, plain_state
from unifreeze._handle.target import Target
from unifreeze._handle.trained_file import save_trained
from unifreeze._handle.trained_values import load_state, trained_state
from unifreeze._handle.verify import (
    Baseline,
    Drift,
    Verified,
    drift_error,
    find_drifts,
    take_baseline,
)
from unifreeze._plan import FreezePlan, Phase
from unifreeze._protocol import Batch, Finding, ParamGroup, Rate, Undo, refuse_unsupported
from unifreeze._resolution import Resolution, resolve_spec
from unifreeze._structure import ModelSpec
from unifreeze.errors import OptimizerError, UnifreezeError, counted, listing


@checked_methods
class Handle:
    """A plan in force on a live model; made by `unifreeze.apply`.

    Attributes:
        model: The live model.
        resolution: What the plan decided for it.

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
        self._plan, self.model = plan, target.model
        self._target, self._backend = target, target.backend
        self._batch, self._keep_values = batch, keep_values
        self._history, self._order = History(), OrderCheck(self._in_phases, self._decided)
        self._run: Run | None = None
        self._built: Callable[[], Any] = lambda: None
        if plan.phases:
            self._run = Run(
                plan,
                self._backend,
                self.model,
                in_force=self._is_in_force,
                verify=self.verify,
                write=self._write_phase,
                stepped=self._order.stepped,
            )
        self._put_in_force()

    @property
    def plan(self) -> FreezePlan:
        """The plan in force: with plain phases in place of generators and of measurements so far.

        It is what to save beside a run.
        """
        return self._plan if self._run is None else self._run.phased.expanded

    def _put_in_force(self, *, again: bool = False, last: ModelSpec | None = None) -> None:
        """Write the plan, or its current phase, on the model as it is now.

        Args:
            again: It is in force already, and keeps its place among other plans.
            last: A description that is good enough if the structure is still the same.
        """
        with self._backend.settled(self.model):
            self._lease: Lease = self._target.put_in_force(
                partial(self._target.describe, self._batch, last),
                self._decide,
                self._take_baseline,
                again=again,
            )
            self.resolution = self._lease.resolution
            self._watch_loads()

    @property
    def _baseline(self) -> Baseline:
        return self._lease.baseline

    def _decide(self, spec: ModelSpec) -> Resolution:
        if self._run is None:
            return resolve_spec(self._plan, spec)
        return self._run.decide(spec, partial(refuse_unsupported, self._backend, self.model))

    def _resolved(self, spec: ModelSpec) -> Resolution:
        """Resolve what holds now against another description."""
        return self._decided(spec)[0 if self._run is None else self._run.phased.schedule.phase]

    def _write_phase(self) -> None:
        """Put the current phase in force; what stays frozen is held to the values it had."""
        old = self._baseline
        self._put_in_force(again=True, last=self.resolution.spec)
        self._keep_baseline(old)

    def _watch_loads(self) -> None:
        self._lease.stop_watching()
        self._loads, stop = self._backend.watch_loads(self.model)
        stops = [stop, self._order.watch(self._backend, self.model)]
        stops += [] if self._run is None else [self._run.watch()]
        self._lease.stop_watching = partial(_call_all, stops)

    def _in_phases(self) -> Phases:
        """Return what was decided, phase by phase, with the plan that holds in each."""
        if self._run is None:
            return [("", self._plan, self.resolution)]
        phased = self._run.phased
        plans = phased.expanded.in_phases()
        rows = zip(phased.phases, plans, phased.resolutions, strict=True)
        return [(phase.name, plan, resolution) for phase, plan, resolution in rows]

    def _decided(self, spec: ModelSpec) -> Sequence[Resolution]:
        """Resolve every phase against another description."""
        if self._run is None:
            return [resolve_spec(self._plan, spec)]
        return self._run.phased.decided(spec)

    def _take_baseline(self, resolution: Resolution) -> Baseline:
        return take_baseline(
            self._backend,
            self.model,
            resolution.kept_paths,
            _held_states(resolution),
            keep_values=self._keep_values,
        )

    def verify(self) -> Verified:
        """Check that everything frozen is bit for bit as it was when the plan took effect.

        Returns:
            How much was checked.

        Raises:
            FrozenDriftError: Naming each tensor that moved, or was reloaded, resized, cast,
                replaced, thawed, removed or is new, with how much. The amount is exact if the plan
                was applied with `keep_values=True`, else a lower bound.
        """
        self._check_in_force("verify")
        with self._backend.settled(self.model):
            drifts = find_drifts(self._backend, self.model, self._baseline, self._loads())
            drifts += self._new_parts()
        if drifts:
            raise drift_error(drifts)
        verified = self._baseline.verified()
        return verified._replace(told=not self._waits, unseen=self._order.unseen)

    def _new_parts(self) -> list[Drift]:
        """Parameters and layers that came after the plan took effect, and that it would hold."""
        spec = self._backend.describe(self.model)
        if spec.tree is self.resolution.spec.tree:
            return []
        known = set(self.resolution.spec.tree.names)
        unheld: list[str] = []
        try:
            resolution = self._resolved(spec)
            frozen = set(resolution.frozen_paths)
            unheld = self._backend.unheld(self.model, resolution)
        except UnifreezeError:
            # The plan no longer fits; then any new parameter is news.
            frozen = set(spec.tree.names)
        new = [
            Drift(path, "new", "the plan would freeze it")
            for path, trainable in self._backend.read(self.model).items()
            if path not in known and trainable and path in frozen
        ]
        swapped = "its statistics or other state should hold, and do not"
        return new + [Drift(path, "replaced", swapped) for path in unheld]

    def rebase(self) -> None:
        """Accept the values, and shapes, that frozen tensors have now as the ones to hold.

        Of a model of which a tensor has another shape, the plan is resolved and written again.

        Raises:
            UnifreezeError: A frozen tensor is no longer there; that takes `reapply`.
        """
        self._check_in_force("rebase")
        present = self._backend.objects(self.model)
        missing = [path for path in self._baseline.paths if path not in present]
        if missing:
            gone = counted(len(missing), "frozen tensor is", "frozen tensors are")
            raise UnifreezeError(
                f"cannot rebase: {gone} no longer there",
                context=listing(missing),
                hint="take the new structure into the plan: handle.reapply()",
            )
        if self._backend.describe(self.model).tree is not self.resolution.spec.tree:
            self._put_in_force()
            return
        self._lease.baseline = self._take_baseline(self.resolution)
        self._watch_loads()

    def reapply(self) -> None:
        """Take in modules that were replaced or added after the plan took effect.

        The plan is resolved and written again. Tensors that were frozen before and are still the
        same objects keep their baseline, so that a change they suffered is still found.
        """
        self._check_in_force("reapply")
        old = self._baseline
        self._put_in_force(again=True)
        self._keep_baseline(old)
        if self._run is not None:  # what the model has become may break a phase that is to come
            self._run.check(partial(refuse_unsupported, self._backend, self.model))

    def _keep_baseline(self, old: Baseline) -> None:
        """Hold what was frozen before and still is to the values it had then."""
        new = self._baseline
        for path in new.paths:
            if path in old.digests and new.objects[path] is old.objects.get(path):
                new.digests[path] = old.digests[path]
                if path in old.values:
                    new.values[path] = old.values[path]

    def remove(self) -> None:
        """Put flags, modes and hooks back as they were before the first plan; values stay."""
        self._check_in_force("remove")
        self._target.refuse_for_a_while(self.resolution.spec, again=True)
        if self._run is not None:
            self._run.detach()
        self._target.give_back(self._lease)

    def _is_in_force(self) -> bool:
        return self._lease.in_force

    def _check_in_force(self, what: str) -> None:
        if not self._is_in_force():
            raise UnifreezeError(
                f"cannot {what}: this handle's plan is no longer in force",
                context="it was removed, or another plan was applied to the model",
                hint="use the handle of the last apply",
            )

    def check_gradients(self) -> tuple[Finding, ...]:
        """Look at the gradients a backward pass left; call it before the optimizer clears them.

        Returns:
            One finding per trainable parameter without a gradient, or whose gradient is all zeros,
            frozen parameter with one, and gradient that is not finite; empty when all is well.
        """
        answered = self._target.answered_for(self._lease)
        return gradient_findings(self.resolution, answered, self._backend.gradients(self.model))

    def groups(self) -> tuple[ParamGroup, ...]:
        """Return the plan's param groups: trainable parameters with one set of settings each.

        With phases they hold what any phase trains, and are the same in all of them.

        Parameters are in canonical order, groups in the order of their first parameter; both are
        the same in every framework and from run to run.
        """
        return param_groups(self.resolution) if self._run is None else self._run.groups()

    def param_groups(self, lr: float | None = None) -> list[dict[str, Any]]:
        """Build param groups as the framework's optimizers take them.

        Args:
            lr: Base learning rate. PyTorch's group rates are absolute, so it is needed there when
                a group scales it; Paddle's are scales on the optimizer's rate.
        """
        return self._backend.param_groups(self.model, self._some_groups(), lr=lr)

    def optimizer(self, cls: type, **settings: Any) -> Any:
        """Build an optimizer over what the plan trains, with the plan's group settings.

        Args:
            cls: The framework's optimizer class.
            **settings: Its settings under neutral names (`lr`, `weight_decay`, …).

        Raises:
            OptimizerError: The optimizer is known to move frozen parameters, is not an optimizer of
                this framework, or there is nothing to train.

        >>> optimizer = handle.optimizer(AdamW, lr=1e-3, weight_decay=0.01)
        """
        if "learning_rate" in settings:  # Paddle's name for it
            if "lr" in settings:
                raise OptimizerError("lr and learning_rate are the same setting", hint="give one")
            settings["lr"] = settings.pop("learning_rate")
        if self._run is None:
            optimizer = self._backend.optimizer(self.model, cls, self._some_groups(), settings)
            self._name_states(optimizer)
            self._order.expect(self._backend, optimizer)
            self._built = weakref.ref(optimizer)
            return optimizer
        first = self._run.phased.first_rate
        given = settings.setdefault("lr", first) if first is not None else None
        if isinstance(given, int | float) and given != first:
            raise OptimizerError(
                f"lr={given}, and the plan's first phase sets {first}",
                hint="leave lr out, or take it out of the phases",
            )
        optimizer = self._backend.optimizer(self.model, cls, self._some_groups(), settings)
        self.attach(optimizer)
        return optimizer

    def attach(self, optimizer: Any) -> None:
        """Let phases steer an optimizer that was built elsewhere.

        It must hold every parameter that any phase trains, so that its groups never change. Phases
        set the base rate: what a scheduler makes of the optimizer's own rate is multiplied by the
        phase's rate over that one, for the time of each step; schedulers and saved states of
        optimizers know nothing of phases.

        Raises:
            OptimizerError: It lacks parameters that a phase trains, or breaks when flags change.
        """
        self._check_in_force("attach an optimizer")
        if self._run is None:
            raise OptimizerError(
                "the plan has no phases, so there is nothing to steer",
                hint="leave attach out: an optimizer over the plan's parameters trains as it is",
            )
        self._run.attach(optimizer)
        self._name_states(optimizer)

    def rates(self) -> dict[str, float]:
        """Return the learning rate of each group, by its name, that the next step would use.

        It is what a scheduler says now, times the group's scale and, with phases, what the phase
        and its warm-up make of it. Groups are those of `groups()`; what is frozen now has the rate
        that it would train with.

        Raises:
            OptimizerError: The handle has no optimizer: neither did `optimizer` build one that is
                still there, nor was one attached to the phases.

        >>> handle = plan.with_group("bias", lr_scale=10, weight_decay=0).apply(model)
        >>> optimizer = handle.optimizer(AdamW, lr=0.001)
        >>> handle.rates()
        {'lr x 1': 0.001, 'lr x 10, weight decay 0': 0.01}
        """
        self._check_in_force("read rates")
        optimizer, rate = self._built(), Rate()
        if self._run is not None:
            optimizer, rate = self._run.optimizer, self._run.next_rate()
        return group_rates(self._backend, self.model, self.groups(), optimizer, rate)

    def check_optimizer(self, *optimizers: Any) -> None:
        """Refuse an optimizer, or several together, that would not do what the plan says.

        Raises:
            OptimizerError: They lack something that the plan trains, in whatever phase, or were
                built without its groups' settings.
        """
        check_optimizers(self._backend, self.model, self.groups(), optimizers)
        if self._run is None:
            self._order.expect(self._backend, *optimizers)

    def _name_states(self, optimizer: Any) -> None:
        live = self._backend.objects(self.model)
        paths = {id(live[path]): path for path in reversed(live)}  # of a tied one, the first name
        self._backend.name_states(optimizer, paths)

    @property
    def phase(self) -> Phase | None:
        """The phase that the run is in; None if the plan has none."""
        return None if self._run is None else self._run.phased.schedule.current

    @property
    def stopped(self) -> bool:
        """Tell whether the schedule has ended the training."""
        return self.phase is not None and self.phase.stop

    def on_phase(self, call: Callable[[Phase], None]) -> None:
        """Call a function with each phase that begins, after it has: to build a new scheduler."""
        if self._run is not None:
            self._run.on_phase(call)

    def keep_best(self, folder: str | Path) -> None:
        """Keep the best values of each phase in a folder, for a phase that begins from them.

        Wanted by phases with `restore_best`. The latest are kept, as a safetensors file, and those
        that the last three saved states refer to.
        """
        if self._run is not None:
            self._run.keep_best(folder)

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
        self._check_in_force("step")
        numbers(metrics)  # what is not a number is refused before anything changes
        began = False if self._run is None else self._run.step(epoch, step, metrics)
        self._note(epoch, step, metrics)
        return began

    def would_stop(
        self,
        *,
        epoch: int | None = None,
        step: int | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> bool:
        """Tell whether `step`, called with the same, would end the training; nothing changes.

        For trainers that look whether to stop when a step has ended, and not when one begins.

        Raises:
            ScheduleError: As `step` does.
        """
        if self._run is None:
            return False
        return self.stopped or self._run.would_stop(epoch, step, metrics)

    @property
    def _told(self) -> bool:
        """True once the run was told of an epoch or step."""
        return bool(self._history.rows) if self._run is None else self._run.told

    @property
    def _waits(self) -> bool:
        """True if later phases wait to begin, and the schedule was never told where the run is."""
        return self._run is not None and self._run.waits

    def _note(
        self, epoch: int | None, step: int | None, metrics: Mapping[str, float] | None
    ) -> None:
        trainable, total = self.resolution.counts()
        name = self.phase.name if self.phase is not None else ""
        self._history.note(
            trainable=trainable, total=total, epoch=epoch, step=step, phase=name, metrics=metrics
        )

    def report(self, metrics: Mapping[str, float] | None = None) -> RunReport:
        """Say what became of the run: for each epoch its phase, what trained, what was measured.

        Args:
            metrics: What was measured after the last epoch, which no `step` has brought.

        >>> handle.step(epoch=0)
        False
        >>> train(model, optimizer)
        >>> print(handle.report({"val_loss": 0.5}))
        epoch  trainable  frozen  val loss
        0             21   90.1%       0.5
        """
        if metrics:
            self._history.measured(metrics)
        return run_report(self._history, told=not self._waits, remark=self._order.remark)

    def state_dict(self) -> dict[str, Any]:
        """Return where the run stands: plain data, the same in every framework.

        It says which plan and model it is of, whether any epoch or step was told (`told`), the
        history of the run and, of a plan with phases, where it stands in them.
        """
        if self._run is None:
            state = plain_state(self._plan, self.resolution.spec)
        else:
            state = self._run.state()
        return {**state, "told": self._told, "history": self._history.state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a run was saved; the values that the model has now are the ones to hold.

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
        self._check_in_force("load a state")
        check_format(state)
        if self._run is None:
            check_origin(state, self._plan, self.resolution.spec, digest=self._plan.digest)
        history = History.restored(state["history"])
        if self._run is not None:
            self._run.load(state)
        self._history = history
        self.rebase()

    def trainable_state_dict(self) -> dict[str, Any]:
        """Return the values of what has been trained so far, and the digest of their base.

        Plain data and NumPy arrays (bfloat16 as float32) under native paths: parameters that any
        phase up to now has trained, and statistics that moved meanwhile. The base is all the rest.
        """
        self._check_in_force("save what was trained")
        return trained_state(self._backend, self.model, self._held_so_far())

    def save_trained(self, path: str | Path) -> None:
        """Write what `trainable_state_dict` gives, and no more, as one safetensors file.

        Values keep their dtype, bfloat16 too, and stand under native paths: any library that reads
        safetensors reads them. The header names the base, tensor by tensor, and the plan, for
        `unifreeze.load_trained`. The file takes its place once it is complete.

        Args:
            path: A `.safetensors` file; an older one of that name is replaced.

        Raises:
            WeightFileError: The file cannot be written; an older one is as it was.

        >>> handle.save_trained(folder / "head.safetensors")
        """
        self._check_in_force("save what was trained")
        save_trained(self._backend, self.model, self._held_so_far(), self.plan, path)

    def load_trainable_state_dict(self, state: Mapping[str, Any]) -> None:
        """Write what `trainable_state_dict` gave into a model on the same base.

        Raises:
            WeightFileError: The base is another, or the model is; nothing has been written.
        """
        self._check_in_force("load what was trained")
        paths = load_state(self._backend, self.model, self.resolution.spec, state)
        if self._run is not None:
            self._run.values_written(paths)
        self.rebase()

    def _held_so_far(self) -> list[Resolution]:
        if self._run is None:
            return [self.resolution]
        phased = self._run.phased
        return list(phased.resolutions[: phased.schedule.phase + 1])

    def _some_groups(self) -> tuple[ParamGroup, ...]:
        self._check_in_force("build param groups")
        groups = self.groups()
        if not groups:
            raise OptimizerError("the plan leaves nothing to train")
        check_in_place(self._backend, self.model, groups)
        return groups

    def __str__(self) -> str:
        trainable, total = self.resolution.counts()
        share = 100 * trainable / total if total else 0.0
        return (
            f"trainable params: {trainable:,} || all params: {total:,} || trainable%: {share:.4f}"
        )

    def __repr__(self) -> str:
        return f"<unifreeze.Handle on {type(self.model).__name__}: {self}>"


def _call_all(calls: Sequence[Undo]) -> None:
    for call in calls:
        call()


def _held_states(resolution: Resolution) -> tuple[str, ...]:
    held = set(resolution.held)
    return tuple(
        state.path for state in resolution.spec.states if state.moves and state.owner in held
    )
