"""Sketching a live model: alone, or on the values of a model sketched before."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from unifreeze.backend import Backend, Batch, SketchConfig, SketchRun
from unifreeze.backend.projections import Array
from unifreeze.pairing.layout import reshaped
from unifreeze.pairing.match import Hints, Matching, is_paired
from unifreeze.pairing.record import (
    SKETCH_FORMAT,
    LayerRow,
    ModelSketch,
    Pair,
    TensorRow,
    run_row,
    tensor_rows,
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
    hints: Hints = (),
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
        hints: Pairs that are taken as given; the certificate says whether they were right.
        outputs: Ids of the outputs the loss may use; None for all.
        seed: Seed of everything random.

    Raises:
        TargetError: The model does not run on the batch, or gives no gradient.
    """
    spec = backend.describe(model)
    if like is not None:
        seed, outputs = like.seed, like.used or None

    def run(values: Values) -> SketchRun:
        return backend.sketch(model, SketchConfig(batch, values, outputs, seed))

    shared = run(shared_of(tensor_rows(spec, frozenset())))
    rows = tensor_rows(spec, frozenset(shared.calls))
    made = ModelSketch(
        unifreeze_sketch=SKETCH_FORMAT,
        framework=backend.name,
        model=name,
        seed=seed,
        used=outputs or (),
        tensors=tuple(rows.values()),
        layers=tuple(LayerRow(path=p, shape=s, sketch=k) for p, s, k in shared.layers),
        shared=run_row(shared),
        own=run_row(shared),
    )
    if like is None:
        return made.model_copy(update={"own": run_row(run(own_of(rows, seed)))})
    pairs = tuple(Matching(like, made).run(hints))
    own = run_row(run(carried_over(like, rows, pairs)))
    return made.model_copy(update={"own": own, "like": like.digest, "carried": pairs})


def shared_of(rows: Rows) -> Values:
    """Return what gives each of a model's tensors the values of its shape."""

    def values(path: str, shape: tuple[int, ...]) -> Array | None:
        row = rows.get(path)
        if row is None or not is_paired(row):
            return None
        return shared_values(shape, table=_is_table(row), role=_state_role(row))

    return values


def own_of(rows: Rows, seed: int) -> Values:
    """Return what gives each of a model's tensors values of its own."""

    def values(path: str, shape: tuple[int, ...]) -> Array | None:
        row = rows.get(path)
        if row is None or not is_paired(row):
            return None
        key = zlib.crc32(f"{seed}/{path}".encode())
        return own_values(shape, key, table=_is_table(row), role=_state_role(row))

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
