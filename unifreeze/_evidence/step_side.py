"""Record one model's training steps, as a file that is compared with the other model's.

Such a file has a few hundred kilobytes whatever the model's size. So the two sides can run in two
environments or on two machines, and be compared where neither framework is installed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field, model_validator

from unifreeze._evidence.record import Order, prepare
from unifreeze._experiments.nudging import unit_of
from unifreeze._files import Format, Row, Saved
from unifreeze._numerics.outputs import Seen
from unifreeze._plan import FreezePlan
from unifreeze._ports.pairing.layer_settings import LayerRow, default_rows, layer_rows
from unifreeze._protocol import Backend, OptimizerSpec, Sketch, StepConfig, StepRun
from unifreeze._resolution import Resolution
from unifreeze._structure import STATISTICS
from unifreeze.errors import RecordError, brief, listing

STEP_FORMAT = 2


class StepParameterRow(Row):
    """One parameter: where it is, what was decided, and the unit of its dtype."""

    path: str
    owner: str
    trainable: bool
    unit: float


class StepStatisticRow(Row):
    """One running mean or variance, and whether the plan holds it."""

    path: str
    owner: str
    role: str
    held: bool


class StepRunRow(Row):
    """Results of the steps; `unifreeze._protocol.StepRun` explains each field."""

    dtype: str
    outputs: dict[str, Seen]
    chosen: dict[str, str]
    gradients: dict[str, Sketch]
    weights: dict[str, float]
    updates: dict[str, dict[str, Sketch]]
    statistics: dict[str, tuple[tuple[float, ...], tuple[float, ...]]]
    states: dict[str, Sketch] = Field(default_factory=dict)
    counts: dict[str, tuple[int, ...]]
    changed: tuple[tuple[str, str], ...]

    @model_validator(mode="after")
    def _chose_what_it_has(self) -> StepRunRow:
        if absent := self.chosen.keys() - self.outputs.keys():
            raise ValueError(f"chosen outputs that are not there: {listing(map(brief, absent))}")
        return self

    @property
    def by_name(self) -> dict[str, Sketch]:
        """Sketches of the outputs that the loss was made of, by the names that both sides use."""
        sketches = {name: self.outputs[key].sketch for key, name in self.chosen.items()}
        return {name: sketch for name, sketch in sketches.items() if sketch is not None}


class StepSide(Saved):
    """What one model's training steps showed.

    Attributes:
        unifreeze_step: Version of the format.
        framework: The framework that ran it.
        device: Where it ran.
        model: How the model was named.
        plan_digest: The plan's digest; equal for plans that say the same.
        double: The run was computed in double precision.
        seed: Seed of the loss's weights.
        steps: Steps per optimizer.
        optimizers: With their settings.
        parameters: Every parameter, in order of registration.
        statistics: Every running mean and variance.
        layers: Each layer's settings, in order of execution.
        defaults: The defaults of the framework's optimizers.
        run: Results of the steps.
        moved: The same with the inputs moved by one unit in the last place; None in double
            precision, where that is not needed.
    """

    format: ClassVar[Format] = Format(
        what="side of a step",
        key="unifreeze_step",
        version=STEP_FORMAT,
        error=RecordError,
        hint="run both sides anew with one release",
    )

    unifreeze_step: int
    framework: str
    device: str
    model: str
    plan_digest: str
    double: bool
    seed: int
    steps: int
    optimizers: tuple[OptimizerSpec, ...]
    parameters: tuple[StepParameterRow, ...] = Field(min_length=1)
    statistics: tuple[StepStatisticRow, ...]
    layers: tuple[LayerRow, ...]
    defaults: tuple[LayerRow, ...] = ()
    run: StepRunRow
    moved: StepRunRow | None

    @property
    def owners(self) -> dict[str, str]:
        """The layer of each parameter and running statistic, by native path."""
        owners = {row.path: row.owner for row in self.parameters}
        return owners | {row.path: row.owner for row in self.statistics}


def make_side(
    plan: FreezePlan,
    model: Any,
    backend: Backend,
    config: StepConfig,
    *,
    name: str,
    order: Order = "registration",
) -> StepSide:
    """Run a plan's steps on a live model and record them; then restore the model bit for bit.

    Args:
        plan: The plan.
        model: The live model.
        backend: Its backend.
        config: Batch, values, precision and optimizers. In the model's own precision, the steps
            run once more to measure rounding noise.
        name: What the file calls the model.
        order: How positions in the plan are counted.

    Raises:
        PlanError: The plan has phases.
        ResolveError: The plan does not fit the model.
        UnsupportedPlanError: The framework would not carry it out as it says.
        TargetError: The model cannot be trained on the batch.
    """
    traced, resolution = prepare(plan, model, backend, config.batch, order)
    run = backend.step(model, resolution, config)
    moved = None
    if not config.double:
        moved = _run_row(backend.step(model, resolution, replace(config, nudge=True)))
    return StepSide(
        unifreeze_step=STEP_FORMAT,
        framework=backend.name,
        device=backend.device_of(model),
        model=name,
        plan_digest=plan.digest,
        double=config.double,
        seed=config.seed,
        steps=config.steps,
        optimizers=config.optimizers,
        parameters=tuple(_parameter_rows(resolution, double=config.double)),
        statistics=tuple(_statistic_rows(resolution)),
        layers=layer_rows(backend, model, traced.trace.calls if traced.trace else ()),
        defaults=default_rows(backend),
        run=_run_row(run),
        moved=moved,
    )


def _parameter_rows(resolution: Resolution, *, double: bool) -> list[StepParameterRow]:
    rows = zip(resolution.spec.parameters, resolution.trainable.tolist(), strict=True)
    return [
        StepParameterRow(
            path=parameter.path,
            owner=parameter.owner,
            trainable=trainable,
            unit=unit_of("float64" if double else parameter.dtype),
        )
        for parameter, trainable in rows
    ]


def _statistic_rows(resolution: Resolution) -> list[StepStatisticRow]:
    held, paths = set(resolution.held), resolution.spec.tree.paths
    return [
        StepStatisticRow(
            path=state.path, owner=paths[state.owner], role=state.role, held=state.owner in held
        )
        for state in resolution.spec.states
        if state.role in STATISTICS and state.role != "count"
    ]


def _run_row(run: StepRun) -> StepRunRow:
    statistics = {
        path: tuple(tuple(float(n) for n in array.reshape(-1)) for array in both)
        for path, both in run.statistics.items()
    }
    return StepRunRow(**{**run.__dict__, "statistics": statistics})
