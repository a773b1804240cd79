"""`port_weights`: weights from one live model to another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial as bound
from typing import Any

import numpy as np

from unifreeze._arguments import checked
from unifreeze._numerics.projections import Array
from unifreeze._ports.carrying.transfers import (
    Piece,
    Ported,
    Route,
    Transfer,
    check_route,
    route,
)
from unifreeze._ports.pairing import Pairing, pair
from unifreeze._ports.pairing.model_sketch import TensorRows, tensor_rows
from unifreeze._protocol import Backend, backend_for
from unifreeze._protocol.live import Model
from unifreeze.errors import PortError, counted, listing


@checked
def port_weights(
    source: Model,
    target: Model,
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
        batch: One batch for both models, or one for each by its framework's name, to pair them on;
            not needed with a pairing.
        pairing: Their pairing, if there is one.
        reverse: The source is the pairing's second model.
        partial: Leave tensors without a partner as they are.
        crop: Carry over the common rows of tables of unequal length.

    Raises:
        PairingError: The two are not the same network.
        PortError: They do not fit; everything that does not is listed.

    >>> pairing = pair(torch_model, paddle_model, batch=batch)
    >>> port_weights(torch_model, paddle_model, pairing=pairing)
    <unifreeze.Ported: 18 tensors with 237 values carried over>
    """
    if pairing is None:
        if batch is None:
            raise PortError(
                "port_weights needs a batch to pair the models on, or their pairing",
                hint="batch=images, or pairing=uf.pair(source, target, batch=images)",
            )
        pairing = pair(source, target, batch=batch)
    way = route(pairing, reverse=reverse)
    backends = backend_for(source), backend_for(target)
    passed = check_route(way, backends[0].objects(source), partial=partial, crop=crop)
    rows = tuple(
        tensor_rows(backend.describe(model))
        for backend, model in zip(backends, (source, target), strict=True)
    )
    _check_fit(way, (rows[0], rows[1]), partial=partial)

    def read(piece: Piece) -> Array:
        return backends[0].tensor(source, piece.names[0])

    _write(way, backends[1], target, read)
    return way.report(passed, read)


def _check_fit(way: Route, rows: tuple[TensorRows, TensorRows], *, partial: bool) -> None:
    """Refuse models whose tensors, shapes, dtypes or ties are not as in the pairing.

    Raises:
        PortError: Listing every misfit.
    """
    wrong = [line for step in way.steps for line in _unlike(step, rows)]
    known = {step.targets[0] for step in way.steps} | way.target_left.keys() | way.target_own
    if not partial:
        wrong += [f"{path}: the pairing does not know it" for path in rows[1] if path not in known]
    if wrong:
        raise PortError(
            f"the models do not fit the pairing in {counted(len(wrong), 'place')}",
            context="\n".join(wrong),
            hint="make the target of the same configuration and dtype, and pair these very models",
        )


def _unlike(step: Transfer, rows: tuple[TensorRows, TensorRows]) -> Iterator[str]:
    """Yield how a tensor of the target, or its sources, differ from the pairing."""
    yield from _not_as_paired(rows[1], "target", step.targets, step.shape)
    target = rows[1].get(step.targets[0])
    for piece in step.pieces:
        yield from _not_as_paired(rows[0], "source", piece.names, piece.shape)
        source = rows[0].get(piece.names[0])
        if source and target and source.dtype != target.dtype:
            yield f"{step.targets[0]}: {target.dtype}, and {piece.names[0]} is {source.dtype}"


def _not_as_paired(
    rows: TensorRows, side: str, names: tuple[str, ...], shape: tuple[int, ...]
) -> Iterator[str]:
    row = rows.get(names[0])
    if row is None:
        yield f"{names[0]}: not in the {side}"
        return
    if row.shape != shape:
        yield f"{names[0]}: {list(row.shape)} in the {side}, {list(shape)} in the pairing"
    if {row.path, *row.aliases} != set(names):
        yield f"{names[0]}: tied to {listing(row.aliases) or 'nothing'} in the {side}"


def _write(way: Route, backend: Backend, target: Model, read: Callable[[Piece], Array]) -> None:
    """Write all tensors; on any error put back those that were written."""
    before: list[tuple[str, Array]] = []
    try:
        for step in way.steps:
            path = step.targets[0]
            current = bound(backend.tensor, target, path)
            array = step.filled(read, current)
            before.append((path, current()))
            backend.assign(target, path, np.array(array, order="C"))
            if not np.array_equal(current(), array, equal_nan=True):
                raise PortError(f"{path} did not read back as written")
    except BaseException:
        for path, array in before:
            backend.assign(target, path, array)
        raise
