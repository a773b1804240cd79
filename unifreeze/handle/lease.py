"""Which model is under which plan, and how it was before the first one."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar

import numpy as np

from unifreeze.backend import Backend, Batch, Undo, refuse_unsupported
from unifreeze.errors import PlanError, TargetError, brief, listing
from unifreeze.resolution import Resolution
from unifreeze.structure import ModelSpec

Prepared = TypeVar("Prepared")

_leases: weakref.WeakKeyDictionary[Any, Lease] = weakref.WeakKeyDictionary()


for_a_while: weakref.WeakSet[Any] = weakref.WeakSet()
"""Models whose flags `frozen` has changed for a while."""


@dataclass(eq=False)
class Lease:
    """A model's time under plans: it lasts from the first `apply` to `remove`.

    A lease must not keep its models alive, so it holds no reference to them.

    Attributes:
        spec: Description at the last apply, with flags as found before the first.
        undos: What puts everything back, the latest first.
        stop_watching: Ends the watch for state dicts being loaded.
        names: For each model under it, the first piece of its native paths; "" for a single one.
    """

    spec: ModelSpec
    undos: list[Undo]
    stop_watching: Undo = lambda: None
    names: weakref.WeakKeyDictionary[Any, str] = field(default_factory=weakref.WeakKeyDictionary)
    number: int = field(default_factory=count().__next__)

    def end(self) -> None:
        """Put the models back as they were before the first plan.

        Raises:
            PlanError: A later plan over some of the same parameters has this one as its start.
        """
        mine = self.spec.tree.numbers.keys()
        for other in set(_leases.values()):
            if other.number > self.number and not mine.isdisjoint(other.spec.tree.numbers):
                raise PlanError(
                    "cannot remove: a later plan covers some of the same parameters",
                    context="it was applied to a part of this model, or to one this is a part of",
                    hint="remove that one first",
                )
        self.stop_watching()
        for undo in self.undos:
            undo()
        for root in list(self.names):
            _leases.pop(root, None)

    def found(self, prefix: str) -> dict[str, bool]:
        """Return flags as found before the first plan, by native path under `prefix`."""
        paths = (self.spec.tree.names[name] for name in self.spec.first_names)
        flags = zip(paths, self.spec.found.tolist(), strict=True)
        return {f"{prefix}.{path}" if prefix else path: flag for path, flag in flags}


class Target:
    """What a plan is applied to: one model, or several held as one.

    Attributes:
        model: The model, or what holds the several.
        backend: Its backend.
        names: For each model, the first piece of its native paths; "" for a single one.
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
        """Return the lease that covers all the models, if there is one."""
        leases = [_leases.get(root) for root in self.names.values()]
        first = leases[0]
        same = first is not None and all(lease is first for lease in leases)
        return first if same and first and len(first.names) == len(leases) else None

    def leases(self) -> dict[str, Lease]:
        """Return the leases the models are under, by the name of the first model of each."""
        found: dict[str, Lease] = {}
        for name, root in self.names.items():
            lease = _leases.get(root)
            if lease is not None and lease not in found.values():
                found[name] = lease
        return found

    def describe(self, batch: Batch | None) -> ModelSpec:
        """Describe the model, with the flags it had before its first plan."""
        if batch is not None and "" not in self.names:
            raise TargetError(
                "a batch cannot be given for several models at once",
                hint="leave it out; positions then count in order of registration",
            )
        spec = self.backend.describe(self.model, batch)
        flags: dict[str, bool] = {}
        for name, lease in self.leases().items():
            if lease.spec.placement is spec.placement:
                return lease.spec
            if lease.spec.tree is spec.tree:
                return spec.with_found(lease.spec.found)
            flags |= lease.found("" if len(lease.names) > 1 else name)
        if not flags:
            return spec
        paths = (spec.tree.names[name] for name in spec.first_names)
        now = zip(paths, spec.found.tolist(), strict=True)
        return spec.with_found(np.asarray([flags.get(path, flag) for path, flag in now], np.bool_))

    def check_alone(self) -> None:
        """Refuse a model that is under one plan together with others that stay under it."""
        for lease in self.leases().values():
            left = set(lease.names.values()) - set(self.names)
            if len(lease.names) > 1 and left:
                raise PlanError(
                    "the model is under a plan together with others",
                    context=f"they are: {', '.join(sorted(lease.names.values()))}",
                    hint="apply the new plan to all of them, or remove() the old one first",
                )

    def put_in_force(
        self,
        describe: Callable[[], ModelSpec],
        decide: Callable[[ModelSpec], Resolution],
        prepare: Callable[[Resolution], Prepared],
    ) -> tuple[Resolution, Lease, Prepared]:
        """Resolve, check, write; a model under a plan changes to the new one in one step.

        Args:
            describe: Describes the model.
            decide: Resolves the plan against a description.
            prepare: Called just before anything is written; what it returns is passed on.

        Raises:
            ResolveError: The plan does not fit the model.
            UnsupportedPlanError: The framework would get it wrong.
            WriteError: The framework refused.
            In each case the model is as it was.
        """
        self.check_alone()
        if any(root in for_a_while for root in self.names.values()):
            raise PlanError(
                "the model is frozen for a while, and would lose the plan at the end of it",
                hint="apply the plan before `with frozen(…)`, or after",
            )
        spec = describe()
        resolution = decide(spec)
        refuse_unsupported(self.backend, self.model, resolution)
        prepared = prepare(resolution)
        previous = self.leases()
        undo = self.backend.write(self.model, resolution)
        same = self.lease()
        if same is not None and same.spec.tree is spec.tree:
            # The first undo puts back every flag and mode, so later ones add nothing.
            undos = same.undos
        else:
            undos = [undo, *(old for lease in previous.values() for old in lease.undos)]
        for old in previous.values():
            old.stop_watching()
        lease = Lease(spec, undos)
        for name, root in self.names.items():
            lease.names[root] = name
            _leases[root] = lease
        return resolution, lease, prepared


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
