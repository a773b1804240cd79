"""A plan in force on a live model: written, held to a baseline, verified, removed."""

from __future__ import annotations

from collections.abc import Iterable, Set
from functools import partial
from weakref import WeakMethod

from unifreeze._handle.as_written import SWITCHED, not_as_written
from unifreeze._handle.baseline import OFFLOADED, Baseline, take_baseline
from unifreeze._handle.first_gradients import FirstGradients
from unifreeze._handle.gradients import gradient_findings
from unifreeze._handle.lease import Lease, refuse_for_a_while
from unifreeze._handle.order_watch import OrderWatch
from unifreeze._handle.resolved_phases import ResolvedPhases
from unifreeze._handle.shards import one_verdict, together
from unifreeze._handle.step_reminders import UntoldReminder
from unifreeze._handle.target import Target
from unifreeze._handle.verify import Drift, Verified, count_unchanged, drift_error, find_drifts
from unifreeze._handle.wrapping_watch import WrappingWatch
from unifreeze._plan import FreezePlan
from unifreeze._protocol import Batch, Finding, Undo, refuse_unsupported
from unifreeze._protocol.live import LiveTensor
from unifreeze._protocol.uninterrupted import uninterrupted
from unifreeze._resolution import Resolution
from unifreeze._structure import ModelSpec
from unifreeze._undo import nothing, undo_all
from unifreeze.errors import UnifreezeError, counted, listing


class PlanInForce:
    """A plan on its target, from `apply` to `remove`.

    Attributes:
        backend: The model's backend.
        model: The live model, or the container of several models.
        phases: The plan's phases, resolved on the model, and which of them holds now.
        order: Watches forward passes, for a plan that counts layers as they are registered.
        reminder: Warns of training before the schedule was told where the run is.
        away: Identities of frozen tensors whose values are out of memory for a while.
        bring_back: Puts these values back; whatever needs them calls it first.
        gradients: Looks whether everything that trains gets a gradient.
        wrapping: Sees that something that exchanges gradients has wrapped the model.
    """

    phases: ResolvedPhases

    def __init__(
        self, plan: FreezePlan, target: Target, *, batch: Batch | None, keep_values: bool
    ) -> None:
        """Put a plan in force; raises as `unifreeze.apply` does.

        Args:
            plan: The plan.
            target: What it is applied to.
            batch: One batch of inputs, to count positions in order of execution.
            keep_values: Keep copies of frozen values, so that `verify` tells changes exactly.
        """
        self._plan, self._target = plan, target
        self.backend, self.model = target.backend, target.model
        self._batch, self._keep_values = batch, keep_values
        self.order = OrderWatch(lambda: self.phases)
        self.reminder = UntoldReminder()
        self.away: Set[int] = frozenset()
        self.bring_back: Undo = nothing
        self.wrapping = WrappingWatch(lambda: any(r.rows for r in self.phases.resolutions))
        self.gradients = FirstGradients(lambda: self.phases.resolution, self.model)
        self._write()

    @property
    def resolution(self) -> Resolution:
        """What the plan decides for the model now."""
        return self._lease.resolution

    @property
    def baseline(self) -> Baseline:
        """How the frozen tensors were when the plan took effect."""
        return self._lease.baseline

    @property
    def lasts(self) -> bool:
        """True until the plan is removed, or replaced by another."""
        return self._lease.in_force

    def dropped(self, tensors: Iterable[LiveTensor], bring_back: Undo) -> None:
        """Note which frozen tensors have no values for a while, and what puts these back."""
        self.away, self.bring_back = frozenset(map(id, tensors)), bring_back

    def check_lasts(self, action: str) -> None:
        """Refuse a call if the plan is no longer in force.

        Args:
            action: What the call would do, for the message.

        Raises:
            UnifreezeError: The plan was removed, or replaced.
        """
        if not self.lasts:
            raise UnifreezeError(
                f"cannot {action}: this handle's plan is no longer in force",
                context="it was removed, or another plan was applied to the model",
                hint="use the handle of the last apply",
            )

    def check_present(self, action: str) -> None:
        """Refuse a call if parameters that the plan decides have left the model.

        Args:
            action: What the call would do, for the message.

        Raises:
            UnifreezeError: Naming the parameters.
        """
        self.check_lasts(action)
        spec, now = self.resolution.spec, self.backend.describe(self.model)
        if now.tree is spec.tree:
            return
        present = set(now.tree.names)
        names = (spec.tree.names[name] for name in spec.first_names)
        if missing := [name for name in names if name not in present]:
            has = counted(
                len(missing),
                "parameter that the plan decides is",
                "parameters that the plan decides are",
            )
            raise UnifreezeError(
                f"cannot {action}: {has} no longer in the model",
                context=listing(missing),
                hint="if they were replaced, as weight_norm does: handle.reapply()",
            )

    def _write(self, *, again: bool = False, last: ModelSpec | None = None) -> None:
        """Write the current phase on the model as it is now; on any error nothing changes.

        Args:
            again: The plan is in force already, and keeps its place among other plans.
            last: A description that is good enough if the structure is still the same.
        """
        before, old = getattr(self, "phases", None), self._target.lease()
        lease: Lease | None = None
        mine = vars(self).get("_lease")
        kept = mine.baseline if again and mine else None
        try:
            with self.backend.settled(self.model):
                lease = self._target.put_in_force(
                    partial(self._target.describe, self._batch, last),
                    self._decide,
                    partial(self._take_baseline, old=kept),
                    again=again,
                )
                self._lease: Lease = lease
                self._watch()
                lease.unwrite = lease.put_back = nothing
        except BaseException:
            if before is not None:
                self.phases = before
            if lease is not None and lease.unwrite is not nothing:
                with uninterrupted():
                    lease.stop_watching()
                    vars(self)["_lease"] = mine
                    self._target.take_back(lease, old)
            raise

    def _decide(self, spec: ModelSpec) -> Resolution:
        """Return what the current phase decides; on a new model every phase is checked."""
        last = getattr(self, "phases", None)
        if last is None or last.spec is not spec:
            self.phases = ResolvedPhases(self._plan, spec, last)
            self._check_phases()
        return self.phases.resolution

    def _check_phases(self) -> None:
        """Refuse a plan if the framework would get one of its phases wrong."""
        for resolution in self.phases.to_check():
            refuse_unsupported(self.backend, self.model, resolution)

    def _take_baseline(self, resolution: Resolution, old: Baseline | None = None) -> Baseline:
        return take_baseline(
            self.backend, self.model, resolution, keep_values=self._keep_values, old=old
        )

    def _watch(self) -> None:
        """Watch for state dicts being loaded, for the order of layers, and for untold training."""
        self._lease.stop_watching()
        stops: list[Undo] = [nothing, nothing, nothing, nothing]
        self._lease.stop_watching = partial(undo_all, stops)
        self._loads, stops[0] = self.backend.watch_loads(self.model)
        stops[1] = self.order.watch(self.backend, self.model)
        stops[2] = self.reminder.watch(self.backend, self.model, self.phases)
        stops[3] = self.wrapping.watch(
            self.backend, self.model, self._accept_wrapping, self._check_phases
        )
        self._lease.watch_again = WeakMethod(self._watch)

    def enter(self, phases: ResolvedPhases) -> None:
        """Put another phase in force; tensors that stay frozen are held to their old baseline.

        Args:
            phases: The plan's phases, of which that phase holds; on any error nothing changes.
        """
        self.bring_back()
        last, old = self.phases, self.baseline
        self.phases = phases
        try:
            self._write(again=True, last=self.resolution.spec)
        except BaseException:
            self.phases = last
            raise
        self.baseline.keep_from(old, self.baseline.paths)

    def take_in_wrapping(self) -> None:
        """Hold frozen tensors to the values that wrapping has given them, if it has."""
        self.backend.agree_later(self.model)
        if self.lasts and self.wrapping.is_new(self.backend, self.model):
            self._accept_wrapping()

    def _accept_wrapping(self) -> None:
        """Take new values, or the parameters that have taken the place of others."""
        self.wrapping.taken_in(self.backend, self.model)
        live, before = self.backend.objects(self.model), self.baseline.objects
        if all(live.get(path) is thing for path, thing in before.items() if thing is not OFFLOADED):
            self._check_phases()
            self._lease.baseline = self._take_baseline(self.resolution)
        else:
            self._write(again=True)

    def verify(self, action: str = "call handle.verify") -> Verified:
        """Check that everything frozen is bit for bit as it was; raises as `Handle.verify` does.

        Args:
            action: What the user does, for a process that is alone in it.
        """
        self.check_lasts("verify")
        self._refuse_gathered("verify")
        self.take_in_wrapping()
        processes = together(self.backend, self.model, action)
        with self.backend.settled(self.model):
            # A layer that trains may be put in anew; that is `check_flags` to say, and no drift.
            drifts = [drift for drift in self._not_as_written() if drift.kind in SWITCHED]
            drifts += find_drifts(self.backend, self.model, self.baseline, self._loads(), self.away)
            drifts += self._new_parts()
        drifts = one_verdict(processes, drifts, action)
        if drifts:
            raise drift_error(drifts)
        told = not self.phases.schedule.waits
        return count_unchanged(self.baseline, self.away)._replace(
            told=told, unseen=self.order.unseen
        )

    def check_flags(self) -> None:
        """Check flags, modes and objects; raises as `Handle.check_flags` does."""
        self.check_lasts("check flags")
        self._refuse_gathered("check flags")
        self.take_in_wrapping()
        with self.backend.settled(self.model):
            drifts = self._not_as_written()
        if drifts:
            raise drift_error(drifts)

    def _not_as_written(self) -> list[Drift]:
        drifts = list(not_as_written(self.backend, self.model, self._lease, None))
        if not drifts:
            return []
        answered = self._target.answered_for(self._lease)
        return list(not_as_written(self.backend, self.model, self._lease, answered))

    def _refuse_gathered(self, action: str) -> None:
        if self.backend.is_gathered(self.model):
            raise UnifreezeError(
                f"cannot {action}: parameters that processes have divided are gathered just now",
                hint="call it outside the block that gathers them",
            )

    def _new_parts(self) -> list[Drift]:
        """Find parameters and layers that were added since and that the plan would hold."""
        spec = self.backend.describe(self.model)
        if spec.tree is self.resolution.spec.tree:
            return []
        known = set(self.resolution.spec.paths_of(range(len(self.resolution.spec))))
        unheld: list[str] = []
        try:
            resolution = self.phases.decided(spec)[self.phases.schedule.phase]
            frozen = set(resolution.frozen_paths)
            unheld = self.backend.unheld(self.model, resolution)
        except UnifreezeError:
            # The plan no longer fits the model, so every new parameter is reported.
            frozen = set(spec.tree.names)
        new = [
            Drift(path, "new", "the plan would freeze it")
            for path, trainable in self.backend.read(self.model).items()
            if path not in known and trainable and path in frozen
        ]
        swapped = "its statistics or other state should hold still, but do not"
        return new + [Drift(path, "replaced", swapped) for path in unheld]

    def rebase(self) -> None:
        """Accept the values and shapes of now; raises as `Handle.rebase` does."""
        self.check_lasts("rebase")
        self.bring_back()
        present = self.backend.objects(self.model)
        missing = [path for path in self.baseline.paths if path not in present]
        if missing:
            gone = counted(len(missing), "frozen tensor is", "frozen tensors are")
            raise UnifreezeError(
                f"cannot rebase: {gone} no longer there",
                context=listing(missing),
                hint="take the new structure into the plan: handle.reapply()",
            )
        if self.backend.describe(self.model).tree is not self.resolution.spec.tree:
            self._write()
            return
        self._lease.baseline = self._take_baseline(self.resolution)
        self._watch()

    def reapply(self) -> None:
        """Take in modules that were replaced or added after the plan took effect."""
        self.check_lasts("reapply")
        self.bring_back()
        old = self.baseline
        self._write(again=True)
        self.baseline.keep_from(old, self.baseline.paths)
        self._check_phases()  # a later phase may not fit the changed model

    def remove(self) -> None:
        """Put flags, modes and hooks back as they were before the first plan."""
        self.check_lasts("remove")
        self.bring_back()
        self.gradients.stop()
        refuse_for_a_while(self.backend, self.resolution.spec, again=True)
        self._target.give_back(self._lease)

    def check_gradients(self) -> tuple[Finding, ...]:
        """Check the gradients that a backward pass left."""
        self.check_lasts("check gradients")
        answered = self._target.answered_for(self._lease)
        return gradient_findings(self.resolution, answered, self.backend.gradients(self.model))
