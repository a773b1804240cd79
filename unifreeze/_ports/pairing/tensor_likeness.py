"""Whether two tensors, or the tensors of two layers, may be one, by what is known without a run."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

from unifreeze._numerics.projections import LIMIT, plain_shape
from unifreeze._ports.pairing.model_sketch import TensorRow
from unifreeze._ports.pairing.name_agreement import NativeName
from unifreeze._structure.words import FAMILIES, words_in

EFFECT_LIMIT = 1e-5
"""Relative difference of outputs up to which two states do the same.

Looser than `LIMIT`: what two ports have computed in single precision differs before it changes."""


def word(row: TensorRow) -> int:
    """Return what a layer's own name says it is: a query, a table of token types."""
    return words_in(row.owner.rpartition(".")[2]) & (FAMILIES[0] | FAMILIES[1])


def native_name(row: TensorRow) -> NativeName:
    """Return what a tensor is called: its layer's path, and what it is there."""
    return row.owner, row.statistic or row.role


def are_of_a_sort(one: TensorRow, other: TensorRow) -> bool:
    """Tell whether two tensors are both parameters of a role, or both a state, alike in shape."""
    if one.state != other.state or one.statistic != other.statistic:
        return False
    roles = {one.role, other.role}
    return (
        (bool(one.statistic) or len(roles) == 1) and may_be(one, other) and hold_alike(one, other)
    )


def hold_alike(one: TensorRow, other: TensorRow) -> bool:
    """Tell whether two states that were given no values hold the same and do the same."""
    if one.held is None or other.held is None:
        return one.held is other.held
    return one.held.gap(other.held) <= LIMIT and not (effect_gap(one, other) or 0.0) > EFFECT_LIMIT


def effect_gap(one: TensorRow, other: TensorRow) -> float | None:
    """Return how far outputs differ with other values in either; None where nothing tells."""
    common = one.effect.keys() & other.effect.keys()
    return max((one.effect[name].gap(other.effect[name]) for name in common), default=None)


def twins(rows: Iterable[TensorRow]) -> set[str]:
    """Return the paths of states that hold what another does and that nothing seen tells apart."""
    rows = [row for row in rows if row.shown and row.held is not None and not row.effect]
    same = ((a, b) for a, b in combinations(rows, 2) if shape_alone(a) == shape_alone(b))
    return {row.path for pair in same if hold_alike(*pair) for row in pair}


def may_be(one: TensorRow, other: TensorRow) -> bool:
    """Tell whether two tensors' shapes allow them to be one; tables may differ in length."""
    a, b = plain_shape(one.shape), plain_shape(other.shape)
    if a == b:
        return True
    tables = one.kind == other.kind == "embedding"
    return tables and len(one.shape) == len(other.shape) == 2 and one.shape[1] == other.shape[1]


def by_sort(ones: list[TensorRow], others: list[TensorRow]) -> list[tuple[TensorRow, TensorRow]]:
    """Pair the tensors of two layers, by role or else by shape; [] unless all have one partner."""
    made: list[tuple[TensorRow, TensorRow]] = []
    for key in (_role_and_shape, shape_alone):
        rest = [row for row in ones if row not in [one for one, _ in made]]
        there = [row for row in others if row not in [other for _, other in made]]
        for row in rest:
            same = [o for o in there if key(o) == key(row) and _mean_alike(o, row)]
            rivals = [r for r in rest if key(r) == key(row) and _mean_alike(r, row)]
            if len(same) == 1 == len(rivals):
                made.append((row, same[0]))
    return made if len(made) == len(ones) == len(others) else []


def _mean_alike(one: TensorRow, other: TensorRow) -> bool:
    """Tell whether two states hold the same, and outputs depend on both or on neither."""
    return not one.kept or (hold_alike(one, other) and one.shown == other.shown)


def _role_and_shape(row: TensorRow) -> tuple[object, ...]:
    return (row.statistic or row.role, *shape_alone(row))


def shape_alone(row: TensorRow) -> tuple[object, ...]:
    """Return what a tensor is but for its role: parameter or which state, and its shape."""
    return row.state, row.statistic, plain_shape(row.shape)
