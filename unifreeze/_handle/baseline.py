"""The baseline of a plan: its frozen tensors when it took effect, which `verify` compares with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from unifreeze._protocol import Backend, Digest
from unifreeze._protocol.batches import Array
from unifreeze._resolution import Resolution

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
    """

    parameters: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    objects: Mapping[str, Any] = field(default_factory=dict)
    digests: dict[str, Digest] = field(default_factory=dict)
    values: dict[str, Array] = field(default_factory=dict)
    keeps_values: bool = False

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
        paths = [path for path in self.paths if path not in self.digests and path in present]
        self.digests |= backend.fingerprint(model, paths, sums=not self.keeps_values)
        if self.keeps_values and not backend.is_sharded(model):
            copied = [path for path in paths if self.digests[path].bits]  # here are its values
            self.values |= {path: backend.tensor(model, path) for path in copied}

    def keep_from(self, old: Baseline) -> None:
        """Keep the values that an older baseline holds, in place of newer ones."""
        for path in self.paths:
            if path in old.digests and self.objects[path] is old.objects.get(path):
                self.digests[path] = old.digests[path]
                if path in old.values:
                    self.values[path] = old.values[path]


def take_baseline(
    backend: Backend, model: Any, resolution: Resolution, *, keep_values: bool
) -> Baseline:
    """Record the parameters and states that a plan keeps, as they are now.

    Args:
        backend: The model's backend.
        model: The live model.
        resolution: What the plan decided.
        keep_values: Copy their values, so that changes can be measured exactly.
    """
    held = set(resolution.held)
    states = [s.path for s in resolution.spec.states if s.moves and s.owner in held]
    baseline = Baseline(objects=live_tensors(backend, model), keeps_values=keep_values)
    baseline.hold(backend, model, resolution.kept_paths, states)
    return baseline


def live_tensors(backend: Backend, model: Any) -> dict[str, Any]:
    """Return live tensors by path; an offloaded tensor has no object that stays."""
    return {**backend.objects(model), **dict.fromkeys(backend.offloaded(model), OFFLOADED)}
