"""What each tensor of a model holds while it is sketched: shared, its own, or its partner's."""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from unifreeze._numerics.projections import Array, plain_shape
from unifreeze._ports.pairing.layout import Part, reshaped
from unifreeze._ports.pairing.model_sketch import ModelSketch, Pair, TensorRow, is_floating
from unifreeze._ports.pairing.shared_values import own_values, scale_of, shared_values

Values = Callable[[str, tuple[int, ...]], Array | None]
Rows = Mapping[str, TensorRow]
Scales = Mapping[str, float]


def whole(rows: Rows, values: Values) -> Values:
    """Return what gives each tensor its values, fused ones put together from those of their parts.

    Args:
        rows: A model's tensors, or parts of them.
        values: Gives each of those its values.
    """
    fused: dict[str, list[Part]] = defaultdict(list)
    for row in rows.values():
        if row.part is not None:
            fused[row.part.of].append(row.part)

    def of_tensor(path: str, shape: tuple[int, ...]) -> Array | None:
        if path not in fused:
            return values(path, shape)
        made = np.empty(shape)
        for part in fused[path]:
            array = values(part.path, part.shape(shape))
            assert array is not None
            part.put(made, array)
        return made

    return of_tensor


def is_given(row: TensorRow, *, states: bool) -> bool:
    """Tell whether a tensor is given values; state that is not a statistic, on request only.

    One port may hold as state what is a number in the other's code.
    """
    kept = row.kept and is_floating(row.dtype)
    return not row.state or bool(row.statistic) or (states and kept)


def shared_of(rows: Rows, scales: Scales, *, states: bool = False) -> Values:
    """Return what gives each of a model's tensors the values of its shape.

    Args:
        rows: The tensors.
        scales: Of the matrices among them.
        states: Give values to state that is not a statistic, too.
    """

    def values(path: str, shape: tuple[int, ...]) -> Array | None:
        row = rows.get(path)
        if row is None or not is_given(row, states=states):
            return None
        return shared_values(shape, scale=scales[path], role=row.statistic)

    return values


def scales_of(rows: Iterable[TensorRow], like: Iterable[TensorRow] = ()) -> dict[str, float]:
    """Return how large the values of each tensor are.

    A kernel of one point in one port may be a linear layer in the other, and a table of positions a
    matrix: where one scale alone of a shape has no equal in the other model, and one of the other
    model's has none here, the two are taken for one.

    Args:
        rows: A model's tensors.
        like: Those of a model sketched before.
    """
    known = list(rows)
    here, there = scales_by_shape(known), scales_by_shape(like)
    taken: dict[tuple[tuple[int, ...], float], float] = {}
    for shape in here.keys() & there.keys():
        ours, theirs = here[shape] - there[shape], there[shape] - here[shape]
        alone = [scale for scale, count in ours.items() if count == here[shape][scale]]
        if len(ours) == len(alone) == len(theirs) == 1:
            taken[shape, alone[0]] = next(iter(theirs))
    own = {row.path: scale_of_row(row) for row in known}
    return {r.path: taken.get((plain_shape(r.shape), own[r.path]), own[r.path]) for r in known}


def scales_by_shape(rows: Iterable[TensorRow]) -> dict[tuple[int, ...], Counter[float]]:
    """Count the scales in which a model has each shape."""
    found: dict[tuple[int, ...], Counter[float]] = defaultdict(Counter)
    for row in rows:
        if not row.state:
            found[plain_shape(row.shape)][scale_of_row(row)] += 1
    return found


def scale_of_row(row: TensorRow) -> float:
    """Return how large a tensor's values are as its own port has it."""
    return scale_of(row.shape, table=row.kind == "embedding")


def own_of(rows: Rows, seed: int, *, states: bool = False, alone: bool = False) -> Values:
    """Return what gives each of a model's tensors values of its own.

    Biases of convolutions and batch norms are all above zero: few channels die behind a ReLU then.

    Args:
        rows: The tensors.
        seed: Of the values.
        states: As for `shared_of`.
        alone: They are without partners: they get other values than any of the first model, so that
            what has no partner and matters is seen to differ, whatever it is called.
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


def carried_over(one: ModelSketch, rows: Rows, pairs: Iterable[Pair]) -> Values:
    """Return what gives each of a model's tensors its partner's own values."""
    partners = {pair.other: pair for pair in pairs}
    theirs = {row.path: row for row in one.tensors}
    own = own_of(rows, one.seed, states=one.states, alone=True)
    source = own_of(theirs, one.seed, states=one.states)

    def values(path: str, shape: tuple[int, ...]) -> Array | None:
        pair = partners.get(path)
        if pair is None:
            return own(path, shape)
        array = source(pair.one, theirs[pair.one].shape)
        return None if array is None else reshaped(array, shape, transposed=pair.transposed)

    return values
