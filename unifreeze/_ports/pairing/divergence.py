"""Where two models begin to differ: the first layer whose output the other does not have."""

from __future__ import annotations

from collections.abc import Iterable

from unifreeze._numerics.projections import LIMIT
from unifreeze._ports.pairing.model_sketch import ModelSketch, ResultRow, SketchedRun
from unifreeze._ports.pairing.neighbourhoods import above


def first_apart(one: SketchedRun, other: SketchedRun) -> ResultRow | None:
    """Return the first layer of one run whose output is nowhere in the other run.

    A layer inside a layer that agrees does not count: it is only computed in another way.
    """
    agreeing = {row.path for row in one.layers if other.has(row.sketch)}
    apart = (row for row in one.layers if row.path not in agreeing)
    return next((row for row in apart if not agreeing.intersection(above(row.path))), None)


def first_divergence(one: ModelSketch, other: ModelSketch) -> str:
    """Say where two models begin to differ: the first layer whose output the other lacks."""
    apart = first_apart(one.shared, other.shared)
    if apart is None:
        has_more = f"{other.framework} does more after that"
        return f"every layer of {one.framework} has its equal; {has_more}"
    agreed = "the inputs"
    for row in one.shared.layers[: one.shared.layers.index(apart)]:
        partner = _partner(row, other.shared.layers)
        if partner is not None:
            agreed = f"{_name(row)} of {one.framework} and {_name(partner)} of {other.framework}"
    return (
        f"first divergence: {_name(apart)} of {one.framework} returns {list(apart.shape)} and "
        f"nothing in {other.framework} returns the same\nlast agreement: {agreed}"
    )


def _partner(row: ResultRow, others: Iterable[ResultRow]) -> ResultRow | None:
    return next((other for other in others if row.sketch.gap(other.sketch) <= LIMIT), None)


def _name(row: ResultRow) -> str:
    return row.path or "the model"
