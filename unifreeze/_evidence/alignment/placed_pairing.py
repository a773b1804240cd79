"""Pair two models by where their tensors are, where they are not one function.

Such a pairing has no evidence. It lets the rest of the report show what is wrong with a port that
cannot be paired by what it computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from unifreeze._numerics.outputs import Seen, match_outputs
from unifreeze._numerics.projections import squeezed
from unifreeze._ports.pairing.model_sketch import ModelSketch, TensorRow, tensor_rows
from unifreeze._ports.pairing.pairing import (
    PAIRING_FORMAT,
    Certificate,
    Pairing,
    PairRow,
    SideRow,
)
from unifreeze._protocol import Backend, Batch, SketchConfig
from unifreeze.errors import PairingError


class Placed(NamedTuple):
    """What pairing by place looks at in one model.

    Attributes:
        framework: Its framework.
        model: Its name in messages.
        rows: Its tensors.
        outputs: What it returns.
    """

    framework: str
    model: str
    rows: list[TensorRow]
    outputs: Mapping[str, Seen]


def placed(model: Any, backend: Backend, batch: Batch) -> Placed:
    """Describe and run a live model for `pair_by_place`."""
    rows = tensor_rows(backend.describe(model, batch))
    outputs = backend.sketch(model, SketchConfig(batch, lambda *_: None)).outputs
    return Placed(backend.name, type(model).__name__, list(rows.values()), outputs)


def placed_by_sketch(sketch: ModelSketch) -> Placed:
    """Return the same of a model that was sketched elsewhere."""
    return Placed(sketch.framework, sketch.model, list(sketch.tensors), sketch.shared.outputs)


def pair_by_place(first: Placed, second: Placed) -> Pairing:
    """Pair tensors of equal canonical name and shape; the certificate says that nothing is proved.

    Raises:
        PairingError: Nothing fits, or the two return nothing of equal shape.
    """
    names = match_outputs(first.outputs, second.outputs).names
    same = {
        key: name
        for key, name in names.items()
        if squeezed(second.outputs[key].shape) == squeezed(first.outputs[name].shape)
    }
    partners = {(row.name, row.statistic or row.state): row for row in second.rows}
    turned = _turns_matrices(first.rows) != _turns_matrices(second.rows)
    pairs = [
        _row(row, partner, turned=turned)
        for row in first.rows
        if row.takes_part and (partner := partners.get((row.name, row.statistic or row.state)))
        if row.neutral_shape == partner.neutral_shape
    ]
    if not pairs or not same:
        raise PairingError("no tensors of the two models have one place in the network")
    far = float("inf")
    return Pairing(
        unifreeze_pairing=PAIRING_FORMAT,
        one=SideRow(framework=first.framework, model=first.model),
        other=SideRow(framework=second.framework, model=second.model),
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
