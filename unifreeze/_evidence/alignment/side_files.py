"""Sides of an acceptance report as files, with the first model's weights beside its side."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial as bound
from pathlib import Path
from typing import Any

import numpy as np

from unifreeze._evidence.alignment.alignment_side import AlignmentSide
from unifreeze._evidence.alignment.measuring import Task, digest_of, measure_first, measure_second
from unifreeze._evidence.record import refuse_different
from unifreeze._evidence.step_values import values_from_file
from unifreeze._ports.pairing import Pairing
from unifreeze._ports.weights import Named, WeightFile, open_weights, save_weights
from unifreeze._protocol import Array, Backend, Batch
from unifreeze.errors import PairingError, RecordError, WeightFileError


def weights_beside(side: Path) -> Path:
    """Return where the first model's weights are: beside its side, under the same name."""
    return side.with_suffix(".safetensors")


def save_first_side(
    task: Task, model: Any, backend: Backend, batch: Batch, file: Path
) -> AlignmentSide:
    """Measure the model that was ported; write its side, and its weights beside it.

    Raises:
        PairingError: The pairing is of other models, or in the other order.
        WeightFileError: The weights cannot be written.
        RecordError: The side cannot be written.
    """
    arrays = dict(_paired_values(task.pairing, backend, model))
    side = measure_first(task, model, backend, batch)
    side = side.model_copy(update={"values_digest": digest_of(arrays.items())})
    rows = [
        Named(path, array.shape, array.dtype.name, bound(_same, array))
        for path, array in arrays.items()
    ]
    save_weights(weights_beside(file), rows)
    side.save(file)
    return side


def save_second_side(
    task: Task, model: Any, backend: Backend, batch: Batch, like: Path, file: Path
) -> AlignmentSide:
    """Measure the port on the weights that are beside the first model's side; write its side.

    Raises:
        RecordError: The first side is not one, or was measured with other options, or the weights
            beside it are of another run.
        WeightFileError: The weights are not there, or are broken.
        PairingError: The pairing is of other models.
    """
    first = AlignmentSide.load(like)
    if first.like:
        raise RecordError(
            f"{like} is itself the side of a port",
            hint="--like takes the side of the model that was ported, made without --like",
        )
    options = {"plan": task.plan.document(), "seed": task.seed, "steps": task.steps}
    for name, value in options.items():
        known, fact = (
            getattr(first, name),
            f"{first.model} was measured with another value of {name}",
        )
        hint = "measure both with the same options"
        refuse_different(fact, (like.name, known), ("this command", value), hint=hint)
    place = weights_beside(like)
    try:
        with open_weights(place) as weights:
            _check_same(weights, first, place)
            values = values_from_file(task.pairing, backend, model, weights)
    except WeightFileError as error:
        raise WeightFileError(
            error.fact,
            context=error.context,
            hint=f"{place.name} was written beside {like.name}; carry both over",
        ) from None
    side = measure_second(task, model, backend, batch, first, values)
    side.save(file)
    return side


def _check_same(weights: WeightFile, first: AlignmentSide, place: Path) -> None:
    if digest_of((name, weights.read(name)) for name in weights.names) != first.values_digest:
        raise RecordError(
            f"{place} does not hold the weights that {first.model} was measured on",
            hint="keep the two files of one run together",
        )


def _paired_values(pairing: Pairing, backend: Backend, model: Any) -> Iterator[tuple[str, Array]]:
    """Yield the first model's tensors that a pairing carries over, by native path."""
    known = backend.objects(model)
    for path in dict.fromkeys(row.one_tensor for row in pairing.pairs):
        if path not in known:
            raise PairingError(
                f"the pairing is of other models: {type(model).__name__} has no {path}",
                hint="it has the model that was ported first; the side of the port is made with "
                "--like FIRST.json",
            )
        yield path, np.ascontiguousarray(backend.tensor(model, path))


def _same(array: Array) -> Array:
    return array
