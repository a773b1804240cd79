"""Pair two models by where their tensors are, where they are not one function.

Such a pairing has no evidence. It lets the rest of the report show what is wrong with a port that
cannot be paired by what it computes.
"""

from __future__ import annotations

from typing import Any

from unifreeze._numerics.outputs import match_outputs
from unifreeze._numerics.projections import squeezed
from unifreeze._ports.pairing.model_sketch import TensorRow, tensor_rows
from unifreeze._ports.pairing.pairing import (
    PAIRING_FORMAT,
    Certificate,
    Pairing,
    PairRow,
    SideRow,
)
from unifreeze._protocol import Backend, Batch, SketchConfig
from unifreeze.errors import PairingError


def pair_by_place(
    models: tuple[Any, Any], backends: tuple[Backend, Backend], batches: tuple[Batch, Batch]
) -> Pairing:
    """Pair tensors of equal canonical name and shape; the certificate says that nothing is proved.

    Raises:
        PairingError: Nothing fits, or the two return nothing of equal shape.
    """
    sides = list(zip(backends, models, batches, strict=True))
    rows = [tensor_rows(backend.describe(model, batch)) for backend, model, batch in sides]
    runs = [
        backend.sketch(model, SketchConfig(batch, lambda *_: None))
        for backend, model, batch in sides
    ]
    names = match_outputs(runs[0].outputs, runs[1].outputs).names
    same = {
        key: name
        for key, name in names.items()
        if squeezed(runs[1].outputs[key].shape) == squeezed(runs[0].outputs[name].shape)
    }
    partners = {(row.name, row.statistic or row.state): row for row in rows[1].values()}
    ways = [_turns_matrices(list(side.values())) for side in rows]
    turned = ways[0] != ways[1]
    pairs = [
        _row(row, partner, turned=turned)
        for row in rows[0].values()
        if row.takes_part and (partner := partners.get((row.name, row.statistic or row.state)))
        if row.neutral_shape == partner.neutral_shape
    ]
    if not pairs or not same:
        raise PairingError("no tensors of the two models have one place in the network")
    inputs = [
        SideRow(framework=backend.name, model=type(model).__name__) for backend, model, _ in sides
    ]
    far = float("inf")
    return Pairing(
        unifreeze_pairing=PAIRING_FORMAT,
        one=inputs[0],
        other=inputs[1],
        pairs=tuple(pairs),
        left=(),
        outputs=tuple((name, key) for key, name in same.items()),
        certificate=Certificate(dtype="", outputs=far, gradients=far, worst="", compared=0),
    )


def _turns_matrices(rows: list[TensorRow]) -> bool:
    """Return whether a framework stores the matrices of its linear layers input by output."""
    return any(row.kind == "linear" and row.shape != row.neutral_shape for row in rows)


def _row(one: TensorRow, other: TensorRow, *, turned: bool) -> PairRow:
    matrix = one.kind == "linear" and len(one.shape) == 2
    return PairRow(
        one=one.path,
        other=other.path,
        one_shape=one.shape,
        other_shape=other.shape,
        transposed=turned and matrix,
        by="name",
        state=one.state,
        one_aliases=one.aliases,
        other_aliases=other.aliases,
    )
