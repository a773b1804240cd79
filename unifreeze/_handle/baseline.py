"""The baseline of a plan: its frozen tensors when it took effect, which `verify` compares with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import compress, filterfalse
from operator import is_, is_not
from typing import Any

from unifreeze._handle.kept_rows import KeptRows, keep_rows
from unifreeze._protocol import Backend, Digest
from unifreeze._protocol.batches import Array
from unifreeze._resolution import Resolution, TrainedRows

OFFLOADED = object()
"""Stands for the object of an offloaded tensor, which each forward pass replaces."""


@dataclass
class Baseline:
    """The frozen tensors as they were when the plan took effect.

    Attributes:
        parameters: Native paths of frozen parameters.
        states: Native paths of held state tensors.
        objects: The live tensors at that time.
        digests: Their digests at that time.
        values: Copies of their values, if `keeps_values`.
        keeps_values: Whether copies were asked for.
        rows: Rows that stay in tables of which others train, by native path.
    """

    parameters: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    objects: Mapping[str, Any] = field(default_factory=dict)
    digests: dict[str, Digest] = field(default_factory=dict)
    values: dict[str, Array] = field(default_factory=dict)
    keeps_values: bool = False
    rows: dict[str, KeptRows] = field(default_factory=dict)

    @property
    def paths(self) -> tuple[str, ...]:
        """Native paths of all of them, parameters first."""
        return (*self.parameters, *self.states)

    def hold(
        self,
        backend: Backend,
        model: Any,
        parameters: Iterable[str],
        states: Iterable[str],
        moving: Iterable[str] = (),
    ) -> None:
        """Hold these parameters and states from now on; new ones keep their current values.

        Args:
            backend: The model's backend.
            model: The live model.
            parameters: Native paths of the parameters to hold.
            states: Native paths of the state tensors to hold.
            moving: Native paths of tensors that moved until now: their old digests do not count.
        """
        self.parameters, self.states = tuple(parameters), tuple(states)
        for path in moving:
            self.digests.pop(path, None)
            self.values.pop(path, None)
        present = backend.objects(model)
        fresh = filterfalse(self.digests.__contains__, self.paths)
        paths = list(filter(present.__contains__, fresh))
        self.digests |= backend.fingerprint(model, paths, sums=not self.keeps_values)
        if self.keeps_values and not backend.is_sharded(model):
            copied = [path for path in paths if self.digests[path].bits]  # here are its values
            self.values |= {path: backend.tensor(model, path) for path in copied}

    def hold_rows(self, backend: Backend, model: Any, wanted: Iterable[TrainedRows]) -> None:
        """Hold the rows that stay from now on; those that are held already keep their values."""
        self.rows = keep_rows(backend, model, wanted, self.rows)

    def keep_from(self, old: Baseline, paths: Iterable[str]) -> None:
        """Keep the values that an older baseline holds of some tensors, in place of newer ones.

        Most tensors of a large model keep theirs, so they are looked at without a Python frame.

        Args:
            old: The older baseline.
            paths: Native paths of the tensors to hold.
        """
        # What has the old digest already needs nothing.
        mine, olds = map(self.digests.get, old.digests), old.digests.values()
        other = list(compress(old.digests, map(is_not, mine, olds)))
        if self.objects is not old.objects:
            same = map(is_, map(self.objects.get, other), map(old.objects.get, other))
            other = list(compress(other, same))
        kept = list(filter(set(paths).__contains__, other)) if other else other
        self.digests.update(zip(kept, map(old.digests.__getitem__, kept), strict=True))
        self.values |= {path: old.values[path] for path in kept if path in old.values}
        self._keep_rows_from(old)

    def _keep_rows_from(self, old: Baseline) -> None:
        """Keep what an older baseline holds of the same rows of the same tables."""
        for path, now in self.rows.items():
            known, same = old.rows.get(path), self.objects.get(path) is old.objects.get(path)
            if same and known is not None and known.rows.same(now.rows):
                self.rows[path] = known


def take_baseline(
    backend: Backend,
    model: Any,
    resolution: Resolution,
    *,
    keep_values: bool,
    old: Baseline | None = None,
) -> Baseline:
    """Record the parameters and states that a plan keeps, as they are now.

    Args:
        backend: The model's backend.
        model: The live model.
        resolution: What the plan decided.
        keep_values: Copy their values, so that changes can be measured exactly.
        old: An older baseline, whose values count for what it holds, too.
    """
    held = set(resolution.held)
    states = [s.path for s in resolution.spec.states if s.moves and s.owner in held]
    baseline = Baseline(objects=live_tensors(backend, model), keeps_values=keep_values)
    if old is not None:
        baseline.keep_from(old, (*resolution.kept_paths, *states))
    baseline.hold(backend, model, resolution.kept_paths, states)
    baseline.hold_rows(backend, model, resolution.rows)
    if old is not None:
        baseline._keep_rows_from(old)
    return baseline


def live_tensors(backend: Backend, model: Any) -> Mapping[str, Any]:
    """Return live tensors by path; an offloaded tensor has no object that stays."""
    objects, offloaded = backend.objects(model), backend.offloaded(model)
    return {**objects, **dict.fromkeys(offloaded, OFFLOADED)} if offloaded else objects
