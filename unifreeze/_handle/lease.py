"""Which plans are in force on which models, and the flags that somebody else last wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

from unifreeze._handle.baseline import Baseline
from unifreeze._handle.overlap import Numbers, shared
from unifreeze._identity import WeakIdentityDict, WeakIdentitySet
from unifreeze._protocol import Backend, Undo, backend_for
from unifreeze._resolution import Resolution
from unifreeze._structure import Mask, ModelSpec
from unifreeze._undo import nothing
from unifreeze.errors import PlanError

_leases: WeakIdentityDict[list[Lease]] = WeakIdentityDict()
"""The leases on each model, alone or in a group."""

for_a_while = WeakIdentitySet()
"""Models whose flags a `with frozen(…)` block has changed until it ends."""


@dataclass(eq=False)
class Lease:
    """A plan's time on its target: from `apply` to `remove`, or to the next plan for that target.

    A lease must not keep its models alive, so it holds no reference to them.

    Attributes:
        resolution: What its plan decides.
        found: For each parameter, the flag that somebody else last wrote.
        names: For each model under it, the first piece of its native paths; "" for a single one.
        written: For each parameter, its flag after the last write of any plan.
        guards: What held modules before the first plan, by identity of the module.
        baseline: How the tensors that it freezes were when it took effect.
        contents: What its target consisted of.
        stop_watching: Ends the watch for state dicts being loaded.
        watch_again: Returns what begins that watch again; None where nobody can.
        unwrite: Undoes the write that put it in force; only until it is in force.
        put_back: Puts the other leases back as they were before; only until then.
        number: Counts leases; of two plans the one with the higher number came later.
    """

    resolution: Resolution
    found: Mask
    names: WeakIdentityDict[str] = field(default_factory=WeakIdentityDict)
    written: Mask = field(default_factory=lambda: np.zeros(0, np.bool_))
    guards: Mapping[int, Any] = field(default_factory=dict)
    baseline: Baseline = field(default_factory=Baseline)
    contents: Any = None
    stop_watching: Undo = nothing
    watch_again: Callable[[], Undo | None] = lambda: None
    unwrite: Undo = nothing
    put_back: Undo = nothing
    number: int = field(default_factory=count().__next__)

    @property
    def in_force(self) -> bool:
        """True until its plan is removed, or replaced by another on the same target."""
        return any(lease is self for root in self.names for lease in _leases.get(root, ()))

    def model(self, backend: Backend) -> Any:
        """Return the model, or the group that holds the several models."""
        named = {name: root for root, name in self.names.items()}
        return named[""] if "" in named else backend.group(named)

    def enter(self, names: Mapping[str, Any]) -> None:
        """Register this lease on some models."""
        for name, root in names.items():
            self.names[root] = name
            _leases.setdefault(root, []).append(self)

    def leave(self) -> None:
        """Remove this lease from its models."""
        for root in self.names:
            rest = [lease for lease in _leases.get(root, ()) if lease is not self]
            if rest:
                _leases[root] = rest
            else:
                _leases.pop(root, None)


def keep_leases() -> Undo:
    """Return the function that puts every lease back as it is now."""
    registered = {id(root): (root, list(_leases[root])) for root in _leases}
    contents = [(lease, dict(vars(lease)), [*lease.names.items()]) for lease in all_leases()]

    def put_back() -> None:
        for root in list(_leases):
            if id(root) not in registered:
                _leases.pop(root, None)
        for root, leases in registered.values():
            _leases[root] = leases
        for lease, fields, names in contents:
            vars(lease).update(fields)
            for root, name in names:
                lease.names[root] = name

    return put_back


def all_leases() -> list[Lease]:
    """Return every lease there is, the oldest first."""
    leases = {id(lease): lease for group in _leases.values() for lease in group}
    return sorted(leases.values(), key=lambda lease: lease.number)


def lease_on(models: Iterable[Any]) -> Lease | None:
    """Return the lease on exactly these models, if there is one."""
    roots = {id(root): root for root in models}
    for lease in _leases.get(next(iter(roots.values())), ()):
        if {id(root) for root in lease.names} == roots.keys():
            return lease
    return None


def leases_over(spec: ModelSpec, leases: list[Lease]) -> list[Lease]:
    """Return the leases that cover some of the parameters of a description."""
    parameters = spec.tree.numbers.keys()

    def overlaps(lease: Lease) -> bool:
        tree = lease.resolution.spec.tree
        return tree is spec.tree or not parameters.isdisjoint(tree.numbers)

    return [lease for lease in leases if overlaps(lease)]


def as_found(spec: ModelSpec, leases: list[Lease]) -> Mask:
    """Return the flags without plans: where a plan's write still stands, the flag before it."""
    now, flags = spec.found, spec.found.copy()
    for lease in leases:
        tree = lease.resolution.spec.tree
        if tree is spec.tree:
            return np.where(now == lease.written, lease.found, now)
        here, there = shared(spec.tree.numbers, tree.numbers)
        kept = (now[here] == lease.written[there]) & ~_swept(lease, spec)[there]
        flags[here[kept]] = lease.found[there[kept]]
        here, there = _in_place(lease, spec)
        kept = now[here] == lease.written[there]
        flags[here[kept]] = lease.found[there[kept]]
    return flags


def _in_place(lease: Lease, spec: ModelSpec) -> tuple[Numbers, Numbers]:
    """Return the parameters that stand where others stood under a plan, and those others.

    `fully_shard`, or loading by assignment, puts a new parameter into the same module, with the
    flag of the old one.
    """
    then, now = lease.resolution.spec, spec.tree
    gone = {
        _place(then, number): number
        for key, number in then.tree.numbers.items()
        if key not in now.numbers
    }
    new = (number for key, number in now.numbers.items() if gone and key not in then.tree.numbers)
    places = ((number, gone.get(_place(spec, number))) for number in new)
    pairs = [(here, there) for here, there in places if there is not None]
    rows = np.asarray(pairs, np.intp).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]


def _place(spec: ModelSpec, number: int) -> tuple[int, str]:
    """Return the identity of the module that holds a parameter, and the parameter's name in it."""
    tree, name = spec.tree, int(spec.first_names[number])
    return tree.keys[tree.owners[name]], tree.leaves[name]


def _swept(lease: Lease, spec: ModelSpec) -> Mask:
    """Find parameters that a library froze when it put adapters on a model under a plan.

    Such a library freezes all the rest of the model, except for biases, which it may leave. Where
    the plan had frozen a parameter before, the library's write leaves no other trace.
    """
    then, now = lease.resolution.spec, spec.tree
    names = zip(now.adapters, now.tensor_of, strict=True)
    added = {n for adapter, n in names if adapter} - set(
        shared(now.numbers, then.tree.numbers)[0].tolist()
    )
    swept = np.zeros(len(then), np.bool_)
    if not added:
        return swept
    here, there = shared(now.numbers, then.tree.numbers)
    biases = np.asarray(["bias" in then.tree.names[name] for name in then.first_names], np.bool_)
    for sort in (biases, ~biases):
        selected = sort[there]
        if not spec.found[here[selected]].any():
            swept[there[selected]] = True
    return swept


def standing(spec: ModelSpec, leases: list[Lease]) -> Mask:
    """Return the flags under some plans; parameters that none of them decides stay as found."""
    flags = spec.found.copy()
    for lease in leases:
        here, there = shared(spec.tree.numbers, lease.resolution.spec.tree.numbers)
        decided = lease.resolution.decided[there]
        flags[here[decided]] = lease.resolution.trainable[there[decided]]
    return flags


def guards_found(spec: ModelSpec, now: Mapping[int, Any], leases: list[Lease]) -> dict[int, Any]:
    """Return the guards that modules had before the first plan over them."""
    if not now and not any(lease.guards for lease in leases):
        return {}
    keys = set(spec.tree.keys)
    covered = {key for lease in leases for key in lease.resolution.spec.tree.keys}
    guards = {key: guard for key, guard in now.items() if key not in covered}
    for lease in leases:
        guards |= {key: guard for key, guard in lease.guards.items() if key in keys}
    return guards


def refuse_for_a_while(backend: Backend, spec: ModelSpec, *, again: bool) -> None:
    """Refuse to change a model inside `with frozen(…)`, which puts its flags back at the end.

    Args:
        backend: The model's backend.
        spec: The model that would be written to.
        again: A plan that is in force would change.

    Raises:
        PlanError: Such a block has not ended.
    """
    for root in [root for root in for_a_while if backend_for(root) is backend]:
        numbers = backend.describe(root).tree.numbers
        if not numbers.keys().isdisjoint(spec.tree.numbers):
            why = "its plan cannot change meanwhile" if again else "would lose the plan after"
            raise PlanError(
                f"the model is frozen for a while by `with frozen(…)`, and {why}",
                hint="call it before or after the block, so that phases begin outside: "
                "handle.step(…)"
                if again
                else "apply the plan before `with frozen(…)`, or after",
            )
