"""A sketched run: the values that a model runs with, and the sketches of its results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from unifreeze._numerics.outputs import Seen
from unifreeze._numerics.projections import Parts, Sketch
from unifreeze._protocol.batches import Array, Batch
from unifreeze._protocol.probe_data import check_counts

Chosen = Mapping[str, str]
"""Outputs that a loss is made of, by their keys; the values are names that seed their weights."""


@dataclass(frozen=True)
class SketchConfig:
    """One run to be sketched.

    Attributes:
        batch: Inputs.
        values: Takes the first native path and stored shape of each parameter and statistic, and
            returns the values it runs with; None leaves it as it is.
        choose: Chooses outputs for the loss, once they are there; None for all, by their keys.
        seed: Seed of the loss's weights.
        parts: For a fused tensor, by its path: an axis, and by name where along it each part lies.
        double: Compute in double precision, where the framework can.
        nudge: Move floating inputs and lookup tables by about one unit in the last place.
    """

    batch: Batch
    values: Callable[[str, tuple[int, ...]], Array | None]
    choose: Callable[[Mapping[str, Seen]], Chosen] | None = None
    seed: int = 0
    parts: Parts = field(default_factory=dict)
    double: bool = True
    nudge: bool = False

    def __post_init__(self) -> None:
        check_counts(steps=1, seed=self.seed)


@dataclass(frozen=True)
class SketchRun:
    """The results of one run.

    Attributes:
        dtype: Neutral name of the floating dtype it ran in.
        outputs: Every floating output by its key.
        chosen: The outputs that the loss was made of.
        gradients: Sketch of every parameter's gradient by its first native path, or those of its
            parts by their names; a parameter without a gradient is left out.
        calls: Native paths in order of first use.
        layers: For each module that ran and returned a floating tensor, in order: its path, the
            tensor's shape and its sketch.
        passed: Sketches of tensors that modules were given and that no module returned.
        caches: Key-value caches of several tensors, which are not among the outputs.
    """

    dtype: str
    outputs: Mapping[str, Seen]
    chosen: Chosen
    gradients: Mapping[str, Sketch]
    calls: tuple[str, ...]
    layers: tuple[tuple[str, tuple[int, ...], Sketch], ...]
    passed: tuple[Sketch, ...] = ()
    caches: tuple[str, ...] = ()
