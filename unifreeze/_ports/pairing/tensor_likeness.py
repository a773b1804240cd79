"""Whether two tensors may be one, by shape, role and state, before gradients are compared."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

from unifreeze._numerics.projections import LIMIT, plain_shape
from unifreeze._ports.pairing.model_sketch import TensorRow
from unifreeze._ports.pairing.name_agreement import NativeName
from unifreeze._structure.words_in_names import FAMILIES, words_in

EFFECT_LIMIT = 1e-5
"""Relative difference of outputs up to which two states have one effect.

Looser than `LIMIT`: the outputs of two ports in single precision differ by more than that."""


def name_word(row: TensorRow) -> int:
    """Return the words in a layer's own name: a query, a table of token types."""
    return words_in(row.owner.rpartition(".")[2]) & (FAMILIES[0] | FAMILIES[1])


def native_name(row: TensorRow) -> NativeName:
    """Return a tensor's name: its layer's native path, and its role there."""
    return row.owner, row.statistic or row.role


def same_role(one: TensorRow, other: TensorRow) -> bool:
    """Return whether two tensors have one role and fitting shapes, and hold the same if state."""
    if one.state != other.state or one.statistic != other.statistic:
        return False
    roles = {one.role, other.role}
    return (
        (bool(one.statistic) or len(roles) == 1)
        and shapes_fit(one, other)
        and hold_the_same(one, other)
    )


def hold_the_same(one: TensorRow, other: TensorRow) -> bool:
    """Return whether two states hold the same values and have one effect on outputs."""
    if one.held is None or other.held is None:
        return one.held is other.held
    return one.held.gap(other.held) <= LIMIT and not (effect_gap(one, other) or 0.0) > EFFECT_LIMIT


def effect_gap(one: TensorRow, other: TensorRow) -> float | None:
    """Return how much the effects of two states on outputs differ; None if that is not known."""
    common = one.effect.keys() & other.effect.keys()
    return max((one.effect[name].gap(other.effect[name]) for name in common), default=None)


def twins(rows: Iterable[TensorRow]) -> set[str]:
    """Return the paths of states that hold the same as another state of the model."""
    rows = [row for row in rows if row.shown and row.held is not None and not row.effect]
    pairs = ((a, b) for a, b in combinations(rows, 2) if kind_and_shape(a) == kind_and_shape(b))
    return {row.path for pair in pairs if hold_the_same(*pair) for row in pair}


def shapes_fit(one: TensorRow, other: TensorRow) -> bool:
    """Return whether two tensors have one shape, either way round; tables may differ in length."""
    a, b = plain_shape(one.shape), plain_shape(other.shape)
    if a == b:
        return True
    tables = one.kind == other.kind == "embedding"
    return tables and len(one.shape) == len(other.shape) == 2 and one.shape[1] == other.shape[1]


def pair_layers(
    ones: list[TensorRow], others: list[TensorRow]
) -> list[tuple[TensorRow, TensorRow]]:
    """Pair the tensors of two layers by role, or else by shape; [] unless all have a partner."""
    pairs: list[tuple[TensorRow, TensorRow]] = []
    for key in (_role_and_shape, kind_and_shape):
        here = [row for row in ones if row not in [one for one, _ in pairs]]
        there = [row for row in others if row not in [other for _, other in pairs]]
        for row in here:
            fitting = [r for r in there if key(r) == key(row) and _same_state(r, row)]
            rivals = [r for r in here if key(r) == key(row) and _same_state(r, row)]
            if len(fitting) == 1 == len(rivals):
                pairs.append((row, fitting[0]))
    return pairs if len(pairs) == len(ones) == len(others) else []


def _same_state(one: TensorRow, other: TensorRow) -> bool:
    """Return whether two states hold the same, and outputs depend on both or on neither."""
    return not one.kept or (hold_the_same(one, other) and one.shown == other.shown)


def _role_and_shape(row: TensorRow) -> tuple[object, ...]:
    return (row.statistic or row.role, *kind_and_shape(row))


def kind_and_shape(row: TensorRow) -> tuple[object, ...]:
    """Return parameter or which state a tensor is, and its shape, without its role."""
    return row.state, row.statistic, plain_shape(row.shape)
