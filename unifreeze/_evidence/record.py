"""Record one run of one plan on one model, as a file that parity compares."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from unifreeze._files import Format, Row, Saved
from unifreeze._numerics.outputs import Matched, Seen, match_outputs
from unifreeze._plan import FreezePlan, check_plan, refuse_phases
from unifreeze._protocol import Backend, Batch, ProbeConfig, ProbeResult, refuse_unsupported
from unifreeze._resolution import Resolution, corrected, resolve_spec
from unifreeze._structure import STATISTICS, ModelSpec
from unifreeze._tables import one_line
from unifreeze.errors import RecordError, counted

RECORD_FORMAT = 2
"""In format 1 a fused projection took one place in canonical names, whatever it held."""
Order = Literal["registration", "execution"]
"""How positions in a plan are counted; `execution` is what `apply(…, batch=…)` does."""


class ParameterRow(Row):
    """One parameter: where it is, what was decided, and whether the run used it."""

    name: str
    path: str
    aliases: tuple[str, ...]
    kind: str
    role: str
    shape: tuple[int, ...]
    neutral_shape: tuple[int, ...]
    oriented: bool
    dtype: str
    values: int
    fixed: str
    found: bool
    trainable: bool
    rule: int
    lr_scale: float
    weight_decay: float | None
    reached: bool
    ambiguous: bool
    by_execution: bool
    trained_rows: tuple[int, int] | None = None
    """First row of a table that trains, and the first after them, where only some rows do."""

    @model_serializer(mode="wrap")
    def _without_nothing(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = write(self)
        if self.trained_rows is None:
            data.pop("trained_rows", None)  # as in records from before there was such a field
        return data


class StateRow(Row):
    """One statistic or other state tensor, and whether the plan holds it."""

    name: str
    path: str
    role: str
    statistic: bool
    held: bool


class RunRow(Row):
    """Results of one optimizer's steps, by native path; `ProbeRun` explains each field."""

    optimizer: str
    flags: dict[str, bool]
    gradients: dict[str, float | None]
    before: dict[str, str]
    after: dict[str, str]
    updates: dict[str, float]
    live: tuple[str, ...]


class Record(Saved):
    """The results of one run of one plan on one model.

    Attributes:
        unifreeze_record: Version of the record format.
        framework: The framework that ran it.
        versions: Versions of Python, unifreeze and the framework.
        device: Where it ran.
        model: How the model was named.
        plan: The plan as plain data.
        plan_digest: The plan's digest; equal for plans that say the same.
        order: How positions in the plan were counted.
        steps: Training steps per optimizer.
        seed: Seed of everything random.
        outputs: Shapes of the model's floating outputs, by their keys in its result.
        parameters: Every parameter, in canonical order.
        states: Every statistic and other state tensor.
        notices: Remarks of the resolution.
        runs: One per optimizer.

    >>> Record.load(record_file).side  # written by `unifreeze record PLAN MODEL -o FILE`
    'torch on cpu'
    """

    format: ClassVar[Format] = Format(
        what="unifreeze record",
        key="unifreeze_record",
        version=RECORD_FORMAT,
        error=RecordError,
        hint="write it again with `unifreeze record`, both sides with one release",
    )

    def __repr__(self) -> str:
        return one_line(
            self, f"{self.model} in {self.side}, {counted(len(self.parameters), 'parameter')}"
        )

    unifreeze_record: int
    framework: str
    versions: dict[str, str]
    device: str
    model: str
    plan: dict[str, Any]
    plan_digest: str
    order: Order
    steps: int
    seed: int
    outputs: dict[str, tuple[int, ...]]
    parameters: tuple[ParameterRow, ...]
    states: tuple[StateRow, ...]
    notices: tuple[str, ...]
    runs: tuple[RunRow, ...]

    @property
    def side(self) -> str:
        """How reports name this run: framework and device."""
        return f"{self.framework} on {self.device}"


def prepare(
    plan: FreezePlan, model: Any, backend: Backend, batch: Batch, order: Order
) -> tuple[ModelSpec, Resolution]:
    """Describe a live model, traced on a batch, and resolve a plan that can be run on it.

    Raises:
        PlanError: The plan has phases.
        ResolveError: The plan does not fit the model.
        UnsupportedPlanError: The framework would not carry it out as it says.
        TargetError: The model does not run on the batch.
    """
    check_plan(plan)
    refuse_phases(plan)
    traced = corrected(plan, backend.describe(model, batch))
    spec = traced if order == "execution" else backend.describe(model)
    resolution = resolve_spec(plan, spec)
    refuse_unsupported(backend, model, resolution)
    return traced, resolution


def make_record(
    plan: FreezePlan,
    model: Any,
    backend: Backend,
    config: ProbeConfig,
    *,
    device: str,
    name: str,
    order: Order = "registration",
) -> Record:
    """Run a plan's probe on a live model and record it; then restore the model bit for bit.

    Args:
        plan: The plan.
        model: The live model.
        backend: Its backend.
        config: Batch, steps and seed.
        device: Where the model is, for the record.
        name: What the record calls the model.
        order: How positions in the plan are counted.

    Raises:
        PlanError: The plan has phases.
        ResolveError: The plan does not fit the model.
        UnsupportedPlanError: The framework would not carry it out as it says.
        TargetError: The model cannot be trained on the batch.
    """
    traced, resolution = prepare(plan, model, backend, config.batch, order)
    by_execution = resolve_spec(plan, traced)
    result = backend.probe(model, resolution, config)
    return Record(
        unifreeze_record=RECORD_FORMAT,
        framework=backend.name,
        versions=versions_of(backend.name),
        device=device,
        model=name,
        plan=plan.document(),
        plan_digest=plan.digest,
        order=order,
        steps=config.steps,
        seed=config.seed,
        outputs=dict(result.outputs),
        parameters=tuple(_parameter_rows(traced, resolution, by_execution, result)),
        states=tuple(_state_rows(resolution)),
        notices=resolution.notices,
        runs=tuple(RunRow(**run.__dict__) for run in result.runs),
    )


def _parameter_rows(
    traced: ModelSpec, resolution: Resolution, by_execution: Resolution, result: ProbeResult
) -> list[ParameterRow]:
    spec, reached = resolution.spec, set(result.reached)
    ambiguous = traced.placement.ambiguous
    rows = []
    of_tables = {row.number: (row.start, row.stop) for row in resolution.rows}
    for number in spec.canonical_order.tolist():
        parameter = spec.parameters[number]
        decay = float(resolution.weight_decay[number])
        owner = spec.tree.owners[spec.first_names[number]]
        paths = {parameter.path, *parameter.aliases, spec.tree.paths[owner]}
        neutral_shape, oriented = traced.neutral_shape(number)
        trainable = bool(resolution.trainable[number])
        row = parameter._replace(neutral_shape=neutral_shape, trainable=trainable)
        rows.append(
            ParameterRow(
                **{name: value for name, value in row._asdict().items() if name != "owner"},
                oriented=oriented,
                found=parameter.trainable,
                rule=int(resolution.rule[number]),
                lr_scale=float(resolution.lr_scale[number]),
                weight_decay=None if decay != decay else decay,
                reached=bool(paths & reached),
                ambiguous=owner in ambiguous,
                by_execution=bool(by_execution.trainable[number]),
                trained_rows=of_tables.get(number),
            )
        )
    return rows


def _state_rows(resolution: Resolution) -> list[StateRow]:
    spec, held = resolution.spec, set(resolution.held)
    return [
        StateRow(
            name=spec.state_name(state),
            path=state.path,
            role=state.role,
            statistic=state.role in STATISTICS,
            held=state.moves and state.owner in held,
        )
        for state in spec.states
    ]


def versions_of(framework: str) -> dict[str, str]:
    """Return the versions of Python, of unifreeze and of a framework."""
    versions = {"python": platform.python_version()}
    for package in ("unifreeze", framework, f"{framework}paddle"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def matched_outputs(first: Record, second: Record) -> Matched:
    """Return which output of one record is which of the other: by key, or by shape and order."""
    shapes = [{key: Seen(shape) for key, shape in r.outputs.items()} for r in (first, second)]
    return match_outputs(*shapes)


def common_outputs(first: Record, second: Record) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Return the keys of the outputs that both sides have, as each side calls them.

    If the two return different outputs, both must run again with a loss of these alone. None if
    all outputs are shared, or none is.
    """
    names = matched_outputs(first, second).names
    if not names or len(names) == len(first.outputs) == len(second.outputs):
        return None
    return tuple(names.values()), tuple(names)


def refuse_different(fact: str, *sides: tuple[str, object], hint: str) -> None:
    """Refuse to compare two runs whose values, each given with the run's name, differ.

    Raises:
        RecordError: The values differ; `fact` says which.
    """
    if sides[0][1] != sides[1][1]:
        context = "\n".join(f"{side}: {value}" for side, value in sides)
        raise RecordError(fact, context=context, hint=hint)
