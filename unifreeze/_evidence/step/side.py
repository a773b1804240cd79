"""What one model's training steps showed, as a file: the evidence that a same step is judged by.

A few hundred kilobytes whatever the model's size, so that the two sides may be run in two
environments or on two machines, and compared where neither framework is installed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field

from unifreeze._evidence.parity import Order
from unifreeze._experiments.step import unit_of
from unifreeze._files import Format, Row, Saved
from unifreeze._numerics.outputs import Seen
from unifreeze._plan import FreezePlan, check_plan, refuse_phases
from unifreeze._ports.pairing.layer_settings import LayerRow, default_rows, layer_rows
from unifreeze._protocol import (
    Backend,
    OptimizerSpec,
    Sketch,
    StepConfig,
    StepRun,
    refuse_unsupported,
)
from unifreeze._resolution import Resolution, resolve_spec
from unifreeze._structure import STATISTICS
from unifreeze.errors import RecordError

STEP_FORMAT = 2


class ParameterRow(Row):
    """One parameter: where it is, what was decided, and the unit of its dtype."""

    path: str
    owner: str
    trainable: bool
    unit: float


class StatisticRow(Row):
    """One running mean or variance, and whether the plan holds it."""

    path: str
    owner: str
    role: str
    held: bool


class RunRow(Row):
    """What the steps gave; see `unifreeze._protocol.StepRun`."""

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

    @property
    def by_name(self) -> dict[str, Sketch]:
        """Sketches of the outputs that the loss was made of, by their names on both sides."""
        found = {name: self.outputs[key].sketch for key, name in self.chosen.items()}
        return {name: sketch for name, sketch in found.items() if sketch is not None}


class StepSide(Saved):
    """What one model's training steps showed.

    Attributes:
        unifreeze_step: Version of the format.
        framework: The framework that ran it.
        device: Where it ran.
        model: How the model was named.
        plan_digest: Name of what the plan says.
        double: It was computed in double precision.
        seed: Seed of the loss's weights.
        steps: Steps per optimizer.
        optimizers: With their settings.
        parameters: Every parameter, in order of registration.
        statistics: Every running mean and variance.
        layers: What is set in which layer, in order of execution.
        defaults: What the framework's optimizers do if nobody says otherwise.
        run: What the steps gave.
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
    parameters: tuple[ParameterRow, ...]
    statistics: tuple[StatisticRow, ...]
    layers: tuple[LayerRow, ...]
    defaults: tuple[LayerRow, ...] = ()
    run: RunRow
    moved: RunRow | None


def make_side(
    plan: FreezePlan,
    model: Any,
    backend: Backend,
    config: StepConfig,
    *,
    name: str,
    order: Order = "registration",
) -> StepSide:
    """Run a plan's steps on a live model and keep what they showed; it is restored bit for bit.

    Args:
        plan: The plan.
        model: The live model.
        backend: Its backend.
        config: Batch, values, precision and optimizers; as it is, noise is measured, too.
        name: How the model is called.
        order: What positions count by; `execution` is what `apply(…, batch=…)` does.

    Raises:
        PlanError: The plan has phases.
        ResolveError: The plan does not fit the model.
        UnsupportedPlanError: The framework would not carry it out as it says.
        TargetError: The model cannot be trained on the batch.
    """
    check_plan(plan)
    refuse_phases(plan)
    traced = backend.describe(model, config.batch)
    spec = traced if order == "execution" else backend.describe(model)
    resolution = resolve_spec(plan, spec)
    refuse_unsupported(backend, model, resolution)
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


def _parameter_rows(resolution: Resolution, *, double: bool) -> list[ParameterRow]:
    rows = zip(resolution.spec.parameters, resolution.trainable.tolist(), strict=True)
    return [
        ParameterRow(
            path=parameter.path,
            owner=parameter.owner,
            trainable=trainable,
            unit=unit_of("float64" if double else parameter.dtype),
        )
        for parameter, trainable in rows
    ]


def _statistic_rows(resolution: Resolution) -> list[StatisticRow]:
    held, paths = set(resolution.held), resolution.spec.tree.paths
    return [
        StatisticRow(
            path=state.path, owner=paths[state.owner], role=state.role, held=state.owner in held
        )
        for state in resolution.spec.states
        if state.role in STATISTICS and state.role != "count"
    ]


def _run_row(run: StepRun) -> RunRow:
    statistics = {
        path: tuple(tuple(float(n) for n in array.reshape(-1)) for array in both)
        for path, both in run.statistics.items()
    }
    return RunRow(**{**run.__dict__, "statistics": statistics})
