"""Weights from file to file, one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial as bound
from math import prod
from pathlib import Path

import numpy as np

from unifreeze.errors import PortError
from unifreeze.pairing import Pairing
from unifreeze.pairing.layout import reshaped
from unifreeze.porting.route import Ported, Route, Step, check_route, route
from unifreeze.weights import Array, Named, Progress, WeightFile, open_weights, save_weights


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
        _check_shapes(way, weights)
        save_weights(target, _named(way, weights), metadata=_metadata(target), progress=progress)
    values = sum(prod(step.target_shape) for step in way.steps)
    return Ported(len(way.steps), values, tuple(passed), tuple(way.target_left))


def _way(pairing: Pairing, weights: WeightFile, reverse: bool | None) -> Route:
    """Choose the direction: the one in which the source's names and shapes fit."""
    if reverse is not None:
        return route(pairing, reverse=reverse)
    ways = [route(pairing, reverse=back) for back in (False, True)]
    fits = [sum(_fits(step, weights) for step in way.steps) for way in ways]
    if fits[0] == fits[1]:
        raise PortError(
            f"{weights.source} could be of either model: {fits[0]} of {len(pairing.pairs)} "
            "tensors fit both ways",
            hint="say which with reverse=False or reverse=True (--reverse)",
        )
    return ways[fits[1] > fits[0]]


def _fits(step: Step, weights: WeightFile) -> bool:
    name = _name_in(step, weights)
    return name is not None and weights.entry(name).shape == step.shape


def _name_in(step: Step, weights: WeightFile) -> str | None:
    return next((name for name in step.names if name in weights), None)


def _check_shapes(way: Route, weights: WeightFile) -> None:
    wrong = []
    for step in way.steps:
        name = _name_in(step, weights)
        if name is not None and weights.entry(name).shape != step.shape:
            found = list(weights.entry(name).shape)
            wrong.append(f"{name}: {found} in the file, {list(step.shape)} in the model")
    if wrong:
        raise PortError(
            f"{len(wrong)} tensors of {weights.source} are of another shape than the model's",
            context="\n".join(wrong),
            hint="is it a file of this very configuration?",
        )


def _named(way: Route, weights: WeightFile) -> Iterator[Named]:
    for step in way.steps:
        name = _name_in(step, weights)
        assert name is not None
        read = bound(_read, weights, name, step)
        dtype, first = weights.entry(name).dtype, step.targets[0]
        yield Named(first, step.target_shape, dtype, read)
        for alias in step.targets[1:]:
            yield Named(alias, step.target_shape, dtype, read, first)


def _read(weights: WeightFile, name: str, step: Step) -> Array:
    array = weights.read(name)
    for other in step.names:
        if other != name and other in weights and not np.array_equal(array, weights.read(other)):
            raise PortError(
                f"{name} and {other} of {weights.source} differ, and the model ties them",
                hint="pair a model that does not tie them",
            )
    return reshaped(array, step.target_shape, transposed=step.transposed)


def _metadata(target: str | Path) -> dict[str, str] | None:
    return {"format": "pt"} if Path(target).suffix == ".safetensors" else None
