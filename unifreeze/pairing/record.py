"""What pairing knows of one model, as a file: its tensors, and sketches of what they did.

A few hundred kilobytes whatever the model's size, so that the two sides may be run in two
environments or on two machines, and paired where neither framework is installed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from functools import cached_property
from math import isfinite
from typing import Any, ClassVar, NamedTuple

from pydantic import field_serializer, model_validator

from unifreeze.backend import Sketch, SketchRun
from unifreeze.errors import RecordError
from unifreeze.files import Format, Row, Saved
from unifreeze.pairing.layout import Part
from unifreeze.structure import ModelSpec

SKETCH_FORMAT = 2
"""In format 1 a fused projection took one place in canonical names, whatever it held."""


class Pair(NamedTuple):
    """One tensor of one model, and the same of the other.

    Attributes:
        one: Native path in the first model.
        other: Native path in the second.
        transposed: The second stores it the other way round.
        by: What decided: `gradient`, `owner`, `name`, or `hint`.
    """

    one: str
    other: str
    transposed: bool
    by: str


class TensorRow(Row):
    """One parameter, or part of a fused one; or a statistic or other state tensor, by its role."""

    path: str
    aliases: tuple[str, ...]
    name: str
    owner: str
    kind: str
    role: str
    shape: tuple[int, ...]
    neutral_shape: tuple[int, ...]
    dtype: str
    fixed: str
    reached: bool
    state: bool
    part: Part | None = None

    @model_validator(mode="after")
    def _is_possible(self) -> TensorRow:
        if self.part is not None and (mistake := self.part.mistake(self.path, self.shape)):
            raise ValueError(mistake)
        return self


class LayerRow(Row):
    """One module that ran: its path, and shape and sketch of what it returned."""

    path: str
    shape: tuple[int, ...]
    sketch: Sketch

    @field_serializer("sketch")
    def _rounded(self, sketch: Sketch) -> Any:
        return _round(sketch, digits=8)


class RunRow(Row):
    """One run on given values."""

    dtype: str
    outputs: dict[str, Sketch]
    gradients: dict[str, Sketch]

    @field_serializer("outputs", "gradients")
    def _rounded(self, sketches: dict[str, Sketch]) -> Any:
        return {key: _round(sketch) for key, sketch in sketches.items()}


class ModelSketch(Saved):
    """What pairing knows of one model.

    Attributes:
        unifreeze_sketch: Version of the format.
        framework: The framework that ran it.
        model: How the model was named.
        seed: Seed of everything random.
        used: Ids of the outputs the loss was made of, () for all.
        tensors: Every parameter, in canonical order, then every state tensor.
        layers: Every module that ran, in order of execution, on shared values.
        shared: The run on values that depend on shapes alone.
        own: The run on values that no two tensors share.
        like: Digest of the sketch whose values those were, carried over; "" if the model's own.
        carried: The pairing by which they were.
    """

    format: ClassVar[Format] = Format(
        what="sketch",
        key="unifreeze_sketch",
        version=SKETCH_FORMAT,
        error=RecordError,
        hint="write it again with `unifreeze sketch`",
        indent=None,
    )

    unifreeze_sketch: int
    framework: str
    model: str
    seed: int
    used: tuple[str, ...]
    tensors: tuple[TensorRow, ...]
    layers: tuple[LayerRow, ...]
    shared: RunRow
    own: RunRow
    like: str = ""
    carried: tuple[Pair, ...] = ()

    @cached_property
    def digest(self) -> str:
        """A name for what the sketch says."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


def _round(sketch: Sketch, digits: int = 13) -> list[Any]:
    parts: list[Any] = [_short(sketch.norm, digits), [_short(n, digits) for n in sketch.along]]
    return [*parts, [_short(n, digits) for n in sketch.across]] if sketch.across else parts


def _short(number: float, digits: int) -> float | str:
    return float(f"{number:.{digits}g}") if isfinite(number) else str(number)


def run_row(run: SketchRun) -> RunRow:
    """Keep of a run what is written down."""
    return RunRow(dtype=run.dtype, outputs=dict(run.outputs), gradients=dict(run.gradients))


def with_reach(row: TensorRow, reached: Collection[str]) -> TensorRow:
    """Say of a tensor whether it, or its layer, ran."""
    own = {row.owner} if row.state else {row.path, *row.aliases, row.owner}
    return row.model_copy(update={"reached": not own.isdisjoint(reached)})


def tensor_rows(spec: ModelSpec) -> dict[str, TensorRow]:
    """List a model's parameters in canonical order, then its state tensors, by native path."""
    rows = []
    for number in spec.canonical_order.tolist():
        one = spec.parameters[number]
        rows.append(
            TensorRow(
                path=one.path,
                aliases=one.aliases,
                name=one.name,
                owner=one.owner,
                kind=one.kind,
                role=one.role,
                shape=one.shape,
                neutral_shape=one.neutral_shape,
                dtype=one.dtype,
                fixed=one.fixed,
                reached=False,
                state=False,
            )
        )
    kinds = spec.placement.kinds
    for state in spec.states:
        owner = spec.tree.paths[state.owner]
        rows.append(
            TensorRow(
                path=state.path,
                aliases=(),
                name=spec.state_name(state),
                owner=owner,
                kind=kinds[state.owner],
                role=state.role,
                shape=state.shape,
                neutral_shape=state.shape,
                dtype=state.dtype,
                fixed="",
                reached=False,
                state=True,
            )
        )
    return {row.path: row for row in rows}
