"""Weights from file to file, one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial as bound
from math import prod
from pathlib import Path

import numpy as np

from unifreeze.arguments import checked
from unifreeze.errors import PortError, listing
from unifreeze.pairing import Pairing
from unifreeze.porting.route import (
    Piece,
    Ported,
    Route,
    check_route,
    route,
    rows_read_otherwise,
)
from unifreeze.weights import Array, Named, Progress, WeightFile, open_weights, save_weights


@checked
def port_file(
    source: str | Path,
    target: str | Path,
    pairing: Pairing,
    *,
    reverse: bool | None = None,
    partial: bool = False,
    crop: bool = False,
    progress: Progress | None = None,
) -> Ported:
    """Write one port's weight file as the other port names and stores its tensors.

    Every tensor keeps its dtype and its bits; statistics are carried over with the parameters, and
    tied tensors stay tied. Of safetensors files one tensor is in memory at a time.

    Args:
        source: A weight file, or a folder or index of several.
        target: Where to write; the format follows from the name.
        pairing: Which tensor is which.
        reverse: The source is the pairing's second model; None to tell by its names.
        partial: Leave out what has no partner on the other side.
        crop: Carry over the common rows of tables of unequal length.
        progress: Called after each tensor.

    Raises:
        WeightFileError: The source cannot be read, or the target not written.
        PortError: The source does not fit the pairing; everything that does not is listed.
    """
    with open_weights(source) as weights:
        way = _way(pairing, weights, reverse)
        passed = check_route(way, weights.names, partial=partial, crop=crop)
        if partly := [step.targets[0] for step in way.steps if step.is_partly_filled]:
            raise PortError(
                f"{len(partly)} fused tensors have only parts to fill them: {listing(partly)}",
                hint="port into a live model, which has values for the others: uf.port_weights",
            )
        _check_entries(way, weights)
        save_weights(target, _named(way, weights), metadata=_metadata(target), progress=progress)
        notes = rows_read_otherwise(way, bound(_read, weights))
    values = sum(prod(step.shape) for step in way.steps)
    return Ported(len(way.steps), values, tuple(passed), tuple(way.target_left), notes)


def _way(pairing: Pairing, weights: WeightFile, reverse: bool | None) -> Route:
    """Choose the direction: the one in which the source's names and shapes fit."""
    if reverse is not None:
        return route(pairing, reverse=reverse)
    ways = [route(pairing, reverse=back) for back in (False, True)]
    fits = [sum(_fits(piece, weights) for piece in way.pieces) for way in ways]
    if fits[0] == fits[1]:
        raise PortError(
            f"{weights.source} could be of either model: {fits[0]} of {len(pairing.pairs)} "
            "tensors fit both ways",
            hint="say which with reverse=False or reverse=True (--reverse)",
        )
    return ways[fits[1] > fits[0]]


def _fits(piece: Piece, weights: WeightFile) -> bool:
    name = _name_in(piece, weights)
    return name is not None and weights.entry(name).shape == piece.shape


def _name_in(piece: Piece, weights: WeightFile) -> str | None:
    return next((name for name in piece.names if name in weights), None)


def _check_entries(way: Route, weights: WeightFile) -> None:
    """Refuse tensors of other shapes, and parts of one tensor that are of several dtypes."""
    wrong = {}
    for step in way.steps:
        names = [n for piece in step.pieces if (n := _name_in(piece, weights)) is not None]
        if len(dtypes := {weights.entry(name).dtype for name in names}) > 1:
            wrong[step.targets[0]] = f"its parts are of several dtypes: {', '.join(sorted(dtypes))}"
        for name, piece in zip(names, step.pieces, strict=True):
            if weights.entry(name).shape != piece.shape:
                found = list(weights.entry(name).shape)
                wrong[name] = f"{found} in the file, {list(piece.shape)} in the model"
    if wrong:
        raise PortError(
            f"{len(wrong)} tensors of {weights.source} are of another shape or dtype than the "
            "model's",
            context="\n".join(f"{name}: {what}" for name, what in wrong.items()),
            hint="is it a file of this very configuration?",
        )


def _named(way: Route, weights: WeightFile) -> Iterator[Named]:
    for step in way.steps:
        name = _name_in(step.pieces[0], weights)
        assert name is not None
        read = bound(step.filled, bound(_read, weights), _no_values)
        dtype, first = weights.entry(name).dtype, step.targets[0]
        yield Named(first, step.shape, dtype, read)
        for alias in step.targets[1:]:
            yield Named(alias, step.shape, dtype, read, first)


def _no_values() -> Array:
    raise AssertionError("files have no values of their own for a target")


def _read(weights: WeightFile, piece: Piece) -> Array:
    name = _name_in(piece, weights)
    assert name is not None
    array = weights.read(name)
    for other in piece.names:
        if other != name and other in weights and not np.array_equal(array, weights.read(other)):
            raise PortError(
                f"{name} and {other} of {weights.source} differ, and the model ties them",
                hint="pair a model that does not tie them",
            )
    return array


def _metadata(target: str | Path) -> dict[str, str] | None:
    return {"format": "pt"} if Path(target).suffix == ".safetensors" else None
