"""Set both models of a step to the same values: carried over, or drawn as for a sketch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial as bound
from typing import Any

import numpy as np

from unifreeze._numerics.projections import Array
from unifreeze._ports.carrying.transfers import Piece, route
from unifreeze._ports.pairing import ModelSketch, Pairing
from unifreeze._ports.pairing.layout import places
from unifreeze._ports.pairing.probe_values import own_of
from unifreeze._ports.weights import WeightFile
from unifreeze._protocol import Backend, StepConfig
from unifreeze.errors import PairingError


def for_first(config: StepConfig, pairing: Pairing) -> StepConfig:
    """Return the step of a pairing's first model: which outputs count, and which parts."""
    chosen = {key: key for key, _ in pairing.outputs}
    return replace(config, chosen=chosen, parts=places(row.one_part for row in pairing.pairs))


def for_second(config: StepConfig, pairing: Pairing, values: Mapping[str, Array]) -> StepConfig:
    """Return the step of a pairing's second model, on given values."""
    chosen = {key: name for name, key in pairing.outputs}
    parts = places(row.other_part for row in pairing.pairs)
    return replace(config, chosen=chosen, parts=parts, values=values)


def carried_values(
    pairing: Pairing, backends: tuple[Backend, Backend], first: Any, second: Any
) -> dict[str, Array]:
    """Return the values that the second model takes from the first, laid out as it stores them.

    Raises:
        PairingError: The pairing names tensors that the models do not have.
        PortError: The pairing was never certified.
    """
    sides = zip(backends, (first, second), strict=True)
    _check_names(pairing, *(set(backend.objects(model)) for backend, model in sides))
    return _filled(pairing, backends[1], second, lambda p: backends[0].tensor(first, p.names[0]))


def values_from_file(
    pairing: Pairing, backend: Backend, model: Any, weights: WeightFile
) -> dict[str, Array]:
    """Return the values that the second model takes from a file of the first model's tensors.

    Args:
        pairing: The pairing.
        backend: Of the second model.
        model: The second model.
        weights: The file, by the first model's names.

    Raises:
        PairingError: The pairing names tensors that the file or the model does not have.
        PortError: The pairing was never certified.
    """
    _check_names(pairing, set(weights.names), set(backend.objects(model)))
    return _filled(pairing, backend, model, lambda piece: weights.read(piece.names[0]))


def _check_names(pairing: Pairing, first: set[str], second: set[str]) -> None:
    for row in pairing.pairs:
        if row.one_tensor not in first or row.other_tensor not in second:
            raise PairingError(
                f"the pairing is of other models: {row.one} and {row.other} are not there",
                hint="pair the models anew, or leave the pairing out",
            )


def on_sketched_values(
    config: StepConfig, sketch: ModelSketch, pairing: Pairing, backend: Backend, model: Any
) -> StepConfig:
    """Return the step of either model of a pair that never meet, on one machine or in one process.

    No weights travel: both models take the values that the pairing was certified on, which follow
    from the first model's sketch.

    Args:
        config: Batch, precision and optimizers.
        sketch: Of the model that was sketched first, without `like`.
        pairing: Of that model and its partner.
        backend: The backend of the live model.
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
    value_of = own_of(rows, sketch.seed, states=sketch.states)
    if not _is_second(pairing, backend, model):
        values = {row.one: value_of(row.one, row.one_shape) for row in pairing.pairs}
        known = {path: array for path, array in values.items() if array is not None}
        return replace(for_first(config, pairing), values=known)

    def read(piece: Piece) -> Array:
        array = value_of(piece.names[0], piece.shape)
        assert array is not None
        return array

    given = [row for row in pairing.pairs if value_of(row.one, row.one_shape) is not None]
    filled = pairing.model_copy(update={"pairs": given})
    return for_second(config, pairing, _filled(filled, backend, model, read))


def _filled(
    pairing: Pairing, backend: Backend, model: Any, read: Callable[[Piece], Array]
) -> dict[str, Array]:
    """Return the values of a pairing's second model, with each piece read from the first."""
    return {
        step.targets[0]: np.array(
            step.filled(read, bound(backend.tensor, model, step.targets[0])), order="C"
        )
        for step in route(pairing, reverse=False).steps
    }


def _is_second(pairing: Pairing, backend: Backend, model: Any) -> bool:
    """Return whether a live model is the second of the paired models, by names and framework."""
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
