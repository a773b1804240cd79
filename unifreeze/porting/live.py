"""Weights from one live model to another."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from unifreeze.backend import Backend, backend_for
from unifreeze.errors import PortError
from unifreeze.pairing import Pairing, pair
from unifreeze.pairing.layout import reshaped
from unifreeze.porting.route import Ported, Route, Step, check_route, route


def port_weights(
    source: Any,
    target: Any,
    *,
    batch: Any = None,
    pairing: Pairing | None = None,
    reverse: bool = False,
    partial: bool = False,
    crop: bool = False,
) -> Ported:
    """Carry one live model's weights over to another port of the same network.

    Parameters and running statistics are written in place, so optimizers and ties stay as they are;
    flags are not touched. Either all is written, or nothing.

    Args:
        source: A live model.
        target: A live model of the other framework, of the same dtypes.
        batch: One batch for both, to pair them on; not needed with a pairing.
        pairing: Which tensor is which, if that is known.
        reverse: The source is the pairing's second model.
        partial: Leave alone what has no partner on the other side.
        crop: Carry over the common rows of tables of unequal length.

    Raises:
        PairingError: The two are not the same network.
        PortError: They do not fit; everything that does not is listed.
    """
    if pairing is None:
        if batch is None:
            raise PortError("port_weights needs a batch to pair the models on, or their pairing")
        pairing = pair(source, target, batch=batch)
    way = route(pairing, reverse=reverse)
    backends = backend_for(source), backend_for(target)
    passed = check_route(way, backends[0].objects(source), partial=partial, crop=crop)
    _check_target(way, backends, source, target)
    _write(way, backends, source, target)
    values = sum(prod(step.target_shape) for step in way.steps)
    return Ported(len(way.steps), values, tuple(passed), tuple(way.target_left))


def _check_target(way: Route, backends: tuple[Backend, Backend], source: Any, target: Any) -> None:
    """Refuse a target that lacks a tensor, or has one of another dtype or shape."""
    theirs = backends[1].objects(target)
    wrong = [f"{s.targets[0]}: not in the target" for s in way.steps if s.targets[0] not in theirs]
    if not wrong:
        names = [(step.names[0], step.targets[0]) for step in way.steps]
        prints = (
            backends[0].fingerprint(source, [name for name, _ in names]),
            backends[1].fingerprint(target, [name for _, name in names]),
        )
        for name, to in names:
            kinds = prints[0][name].dtype, prints[1][to].dtype
            if kinds[0] != kinds[1]:
                wrong.append(f"{to}: {kinds[1]}, and {name} is {kinds[0]}")
    if wrong:
        raise PortError(
            f"{len(wrong)} tensors of the target do not fit",
            context="\n".join(wrong),
            hint="make the target of the same configuration and dtype first",
        )


def _write(way: Route, backends: tuple[Backend, Backend], source: Any, target: Any) -> None:
    kept: list[tuple[Step, Any]] = []
    try:
        for step in way.steps:
            array = backends[0].tensor(source, step.names[0])
            array = reshaped(array, step.target_shape, transposed=step.transposed)
            kept.append((step, backends[1].tensor(target, step.targets[0])))
            backends[1].assign(target, step.targets[0], np.ascontiguousarray(array))
            written = backends[1].tensor(target, step.targets[0])
            if not np.array_equal(written, array, equal_nan=True):
                raise PortError(f"{step.targets[0]} did not read back as written")
    except BaseException:
        for step, array in kept:
            backends[1].assign(target, step.targets[0], array)
        raise
