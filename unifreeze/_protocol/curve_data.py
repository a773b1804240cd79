"""A short training and a few greedy tokens: their settings and their results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from unifreeze._protocol.batches import Array, Batch
from unifreeze._protocol.optimizer_settings import OptimizerSpec
from unifreeze._protocol.probe_data import check_counts


@dataclass(frozen=True)
class CurveConfig:
    """A training whose losses are compared with another model's.

    Attributes:
        batch: Inputs, the same at each step.
        output: Key of the output that the loss is made of.
        name: The name of that output in the first model, which seeds the loss's labels.
        values: As for `StepConfig`.
        seed: Seed of the labels.
        double: Compute in double precision, where the framework can.
        nudge: Move floating inputs and lookup tables by about one unit in the last place of the
            model's own precision, at each step, and take steps longer by 8e-6; in double
            precision move them at the first step alone.
        steps: Number of steps.
        optimizer: What trains, with settings that are exact in single precision.
    """

    batch: Batch
    output: str
    name: str
    values: Mapping[str, Array] = field(default_factory=dict)
    seed: int = 0
    double: bool = False
    nudge: bool = False
    steps: int = 20
    optimizer: OptimizerSpec = field(
        default_factory=lambda: OptimizerSpec("adamw", lr=2**-10, weight_decay=2**-7)
    )

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, seed=self.seed)


@dataclass(frozen=True)
class TokenConfig:
    """Greedy tokens, each the likeliest at the last place, which then joins the inputs.

    Attributes:
        batch: Inputs; those of the shape of the token ids grow with them.
        output: Key of the scores of words: rows, places, words.
        values: As for `StepConfig`.
        count: How many tokens.
    """

    batch: Batch
    output: str
    values: Mapping[str, Array] = field(default_factory=dict)
    count: int = 10


@dataclass(frozen=True)
class TokenRun:
    """Greedy tokens of one model.

    Attributes:
        tokens: For each token, its number in each row of the batch.
        leads: For each token and row, by how much it led before the second, relative to the
            largest score.
        stopped: Why there are fewer than asked for; "" if there are not.
    """

    tokens: tuple[tuple[int, ...], ...]
    leads: tuple[tuple[float, ...], ...]
    stopped: str = ""
