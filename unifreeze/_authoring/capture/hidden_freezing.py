"""Freezing that no flag shows: left out of the optimizer, no rate, cut off, put back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from unifreeze._protocol import Backend, Batch
from unifreeze._protocol.live import LiveOptimizer, Model
from unifreeze._structure import Mask, ModelSpec
from unifreeze.errors import PlanError, counted, listing

NEGLIGIBLE = 1e-4
"""Share of the median gradient below which a step may change no bit, as below a norm."""


class Effect(NamedTuple):
    """What one look at a live model showed.

    Attributes:
        frozen: For each parameter, whether it is frozen though its flag says otherwise.
        note: A sentence for the user; "" if there is nothing to say.
    """

    frozen: Mask
    note: str


def left_out(
    backend: Backend, model: Model, spec: ModelSpec, optimizer: LiveOptimizer | None
) -> Effect:
    """Find trainable parameters that an optimizer does not hold."""
    objects = backend.objects(model)
    held = {id(tensor) for tensor in backend.optimizer_parameters(optimizer)}
    is_held = np.asarray([id(objects[row.path]) in held for row in spec.parameters], np.bool_)
    if not is_held.any():
        raise PlanError(
            "the optimizer holds none of the model's parameters",
            context=f"it holds {counted(len(held), 'tensor')}, the model "
            f"{counted(len(spec), 'parameter')}",
            hint="give the optimizer that trains this very model",
        )
    frozen = spec.found & ~is_held
    return _effect(spec, frozen, "require gradients but are left out of the optimizer")


def without_rate(
    backend: Backend, model: Model, spec: ModelSpec, optimizer: LiveOptimizer | None
) -> Effect:
    """Find trainable parameters that have a learning rate of 0.

    If all trainable parameters have it, it is the start of a schedule, and freezes nothing.
    """
    reasons = backend.without_rate(model, optimizer)
    no_rate = np.asarray([row.path in reasons for row in spec.parameters], np.bool_)
    frozen = spec.found & no_rate
    if frozen.any() and not (spec.found & ~no_rate).any():
        return Effect(
            np.zeros_like(frozen),
            "all that trains has a learning rate of 0, which is taken for the beginning of a "
            "schedule: nothing is frozen by it.",
        )
    paths = [row.path for row in spec.parameters if row.path in reasons]
    how = listing(dict.fromkeys(reasons[path] for path in paths))
    why = f"require gradients and have a learning rate of 0 ({how}), so that nothing moves them"
    return _effect(spec, frozen, why)


def cut_off(backend: Backend, model: Model, spec: ModelSpec, batch: Batch) -> tuple[Effect, Mask]:
    """Find trainable parameters that a forward pass uses and that get no gradient.

    Returns:
        The parameters, and for each parameter of the model whether it got a gradient.
    """
    norms, reached = backend.first_gradients(model, batch)
    rows = spec.parameters
    has_gradient = np.asarray([norms.get(row.path) is not None for row in rows], np.bool_)
    ran = np.asarray([row.owner in reached or row.path in reached for row in rows], np.bool_)
    without = spec.found & ~has_gradient
    if has_gradient.any() or not spec.found.any():
        cut, idle = without & ran, without & ~ran
    else:
        cut, idle = np.zeros_like(without), without
    effect = _effect(
        spec,
        cut,
        "require gradients and run, but get none: something cuts the gradient, such as no_grad or "
        "detach",
    )
    idle_note = _note(
        spec, idle, "get no gradient because this batch never reaches them; they stay trainable"
    )
    return Effect(cut, " ".join(filter(None, (effect.note, idle_note)))), has_gradient


def put_back(
    backend: Backend,
    model: Model,
    spec: ModelSpec,
    step: Callable[[], Any],
    has_gradient: Mask | None,
) -> Effect:
    """Find trainable parameters that a training step does not change although they get gradients.

    The step runs once; parameters and statistics get their values back afterwards.

    Args:
        backend: The model's backend.
        model: The live model.
        spec: Its description.
        step: Runs one step of the user's loop.
        has_gradient: For each parameter, whether a batch gave it a gradient; None without a batch.
    """
    paths = [row.path for row in spec.parameters]
    everything = {*paths, *(state.path for state in spec.states)}
    values = {path: backend.tensor(model, path) for path in everything & {*backend.objects(model)}}
    before = backend.fingerprint(model, paths)
    try:
        step()
        after, norms = backend.fingerprint(model, paths), backend.gradients(model)
    finally:
        for path, array in values.items():
            backend.assign(model, path, array)
    same = np.asarray([before[path].bits == after[path].bits for path in paths], np.bool_)
    if not (spec.found & ~same).any():
        return Effect(np.zeros_like(same), "the step moved nothing, so it shows nothing")
    moved = spec.found & ~same
    sizes = np.asarray([norms.get(path) or 0.0 for path in paths])
    cleared = not sizes.any()
    felt = np.ones_like(same) if cleared else sizes > NEGLIGIBLE * np.median(sizes[moved])
    # A bias below a norm has almost no gradient: it counts as put back if its whole layer is.
    whole = _in_layers_of(spec, felt) & ~_in_layers_of(spec, moved)
    frozen = spec.found & same & (whole if cleared else whole | felt)
    if has_gradient is not None:
        frozen &= has_gradient
    doubt = " (it also clears the gradients, so that there may have been none)" if cleared else ""
    why = f"require gradients but are bit for bit the same after a step{doubt}: put back, or never "
    return _effect(spec, frozen, f"{why}updated")


def _in_layers_of(spec: ModelSpec, mask: Mask) -> Mask:
    """Return all parameters of the layers that some parameters belong to."""
    owners = {row.owner for row, chosen in zip(spec.parameters, mask, strict=True) if chosen}
    return np.asarray([row.owner in owners for row in spec.parameters], np.bool_)


def _effect(spec: ModelSpec, frozen: Mask, why: str) -> Effect:
    text = f"{why}; the plan freezes them, which the source's flags do not say"
    return Effect(frozen, _note(spec, frozen, text))


def _note(spec: ModelSpec, mask: Mask, what: str) -> str:
    if not mask.any():
        return ""
    paths = [spec.parameters[number].path for number in np.flatnonzero(mask)]
    return f"{counted(len(paths), 'parameter')} {what}: {listing(paths, limit=3)}."
