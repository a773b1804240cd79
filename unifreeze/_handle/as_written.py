"""Whether flags, modes and objects are as the plan wrote them: cheap enough for every step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from unifreeze._handle.baseline import OFFLOADED, live_tensors
from unifreeze._handle.lease import Lease, for_a_while_on
from unifreeze._handle.verify import Drift
from unifreeze._protocol import Backend
from unifreeze._resolution import Resolution
from unifreeze._structure import Mask, ModelSpec

SWITCHED = ("thawed", "switched off", "released")
"""Kinds of drift that are a flag or a mode; the others are another object, or none."""

_FROZEN, _TRAINS = "its flag says frozen", "its flag says trainable"


def not_as_written(
    backend: Backend, model: Any, lease: Lease, answered: Mask | None
) -> Iterator[Drift]:
    """Yield each parameter or layer that others have switched, replaced or taken away.

    No values are read, so this costs little however large the model is.

    Args:
        backend: The model's backend.
        model: The live model.
        lease: The lease of the plan in force.
        answered: The parameters that no other plan decides; None for all of them.
    """
    resolution, flags = lease.resolution, backend.read(model)
    objects, before = live_tensors(backend, model), lease.baseline.objects
    wanted = lease.written.tolist()
    only_frozen = for_a_while_on(backend, resolution.spec)
    for number, path in enumerate(resolution.spec.paths_of(range(len(wanted)))):
        now = objects.get(path)
        replaced = now is not OFFLOADED and now is not before.get(path)
        if not replaced and flags.get(path, wanted[number]) == wanted[number]:
            continue
        if answered is not None and not answered[number]:
            continue
        if now is None:
            yield Drift(path, "missing", "")
        elif replaced:
            yield Drift(path, "replaced", "another object stands in its place")
        elif wanted[number] and not only_frozen:
            yield Drift(path, "switched off", _why(_FROZEN, resolution, number))
        elif not wanted[number]:
            yield Drift(path, "thawed", _why(_TRAINS, resolution, number))
    for path, number in _further_names(resolution.spec):
        now = objects.get(path)
        if path not in before or now is OFFLOADED or now is before[path]:
            continue
        if answered is None or answered[number]:
            kind = "missing" if now is None else "replaced"
            yield Drift(path, kind, "it was one tensor with another name, and is not any more")
    for path in backend.released(model, lease.still):
        yield Drift(path, "released", "the plan holds it in inference mode, and it is in training")


def _further_names(spec: ModelSpec) -> Iterator[tuple[str, int]]:
    """Yield each name of a tied parameter after its first, with the parameter's number."""
    names = spec.tree.names
    if len(names) > len(spec):
        first = set(spec.first_names.tolist())
        for name, number in enumerate(spec.tensor_of.tolist()):
            if name not in first:
                yield names[name], number


def _why(flag: str, resolution: Resolution, number: int) -> str:
    """Return what a flag says now, and what the plan says."""
    reason = resolution.reason(number)
    return f"{flag}; the plan: {reason}" if resolution.decided[number] else f"{flag}; {reason}"
