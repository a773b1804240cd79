"""Where two models part: the first layer whose result the other does not have."""

from __future__ import annotations

from unifreeze.backend.projections import LIMIT
from unifreeze.pairing.places import above
from unifreeze.pairing.record import ModelSketch, ResultRow


def first_divergence(one: ModelSketch, other: ModelSketch) -> str:
    """Say where two models part: the first layer of one whose result is nowhere in the other.

    A layer inside one that agrees is passed over: the two only come to the same in another way.
    """
    partners = [(row, _partner(row, other)) for row in one.shared.layers]
    agreeing = {row.path for row, partner in partners if partner is not None}
    agreed = "the inputs"
    for row, partner in partners:
        if partner is not None:
            agreed = f"{_name(row)} of {one.framework} and {_name(partner)} of {other.framework}"
        elif not agreeing.intersection(above(row.path)):
            return (
                f"first divergence: {_name(row)} of {one.framework} returns "
                f"{list(row.shape)} and nothing in {other.framework} returns the same\n"
                f"last agreement: {agreed}"
            )
    return f"every layer of {one.framework} has its equal; {other.framework} does more after that"


def _partner(row: ResultRow, other: ModelSketch) -> ResultRow | None:
    return next((r for r in other.shared.layers if row.sketch.gap(r.sketch) <= LIMIT), None)


def _name(row: ResultRow) -> str:
    return row.path or "the model"
