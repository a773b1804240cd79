"""Sketching a live model: alone, or on the values of a model sketched before."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from unifreeze.backend import Backend, Batch, SketchConfig, SketchRun
from unifreeze.backend.projections import Array
from unifreeze.errors import PairingError
from unifreeze.pairing.fused import one_function, taken_apart
from unifreeze.pairing.layout import Part, places, reshaped
from unifreeze.pairing.match import Matching, is_paired
from unifreeze.pairing.record import (
    SKETCH_FORMAT,
    LayerRow,
    ModelSketch,
    Pair,
    TensorRow,
    run_row,
    tensor_rows,
    with_reach,
)
from unifreeze.pairing.values import own_values, shared_values

Values = Callable[[str, tuple[int, ...]], Array | None]
Rows = Mapping[str, TensorRow]


def make_sketch(
    model: Any,
    backend: Backend,
    batch: Batch,
    *,
    name: str,
    like: ModelSketch | None = None,
    hints: Mapping[str, str] | None = None,
    given: Iterable[Pair] = (),
    shipped: bool = False,
    outputs: tuple[str, ...] | None = None,
    seed: int = 0,
) -> ModelSketch:
    """Run a live model on seeded values, twice, and keep what pairing needs.

    Args:
        model: The live model; its own values come back bit for bit.
        backend: Its backend.
        batch: Inputs.
        name: How the model is called.
        like: Sketch of the model to pair it with; the second run is then on that one's values,
            carried over, which is what certifies a pairing.
        hints: Paths of that model with those of this one, taken as given; the certificate says
            whether they were right.
        given: The same as pairs, which also say what is stored the other way round.
        shipped: Ask the model's own library for a table of names, for what nothing else tells.
        outputs: Ids of the outputs the loss may use; None for all.
        seed: Seed of everything random.

    Raises:
        TargetError: The model does not run on the batch, or gives no gradient.
    """
    spec = backend.describe(model)
    if like is not None:
        if like.like:
            raise PairingError(
                f"the sketch of {like.model} was itself made on another model's values",
                hint="give the first of the two, which was made without --like",
            )
        seed, outputs = like.seed, like.used or None

    def run(values: Values, rows: Rows) -> SketchRun:
        parts = places(row.part for row in rows.values())
        config = SketchConfig(batch, whole(rows, values), outputs, seed, parts)
        return backend.sketch(model, config)

    def on_shared_values(rows: Rows) -> SketchRun:
        return run(shared_of(rows), rows)

    rows: Rows = tensor_rows(spec)
    shared = on_shared_values(rows)
    rows = {path: with_reach(row, shared.calls) for path, row in rows.items()}
    if like is not None and not one_function(like, shared):
        rows, shared = taken_apart(like, rows, shared, on_shared_values)
    made = ModelSketch(
        unifreeze_sketch=SKETCH_FORMAT,
        framework=backend.name,
        model=name,
        seed=seed,
        used=outputs or (),
        tensors=tuple(rows.values()),
        layers=tuple(LayerRow(path=p, shape=s, sketch=k) for p, s, k in shared.layers),
        shared=run_row(shared),
        own=run_row(shared) if like else run_row(run(own_of(rows, seed), rows)),
    )
    if like is None:
        return made
    if not one_function(like, shared):
        return made.model_copy(update={"like": like.digest})  # there is nothing to pair
    matching = Matching(like, made)
    matching.take(given)
    matching.take_map(hints or {})
    table = backend.shipped_map(model, [row.path for row in like.tensors]) if shipped else {}
    pairs = tuple(matching.run(table))
    own = run_row(run(carried_over(like, rows, pairs), rows))
    return made.model_copy(update={"own": own, "like": like.digest, "carried": pairs})


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


def shared_of(rows: Rows) -> Values:
    """Return what gives each of a model's tensors the values of its shape."""

    def values(path: str, shape: tuple[int, ...]) -> Array | None:
        row = rows.get(path)
        if row is None or not is_paired(row):
            return None
        return shared_values(shape, table=_is_table(row), role=_state_role(row))

    return values


def own_of(rows: Rows, seed: int) -> Values:
    """Return what gives each of a model's tensors values of its own.

    Biases of convolutions and batch norms are all above zero: few channels die behind a ReLU then.
    """
    averaging = {row.owner for row in rows.values() if row.state}

    def values(path: str, shape: tuple[int, ...]) -> Array | None:
        row = rows.get(path)
        if row is None or not is_paired(row):
            return None
        key = zlib.crc32(f"{seed}/{path}".encode())
        positive = row.kind == "conv" or row.owner in averaging
        role = "bias" if row.role == "bias" and not positive else _state_role(row)
        return own_values(shape, key, table=_is_table(row), role=role)

    return values


def carried_over(one: ModelSketch, rows: Rows, pairs: Iterable[Pair]) -> Values:
    """Return what gives each of a model's tensors its partner's own values."""
    partners = {pair.other: pair for pair in pairs}
    theirs = {row.path: row for row in one.tensors}
    own, source = own_of(rows, one.seed), own_of(theirs, one.seed)

    def values(path: str, shape: tuple[int, ...]) -> Array | None:
        pair = partners.get(path)
        if pair is None:
            return own(path, shape)
        array = source(pair.one, theirs[pair.one].shape)
        return None if array is None else reshaped(array, shape, transposed=pair.transposed)

    return values


def _state_role(row: TensorRow) -> str:
    return row.role if row.state else ""


def _is_table(row: TensorRow) -> bool:
    return row.kind == "embedding"
