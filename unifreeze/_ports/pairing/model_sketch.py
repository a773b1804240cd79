"""What pairing knows of one model, as a file: its tensors, and sketches of two runs.

The file has a few hundred kilobytes whatever the model's size, so that the two models can be run in
two environments or on two machines, and paired where neither framework is installed.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property, partial
from math import isfinite
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import Field, PlainSerializer, model_validator

from unifreeze._files import Format, Row, Saved
from unifreeze._numerics.outputs import Matched, Seen, match_outputs
from unifreeze._numerics.projections import LIMIT
from unifreeze._ports.pairing.layer_settings import LayerRow
from unifreeze._ports.pairing.layout import Part
from unifreeze._ports.pairing.neighbourhoods import above
from unifreeze._protocol import Sketch, SketchRun
from unifreeze._structure import ModelSpec, State
from unifreeze.errors import RecordError, brief, listing

SKETCH_FORMAT = 2
"""In format 1 a fused projection took one place in canonical names, whatever it held."""


def _round(sketch: Sketch | None, digits: int = 13) -> list[Any]:
    assert sketch is not None
    parts: list[Any] = [_short(sketch.norm, digits), [_short(n, digits) for n in sketch.along]]
    return [*parts, [_short(n, digits) for n in sketch.across]] if sketch.across else parts


def _short(number: float, digits: int) -> float | str:
    return float(f"{number:.{digits}g}") if isfinite(number) else str(number)


RoundedSketch = Annotated[Sketch, PlainSerializer(_round)]
ShortSketch = Annotated[Sketch, PlainSerializer(partial(_round, digits=8))]
RoundedOutput = Annotated[Seen, PlainSerializer(lambda seen: [seen.shape, _round(seen.sketch)])]


class Pair(NamedTuple):
    """A tensor of one model, and its partner in the other.

    Attributes:
        one: Native path in the first model.
        other: Native path in the second.
        transposed: The second model stores it transposed.
        by: What decided; see `PairRow`.
    """

    one: str
    other: str
    transposed: bool
    by: str


class TensorRow(Row):
    """One parameter, or a part of a fused one; or a statistic or other state tensor.

    Attributes:
        reached: The tensor, or its layer, ran.
        state: A statistic or other state, which no optimizer holds.
        kept: State that is not a statistic, but saved with the weights, because training may change
            it or it holds integers.
        shown: It has no gradient, but other values in it change the outputs.
        effect: If shown, the outputs with other values in it, by their names in the first model; {}
            where other values break the model.
        held: The values of kept state that was given no values.
        statistic: "mean" or "var", whatever the port calls it; "u" or "v" of a spectral norm; or
            "".
    """

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
    kept: bool = False
    shown: bool = False
    effect: dict[str, RoundedSketch] = Field(default_factory=dict)
    held: RoundedSketch | None = None
    statistic: str = ""
    part: Part | None = None

    @property
    def takes_part(self) -> bool:
        """Whether it may have a partner; a counter, for example, has none."""
        return not self.state or self.kept or bool(self.statistic)

    @model_validator(mode="after")
    def _is_possible(self) -> TensorRow:
        if self.part is not None and (mistake := self.part.mistake(self.path, self.shape)):
            raise ValueError(mistake)
        return self


class ResultRow(Row):
    """The output of one module: native path, shape and sketch."""

    path: str
    shape: tuple[int, ...]
    sketch: ShortSketch


TensorRows = Mapping[str, TensorRow]
"""Tensors by native path; fused ones may be replaced by their parts."""


class SketchedRun(Row):
    """One run of a model; see `unifreeze._protocol.SketchRun`."""

    dtype: str
    outputs: dict[str, RoundedOutput]
    chosen: dict[str, str]
    gradients: dict[str, RoundedSketch]
    layers: tuple[ResultRow, ...] = ()
    passed: tuple[ShortSketch, ...] = ()
    caches: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _chose_what_it_has(self) -> SketchedRun:
        if absent := self.chosen.keys() - self.outputs.keys():
            raise ValueError(f"chosen outputs that are not there: {listing(map(brief, absent))}")
        return self

    @property
    def by_name(self) -> dict[str, Seen]:
        """The outputs in the loss, by the names that both models have for them."""
        return {name: self.outputs[key] for key, name in self.chosen.items()}

    def has(self, values: Sketch) -> bool:
        """Return whether some module returned these values, or took them as input."""
        margin = 2 * LIMIT * values.norm
        low = bisect_left(self._norms, values.norm - margin)
        high = bisect_right(self._norms, values.norm + margin)
        return any(values.gap(sketch) <= LIMIT for sketch in self._seen[low:high])

    @cached_property
    def _seen(self) -> list[Sketch]:
        sketches = (*(row.sketch for row in self.layers), *self.passed)
        return sorted((s for s in sketches if isfinite(s.norm)), key=lambda sketch: sketch.norm)

    @cached_property
    def _norms(self) -> list[float]:
        return [sketch.norm for sketch in self._seen]

    def result_of(self, path: str) -> Sketch | None:
        """Return the sketch of a module's output; None where it did not run."""
        return self._results.get(path)

    @cached_property
    def _results(self) -> dict[str, Sketch]:
        return {row.path: row.sketch for row in self.layers}


class ModelSketch(Saved):
    """What pairing knows of one model.

    Attributes:
        unifreeze_sketch: Version of the format.
        framework: The framework that ran it.
        model: Name of the model in messages.
        seed: Seed of everything random.
        states: State that is not a statistic was given values as well.
        tensors: Every parameter, in canonical order, then every state tensor.
        settings: Each layer's settings, in order of execution.
        shared: The run on values that depend on shapes alone.
        own: The run on values that are different for every tensor.
        like: Digest of the other model's sketch whose values `own` used; "" for its own values.
        carried: The pairs by which those values were carried over.
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
    states: bool = False
    tensors: tuple[TensorRow, ...]
    settings: tuple[LayerRow, ...] = ()
    shared: SketchedRun
    own: SketchedRun
    like: str = ""
    carried: tuple[Pair, ...] = ()

    @cached_property
    def digest(self) -> str:
        """A short hash of the sketch's content."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


def outputs_of(one: ModelSketch, seen: Mapping[str, Seen]) -> Matched:
    """Match the outputs of a run on shared values with another model's outputs."""
    return match_outputs(one.shared.by_name, seen)


def run_row(run: SketchRun, *, of: Collection[str] | None = None) -> SketchedRun:
    """Return what a sketch keeps of a run; with `of`, only the outputs of those modules."""
    return SketchedRun(
        dtype=run.dtype,
        outputs=dict(run.outputs),
        chosen=dict(run.chosen),
        gradients=dict(run.gradients),
        layers=tuple(
            ResultRow(path=path, shape=shape, sketch=sketch)
            for path, shape, sketch in run.layers
            if of is None or path in of
        ),
        passed=() if of else run.passed,
        caches=run.caches,
    )


def with_reach(row: TensorRow, reached: Collection[str]) -> TensorRow:
    """Return a row with `reached` set: whether the tensor, or its layer, ran.

    A module that is not a layer may run without using some of its own parameters.
    """
    end = f"[{row.part.number}]" if row.part else ""
    paths = set() if row.kind == "param" and not row.state else {row.owner.removesuffix(end)}
    paths |= set() if row.state else {n.removesuffix(end) for n in (row.path, *row.aliases)}
    return row.model_copy(update={"reached": not paths.isdisjoint(reached)})


def tensor_rows(spec: ModelSpec) -> dict[str, TensorRow]:
    """List a model's parameters in canonical order, then its state tensors, by native path."""
    rows = []
    for number in spec.canonical_order.tolist():
        known = spec.parameters[number]._asdict().items()
        shared = {name: value for name, value in known if name in TensorRow.model_fields}
        rows.append(TensorRow(**shared, reached=False, state=False))
    rows += _state_rows(spec)
    return {row.path: row for row in rows}


def _state_rows(spec: ModelSpec) -> Iterator[TensorRow]:
    kinds, paths = spec.placement.kinds, spec.tree.paths
    roles: dict[int, set[str]] = defaultdict(set)
    for state in spec.states:
        roles[state.owner].add(state.role)
    layers = {paths[owner] for owner in spec.tree.owners}
    for state in spec.states:
        owner = paths[state.owner]
        statistic = _statistic(state, roles[state.owner])
        if statistic in _ITERATED:  # a part of the layer holds them, for the layer's weight
            owner = next((path for path in above(owner) if path in layers), owner)
        yield TensorRow(
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
            kept=_is_kept(state) and not statistic and _is_given(state),
            statistic=statistic,
        )


def _is_kept(state: State) -> bool:
    """Return whether state is saved with the weights: training moves it, or it is not floating."""
    return state.moves or (state.persistent and not is_floating(state.dtype))


def is_floating(dtype: str) -> bool:
    """Return whether a tensor of a neutral dtype holds floating-point values."""
    return "float" in dtype


def _is_given(state: State) -> bool:
    """Return whether state can be given values: real numbers, and not a counter."""
    return state.role != "count" and "complex" not in state.dtype


_ITERATED = ("u", "v")


def _statistic(state: State, beside: set[str]) -> str:
    """Return which statistic a state tensor is, whatever its port calls it; "" for other state."""
    if state.role in ("mean", "var"):
        return state.role if {"mean", "var"} <= beside else ""
    name, _, last = state.role.rpartition("_")
    twin = {f"{name}_u", f"{name}_v"} <= beside
    return last if state.moves and last in _ITERATED and twin else ""
