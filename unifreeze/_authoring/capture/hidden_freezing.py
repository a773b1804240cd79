"""The other ways people freeze: what a flag does not say, and an optimizer or a step shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from unifreeze._protocol import Backend, Batch
from unifreeze._structure import Mask, ModelSpec
from unifreeze.errors import PlanError, counted, listing

NEGLIGIBLE = 1e-4
"""A gradient so much smaller than the others' may well move nothing, as under a norm."""


class Effect(NamedTuple):
    """What one look at a live model showed.

    Attributes:
        frozen: For each parameter, whether it is frozen though its flag says otherwise.
        note: What to say of that; "" where there is nothing to say.
    """

    frozen: Mask
    note: str


def left_out(backend: Backend, model: Any, spec: ModelSpec, optimizer: Any) -> Effect:
    """Find trainable parameters that an optimizer does not hold."""
    objects = backend.objects(model)
    held = {id(tensor) for tensor in backend.optimizer_parameters(optimizer)}
    mine = np.asarray([id(objects[row.path]) in held for row in spec.parameters], np.bool_)
    if not mine.any():
        raise PlanError(
            "the optimizer holds none of the model's parameters",
            context=f"it holds {counted(len(held), 'tensor')}, the model "
            f"{counted(len(spec), 'parameter')}",
            hint="give the optimizer that trains this very model",
        )
    frozen = spec.found & ~mine
    return Effect(
        frozen,
        _note(
            spec,
            frozen,
            "require gradients but are left out of the optimizer; the plan freezes them, which the "
            "source's flags do not say",
        ),
    )


def without_rate(backend: Backend, model: Any, spec: ModelSpec, optimizer: Any) -> Effect:
    """Find trainable parameters whose own learning rate is 0.

    Where all that train have one, it is a schedule's beginning, and says nothing.
    """
    still = backend.without_rate(model, optimizer)
    mine = np.asarray([row.path in still for row in spec.parameters], np.bool_)
    frozen = spec.found & mine
    if frozen.any() and not (spec.found & ~mine).any():
        return Effect(
            np.zeros_like(frozen),
            "all that trains has a learning rate of 0, which is taken for the beginning of a "
            "schedule: nothing is frozen by it.",
        )
    how = listing(dict.fromkeys(still[row.path] for row in spec.parameters if row.path in still))
    return Effect(
        frozen,
        _note(
            spec,
            frozen,
            f"require gradients and have a learning rate of 0 ({how}), so that nothing moves them; "
            "the plan freezes them, which the source's flags do not say",
        ),
    )


def cut_off(backend: Backend, model: Any, spec: ModelSpec, batch: Batch) -> tuple[Effect, Mask]:
    """Find trainable parameters that take part in a forward pass and get no gradient from it.

    Returns:
        Those, and for each parameter whether it got a gradient.
    """
    norms, reached = backend.first_gradients(model, batch)
    has = np.asarray([norms.get(row.path) is not None for row in spec.parameters], np.bool_)
    ran = np.asarray([_ran(row.path, row.owner, reached) for row in spec.parameters], np.bool_)
    without = spec.found & ~has
    if has.any() or not spec.found.any():
        cut, idle = without & ran, without & ~ran
    else:
        cut, idle = np.zeros_like(without), without
    note = _note(
        spec,
        cut,
        "require gradients and run, but get none: something cuts the gradient, such as no_grad or "
        "detach; the plan freezes them, which the source's flags do not say",
    )
    silent = _note(
        spec, idle, "get no gradient because this batch never reaches them; they stay trainable"
    )
    return Effect(cut, " ".join(filter(None, (note, silent)))), has


def _ran(path: str, owner: str, reached: frozenset[str]) -> bool:
    return owner in reached or path in reached


def put_back(
    backend: Backend, model: Any, spec: ModelSpec, step: Callable[[], Any], has: Mask | None
) -> Effect:
    """Find trainable parameters that a training step leaves as they were though they had gradient.

    The step is run once; parameters and statistics get their values back afterwards.

    Args:
        backend: The model's backend.
        model: The live model.
        spec: Its description.
        step: Runs one step of the user's loop.
        has: For each parameter, whether a batch gave it a gradient, if one was tried.
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
    # A bias below a norm has next to no gradient, and goes with its layer.
    whole = _in_layers_of(spec, felt) & ~_in_layers_of(spec, moved)
    frozen = spec.found & same & (whole if cleared else whole | felt)
    if has is not None:
        frozen &= has
    doubt = " (it also clears the gradients, so that there may have been none)" if cleared else ""
    return Effect(
        frozen,
        _note(
            spec,
            frozen,
            f"require gradients but are bit for bit the same after a step{doubt}: put back, or "
            "never updated; the plan freezes them, which the source's flags do not say",
        ),
    )


def _in_layers_of(spec: ModelSpec, mask: Mask) -> Mask:
    """Return every parameter of the layers that any of some parameters belong to."""
    owners = {row.owner for row, chosen in zip(spec.parameters, mask, strict=True) if chosen}
    return np.asarray([row.owner in owners for row in spec.parameters], np.bool_)


def _note(spec: ModelSpec, mask: Mask, what: str) -> str:
    if not mask.any():
        return ""
    paths = [spec.parameters[number].path for number in np.flatnonzero(mask)]
    return f"{counted(len(paths), 'parameter')} {what}: {listing(paths, limit=3)}."
