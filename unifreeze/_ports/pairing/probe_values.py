"""The values of a model's tensors while it is sketched: shared, its own, or its partner's."""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from unifreeze._numerics.projections import Array, plain_shape
from unifreeze._ports.pairing.layout import Part, reshaped
from unifreeze._ports.pairing.model_sketch import (
    ModelSketch,
    Pair,
    TensorRow,
    TensorRows,
    is_floating,
)
from unifreeze._ports.pairing.shared_values import own_values, scale_of, shared_values

Values = Callable[[str, tuple[int, ...]], Array | None]
Scales = Mapping[str, float]


def whole(rows: TensorRows, values: Values) -> Values:
    """Return a function for the values of whole tensors; fused ones are joined from their parts.

    Args:
        rows: A model's tensors, or parts of them.
        values: Returns the values of each of those.
    """
    fused: dict[str, list[Part]] = defaultdict(list)
    for row in rows.values():
        if row.part is not None:
            fused[row.part.of].append(row.part)

    def of_tensor(path: str, shape: tuple[int, ...]) -> Array | None:
        if path not in fused:
            return values(path, shape)
        joined = np.empty(shape)
        for part in fused[path]:
            array = values(part.path, part.shape(shape))
            assert array is not None
            part.put(joined, array)
        return joined

    return of_tensor


def is_given(row: TensorRow, *, states: bool) -> bool:
    """Return whether a tensor is given values; with `states`, also state that is not a statistic.

    One port may hold a value as state that is a constant in the other's code.
    """
    kept = row.kept and is_floating(row.dtype)
    return not row.state or bool(row.statistic) or (states and kept)


def shared_of(rows: TensorRows, scales: Scales, *, states: bool = False) -> Values:
    """Return a function for the values of each tensor that depend on its shape alone.

    Args:
        rows: The tensors.
        scales: Scale of each matrix.
        states: Give values to state that is not a statistic as well.
    """

    def values(path: str, shape: tuple[int, ...]) -> Array | None:
        row = rows.get(path)
        if row is None or not is_given(row, states=states):
            return None
        return shared_values(shape, scale=scales[path], role=row.statistic)

    return values


def scales_of(rows: Iterable[TensorRow], like: Iterable[TensorRow] = ()) -> dict[str, float]:
    """Return the scale of the values of each tensor.

    A 1x1 kernel in one port may be a linear layer in the other, and a table of positions a matrix.
    If of one shape exactly one scale here is missing in the other model, and exactly one of its
    scales is missing here, that scale of the other model is used.

    Args:
        rows: A model's tensors.
        like: The tensors of a model sketched before.
    """
    known = list(rows)
    here, there = scales_by_shape(known), scales_by_shape(like)
    taken: dict[tuple[tuple[int, ...], float], float] = {}
    for shape in here.keys() & there.keys():
        extra, missing = here[shape] - there[shape], there[shape] - here[shape]
        alone = [scale for scale, count in extra.items() if count == here[shape][scale]]
        if len(extra) == len(alone) == len(missing) == 1:
            taken[shape, alone[0]] = next(iter(missing))
    scales = {row.path: scale_of_row(row) for row in known}
    return {
        r.path: taken.get((plain_shape(r.shape), scales[r.path]), scales[r.path]) for r in known
    }


def scales_by_shape(rows: Iterable[TensorRow]) -> dict[tuple[int, ...], Counter[float]]:
    """Count the scales that a model has for each shape."""
    counts: dict[tuple[int, ...], Counter[float]] = defaultdict(Counter)
    for row in rows:
        if not row.state:
            counts[plain_shape(row.shape)][scale_of_row(row)] += 1
    return counts


def scale_of_row(row: TensorRow) -> float:
    """Return the scale of a tensor's values by its shape and kind in its own port."""
    return scale_of(row.shape, table=row.kind == "embedding")


def own_of(rows: TensorRows, seed: int, *, states: bool = False, alone: bool = False) -> Values:
    """Return a function for values that are different for every tensor of a model.

    Biases of convolutions and batch norms are above zero, so that few channels die behind a ReLU.

    Args:
        rows: The tensors.
        seed: Seed of the values.
        states: As for `shared_of`.
        alone: The tensors have no partners. They get other values than any tensor of the first
            model, so that outputs differ if they depend on such a tensor, whatever its name.
    """
    averaging = {row.owner for row in rows.values() if row.statistic in ("mean", "var")}

    def values(path: str, shape: tuple[int, ...]) -> Array | None:
        row = rows.get(path)
        if row is None or not is_given(row, states=states):
            return None
        key = zlib.crc32(f"{seed}/{'alone/' if alone else ''}{path}".encode())
        positive = row.kind == "conv" or row.owner in averaging
        role = "bias" if row.role == "bias" and not positive else row.statistic
        return own_values(shape, key, table=row.kind == "embedding", role=role)

    return values


def carried_over(one: ModelSketch, rows: TensorRows, pairs: Iterable[Pair]) -> Values:
    """Return a function for the values of each tensor's partner, as this model stores them."""
    partners = {pair.other: pair for pair in pairs}
    sources = {row.path: row for row in one.tensors}
    value_alone = own_of(rows, one.seed, states=one.states, alone=True)
    value_of_source = own_of(sources, one.seed, states=one.states)

    def values(path: str, shape: tuple[int, ...]) -> Array | None:
        pair = partners.get(path)
        if pair is None:
            return value_alone(path, shape)
        array = value_of_source(pair.one, sources[pair.one].shape)
        return None if array is None else reshaped(array, shape, transposed=pair.transposed)

    return values
