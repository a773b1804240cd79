"""Training steps to be compared with another model's: their settings and their results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from unifreeze._numerics.outputs import Seen
from unifreeze._numerics.projections import Parts, Sketch
from unifreeze._protocol.batches import Array, Batch
from unifreeze._protocol.optimizer_settings import OptimizerSpec
from unifreeze._protocol.probe_data import check_counts
from unifreeze._protocol.sketch_data import Chosen


@dataclass(frozen=True)
class StepConfig:
    """Training steps to be compared with another model's.

    Attributes:
        batch: Inputs.
        values: Values of parameters and statistics during the steps, by native path, in the
            framework's layout; the others keep the values they have.
        chosen: Outputs that the loss is made of; None for all, by their keys.
        seed: Seed of the loss's weights.
        double: Compute in double precision, where the framework can.
        nudge: Move floating inputs and lookup tables by about one unit in the last place.
        steps: Steps per optimizer.
        parts: As for `SketchConfig`.
        optimizers: One run each; by default with settings that are exact in single precision, in
            which Paddle keeps them.
    """

    batch: Batch
    values: Mapping[str, Array] = field(default_factory=dict)
    chosen: Chosen | None = None
    seed: int = 0
    double: bool = True
    nudge: bool = False
    steps: int = 1
    parts: Parts = field(default_factory=dict)
    optimizers: tuple[OptimizerSpec, ...] = (
        OptimizerSpec("sgd", lr=2**-7, weight_decay=2**-7, momentum=0.875),
        OptimizerSpec("adamw", lr=2**-10, weight_decay=0.125),
    )

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, seed=self.seed)


@dataclass(frozen=True)
class StepRun:
    """Results of the steps; outputs, gradients and statistics are those of the first step.

    Attributes:
        dtype: Neutral name of the floating dtype of the outputs.
        outputs: Every floating output by its key.
        chosen: The outputs that the loss was made of.
        gradients: Sketch of every parameter's gradient by its first native path; a parameter
            without a gradient is left out.
        weights: Norm of every parameter before the steps.
        updates: For each optimizer, sketch of what its steps added to every parameter.
        statistics: Each running mean and variance before and after the first forward pass.
        counts: For each layer with running statistics, how many values per channel each of its
            calls in that pass saw.
        changed: Frozen parameters and held statistics whose bits changed, with the optimizer.
        states: Sketch of all state that is saved, after the first forward pass.
    """

    dtype: str
    outputs: Mapping[str, Seen]
    chosen: Chosen
    gradients: Mapping[str, Sketch]
    weights: Mapping[str, float]
    updates: Mapping[str, Mapping[str, Sketch]]
    statistics: Mapping[str, tuple[Array, Array]]
    counts: Mapping[str, tuple[int, ...]]
    changed: tuple[tuple[str, str], ...]
    states: Mapping[str, Sketch] = field(default_factory=dict)
