"""The target of a plan: one model or several, on which other plans may be in force, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from unifreeze._handle.baseline import Baseline
from unifreeze._handle.lease import (
    Lease,
    all_leases,
    as_found,
    guards_found,
    keep_leases,
    lease_on,
    leases_over,
    refuse_for_a_while,
    standing,
)
from unifreeze._handle.overlap import Blend, Claim, blend, blend_flags, claim_on, present, shared
from unifreeze._protocol import Backend, Batch, refuse_unsupported
from unifreeze._protocol.uninterrupted import uninterrupted
from unifreeze._resolution import Resolution, settle
from unifreeze._structure import Mask, ModelSpec
from unifreeze._undo import nothing
from unifreeze.errors import PlanError, TargetError, brief, listing


class _Before(NamedTuple):
    """The state of a model before a write."""

    flags: Mask
    guards: Mapping[int, Any]

    @property
    def still(self) -> set[int]:
        """Identities of the modules that were held."""
        return {key for key, guard in self.guards.items() if guard.still}


_NOTHING = _Before(np.zeros(0, np.bool_), {})


class Target:
    """What a plan is applied to: one model, or several held as one.

    Attributes:
        model: The model, or the container of several models.
        backend: Its backend.
        names: For each model, the first piece of its native paths; "" for a single model.
    """

    def __init__(self, model: Any, backend: Backend) -> None:
        self.backend = backend
        if isinstance(model, Mapping):
            _check_names(model)
            self.model = backend.group(model)
            self.names = {name: backend.root(member) for name, member in model.items()}
        else:
            self.model = model
            self.names = {"": backend.root(model)}

    def lease(self) -> Lease | None:
        """Return the lease on exactly these models, if there is one."""
        return lease_on(self.names.values())

    def describe(self, batch: Batch | None, last: ModelSpec | None = None) -> ModelSpec:
        """Describe the model, with the flags that somebody else last wrote.

        Args:
            batch: One batch of inputs, to count positions in order of execution.
            last: An earlier description, which is good enough if the structure is the same.
        """
        if batch is not None and "" not in self.names:
            raise TargetError(
                "a batch cannot be given for several models at once",
                hint="leave it out; positions then count in order of registration",
            )
        spec = self.backend.describe(self.model, None if last else batch)
        if last is not None:
            if last.tree is not spec.tree:
                return self.describe(batch)
            spec = last.with_found(spec.found)
        leases, current = leases_over(spec, all_leases()), self.lease()
        flags = as_found(spec, leases if current is None or current in leases else [current])
        other_leases = [lease for lease in leases if lease is not current]
        if current is not None and current.resolution.spec.placement is spec.placement:
            spec = current.resolution.spec  # its memo holds the earlier resolutions
        return spec.with_found(
            flags, standing(spec.with_found(flags), other_leases) if other_leases else None
        )

    def put_in_force(
        self,
        describe: Callable[[], ModelSpec],
        decide: Callable[[ModelSpec], Resolution],
        prepare: Callable[[Resolution], Baseline],
        *,
        again: bool,
    ) -> Lease:
        """Resolve, check, write; a model under a plan changes to the new one in one step.

        Args:
            describe: Describes the model.
            decide: Resolves the plan against a description.
            prepare: Returns the baseline; called just before anything is written.
            again: The plan that is in force on this target is written once more, in its place.

        Raises:
            ResolveError: The plan does not fit the model.
            UnsupportedPlanError: The framework would get it wrong.
            WriteError: The framework refused.
            In each case the model is as it was.
        """
        spec = describe()
        old = self.lease()
        refuse_for_a_while(self.backend, spec, again=again and old is not None)
        lease = Lease(decide(spec), spec.found)
        if again and old is not None:
            lease.number = old.number
        leases = sorted(
            [*(active for active in all_leases() if active is not old), lease],
            key=attrgetter("number"),
        )
        other_leases = [active for active in leases_over(spec, leases) if active is not lease]
        wanted = self._blended(spec, leases).resolution if other_leases else lease.resolution
        refuse_unsupported(self.backend, self.model, wanted)
        lease.baseline = prepare(lease.resolution)
        same = old is not None and old.resolution.spec.tree is spec.tree
        before = self._before(other_leases) if other_leases or not same else _NOTHING
        lease.guards = guards_found(spec, before.guards, [*other_leases, *([old] if old else [])])
        lease.contents = self.backend.contents(self.model)
        lease.put_back = keep_leases()
        try:
            lease.unwrite = self.backend.write(self.model, wanted)
            if old is not None:
                old.stop_watching()
                old.leave()
            lease.written = wanted.trainable
            lease.enter(self.names)
            self._update_leases(
                [*other_leases, lease] if other_leases else [], spec, wanted, before, leases
            )
            if old is not None and not same:
                self._release_departed(old)
            return lease
        except BaseException:
            self.take_back(lease, old)
            raise

    def take_back(self, lease: Lease, old: Lease | None) -> None:
        """Undo `put_in_force`: as if the new lease had never been."""
        with uninterrupted():
            lease.unwrite()
            lease.put_back()
            if old is not None and (watch_again := old.watch_again()) is not None:
                watch_again()

    def give_back(self, lease: Lease) -> None:
        """End a plan: the next latest plan decides its parameters, or the flags found before."""
        released: list[Lease] = []
        try:
            self._release(self.model, lease, {}, released)
            self._end(lease)
        except BaseException as error:
            if released and not isinstance(error, Exception):
                with uninterrupted():
                    self._end(lease)
            raise

    def _end(self, lease: Lease) -> None:
        self._release_departed(lease)
        lease.stop_watching()
        lease.leave()

    def _release_departed(self, lease: Lease) -> None:
        """Restore layers that have left the model since a plan was written on it."""
        departed = self.backend.departed(self.model, lease.contents)
        if departed is not None:
            # A layer put in place of another may hold its parameters.
            self._release(departed, lease, self.backend.describe(self.model).tree.numbers, [])

    def _release(
        self, model: Any, lease: Lease, kept: Mapping[int, int], released: list[Lease]
    ) -> None:
        """Write what the plans decide without one of them; other parameters get the flags found.

        Args:
            model: A model, or parts that have left a model.
            lease: The lease of the plan that ends.
            kept: Parameters that stay as they are, by identity.
            released: Gets the lease once all is written; on an error before, nothing has changed.
        """
        spec = self.backend.describe(model)
        flags = as_found(spec, [lease, *leases_over(spec, all_leases())])
        here = shared(spec.tree.numbers, kept)[0]
        flags[here] = spec.found[here]
        spec = spec.with_found(flags)
        leases = [active for active in all_leases() if active is not lease]
        other_leases = leases_over(spec, leases)
        wanted, before = self._blended(spec, leases).resolution, self._before(other_leases, model)
        undo, put_back = nothing, keep_leases()
        try:
            undo = self.backend.write(model, wanted, lease.guards)
            self._update_leases(other_leases, spec, wanted, before, leases)
            released.append(lease)
        except BaseException:
            if not released:
                with uninterrupted():
                    undo()
                    put_back()
            raise

    def unpin(self) -> None:
        """Remove the hooks and modes that came with a copy; raises as `unifreeze.unpin` does."""
        spec = self.backend.describe(self.model)
        if leases_over(spec, all_leases()):
            raise PlanError(
                "the model is under a plan, and is not a copy of one",
                hint="end the plan: handle.remove()",
            )
        self.backend.write(self.model, Resolution.without_plan(spec))

    def answered_for(self, lease: Lease) -> Mask | None:
        """Return which parameters no other plan decides; None for all of them."""
        leases, spec = all_leases(), lease.resolution.spec
        overlapping = leases_over(spec, leases)
        if len(overlapping) == 1:
            return None
        flags = blend_flags(spec, [active.resolution for active in overlapping])
        return np.isin(flags.decider, (overlapping.index(lease), -1))

    def _blended(self, spec: ModelSpec, leases: list[Lease]) -> Blend:
        """Combine the decisions of some leases, the oldest first, for a model."""
        overlapping = leases_over(spec, leases)
        flags = blend_flags(spec, [lease.resolution for lease in overlapping])
        return blend(spec, flags, [self._claim(spec, lease, leases) for lease in overlapping])

    def _claim(self, spec: ModelSpec, lease: Lease, leases: list[Lease]) -> Claim:
        """Return what a plan claims of a model's modules, given what others have written since."""
        flags = lease.found.copy()
        here, there = shared(spec.tree.numbers, lease.resolution.spec.tree.numbers)
        flags[there] = spec.found[here]
        leased = lease.resolution.spec.with_found(flags)
        resolutions = [active.resolution for active in leases_over(leased, leases)]
        settled = settle(lease.resolution, blend_flags(leased, resolutions).trainable)
        tree = lease.resolution.spec.tree
        if tree is spec.tree or not lease.names:
            return claim_on(spec.tree, settled, None)
        now = self.backend.describe(lease.model(self.backend)).tree
        return claim_on(spec.tree, settled, present(tree, now))

    def _update_leases(
        self,
        affected: list[Lease],
        spec: ModelSpec,
        now: Resolution,
        before: _Before,
        leases: list[Lease],
    ) -> None:
        """Update other plans' leases after a write to parameters that they cover, too.

        Args:
            affected: The leases to update.
            spec: The model that was written to, with its flags as found.
            now: The decisions that were written.
            before: The state before the write.
            leases: All leases in force.
        """
        if not affected:
            return
        frozen = before.flags & ~now.trainable
        still = {spec.tree.keys[n] for n in now.held} - before.still
        for lease in affected:
            tree = lease.resolution.spec.tree
            here, there = shared(spec.tree.numbers, tree.numbers)
            lease.found, lease.written = lease.found.copy(), lease.written.copy()
            lease.found[there], lease.written[there] = spec.found[here], now.trainable[here]
            newly = np.zeros(len(tree.tensors), np.bool_)
            newly[there] = frozen[here]
            self._renew(lease, newly, still, leases)

    def _renew(self, lease: Lease, frozen: Mask, still: set[int], leases: list[Lease]) -> None:
        """Let a plan's baseline hold what the plan decides now, beside the other plans.

        Args:
            lease: The plan's lease.
            frozen: Its parameters that trained until now, and are frozen.
            still: Identities of the modules that hold still now, and did not before.
            leases: All leases in force.
        """
        spec = lease.resolution.spec.with_found(lease.found)
        together, number = self._blended(spec, leases), leases_over(spec, leases).index(lease)
        decided, undecided = together.decider == number, together.decider < 0
        answered = (decided & ~lease.resolution.trainable) | (undecided & ~lease.found)
        answered &= ~lease.resolution.written
        names, first = spec.tree.names, spec.first_names
        held = set(together.resolution.held)
        states = [state for state in spec.states if state.moves]
        moving = {names[name] for name in first[frozen | together.resolution.trainable]}
        for state in states:
            if state.owner not in held or spec.tree.keys[state.owner] in still:
                moving.add(state.path)
        lease.baseline.hold(
            self.backend,
            lease.model(self.backend),
            [names[name] for name in first[answered]],
            [s.path for s in states if s.owner in held and together.keeper[s.owner] == number],
            moving,
        )

    def _before(self, other_leases: list[Lease], model: Any | None = None) -> _Before:
        """Return the state before a write; flags are needed only where there are other plans."""
        model = self.model if model is None else model
        flags = self.backend.describe(model).found if other_leases else _NOTHING.flags
        return _Before(flags, self.backend.guards(model))


def _check_names(models: Mapping[Any, Any]) -> None:
    """Refuse names that could not begin a native path."""
    for name in models:
        if not isinstance(name, str) or not name or "." in name:
            raise TargetError(
                f"{brief(name)} cannot name a model",
                context=f"names given: {listing(map(brief, models))}",
                hint='several models have plain names: {"student": …, "teacher": …}; in place of '
                "a state dict, pass the model that it belongs to",
            )
