"""One side of a step at a time, where the two models cannot be in one process or on one machine.

Then no weights travel: both sides take the values that the pairing's certificate was made on, which
follow from the first model's sketch.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial as bound
from typing import Any

import numpy as np

from unifreeze._numerics.projections import Array
from unifreeze._ports.carrying.transfers import Piece, route
from unifreeze._ports.pairing import ModelSketch, Pairing
from unifreeze._ports.pairing.layout import places
from unifreeze._ports.pairing.probe_values import own_of
from unifreeze._protocol import Backend, StepConfig
from unifreeze.errors import PairingError


def on_sketched_values(
    config: StepConfig, sketch: ModelSketch, pairing: Pairing, backend: Backend, model: Any
) -> StepConfig:
    """Give either model of a pair the values that its step is to be taken on.

    Args:
        config: Batch, precision and optimizers.
        sketch: Of the model that was sketched first, on values of its own.
        pairing: Of that model and its partner.
        backend: The backend of the model given.
        model: The live model: the sketched one, or its partner.

    Raises:
        PairingError: The sketch is of neither of the paired models, or the model is neither.
        PortError: The pairing was never certified.
    """
    rows = {row.path: row for row in sketch.tensors}
    if not all(row.one in rows for row in pairing.pairs):
        pairing = pairing.turned()
    if sketch.like or not all(row.one in rows for row in pairing.pairs):
        raise PairingError(
            f"the sketch of {sketch.model} is not the one that the pairing was made from",
            hint="give the first of the two sketches, which was made without --like",
        )
    own = own_of(rows, sketch.seed, states=sketch.states)
    if not _is_second(pairing, backend, model):
        held = {row.one: own(row.one, row.one_shape) for row in pairing.pairs}
        values = {path: array for path, array in held.items() if array is not None}
        return replace(config, values=values, chosen={key: key for key, _ in pairing.outputs})

    def read(piece: Piece) -> Array:
        array = own(piece.names[0], piece.shape)
        assert array is not None
        return array

    given = [row for row in pairing.pairs if own(row.one, row.one_shape) is not None]
    values = {
        step.targets[0]: np.array(
            step.filled(read, bound(backend.tensor, model, step.targets[0])), order="C"
        )
        for step in route(pairing.model_copy(update={"pairs": given}), reverse=False).steps
    }
    return replace(
        config,
        values=values,
        chosen={key: name for name, key in pairing.outputs},
        parts=places(r.other_part for r in pairing.pairs),
    )


def _is_second(pairing: Pairing, backend: Backend, model: Any) -> bool:
    """Tell which of the paired models a live one is, by its names and framework."""
    there = set(backend.objects(model))
    sides = (
        (pairing.one, {row.one for row in pairing.pairs}),
        (pairing.other, {row.other_tensor for row in pairing.pairs}),
    )
    fits = [side.framework == backend.name and paths <= there for side, paths in sides]
    if fits[0] == fits[1]:
        why = "it could be either" if fits[0] else f"no {min(sides[0][1] - there, default='')}"
        raise PairingError(
            f"the {backend.name} model is neither of the two that were paired, or both: {why}"
        )
    return fits[1]
