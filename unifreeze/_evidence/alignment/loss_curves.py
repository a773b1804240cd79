"""Train both models for a number of steps and compare the losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from unifreeze._evidence.alignment.lines import Line, measured_line
from unifreeze._evidence.gaps import NOISES, Limit
from unifreeze._evidence.record import prepare
from unifreeze._files import Row
from unifreeze._numerics.seeded_losses import loss_kind
from unifreeze._plan import FreezePlan
from unifreeze._ports.pairing import Pairing
from unifreeze._protocol import Backend, Batch, CurveConfig

LOSSES = Limit(1e-6, 1e-4)
"""Relative difference of losses that is allowed even without noise."""


class Curves(Row):
    """The losses of both models, before each step and after the last one.

    Attributes:
        one: In the first model.
        other: In the second.
        kind: Which loss; see `loss_kind`.
        output: The output that it is made of, as the first model calls it.
    """

    one: tuple[float, ...]
    other: tuple[float, ...]
    kind: str
    output: str


def compare_curves(
    plan: FreezePlan,
    models: tuple[Any, Any],
    backends: tuple[Backend, Backend],
    configs: tuple[CurveConfig, CurveConfig],
    shape: tuple[int, ...],
) -> tuple[list[Line], Curves]:
    """Train in the models' own precision, once more with moved inputs, and in float64."""
    resolved = [
        prepare(plan, model, backend, config.batch, "registration")[1]
        for model, backend, config in zip(models, backends, configs, strict=True)
    ]

    def train(*, nudge: bool = False, double: bool = False) -> list[tuple[float, ...]]:
        sides = zip(models, backends, resolved, configs, strict=True)
        return [
            backend.loss_curve(model, resolution, replace(config, nudge=nudge, double=double))
            for model, backend, resolution, config in sides
        ]

    plain, double = train(), train(double=True)
    limit = max(LOSSES.single, NOISES * _noise(plain, train(nudge=True)))
    # Where a gradient is zero but for rounding, AdamW's step is of full size and random direction.
    limit_in_double = max(LOSSES.double, NOISES * _noise(double, train(nudge=True, double=True)))
    steps, kind = configs[0].steps, loss_kind(configs[0].name, shape)
    lines = [
        measured_line("training", "losses", _apart(*plain), limit, "losses", steps=steps),
        measured_line(
            "training", "losses in float64", _apart(*double), limit_in_double, "losses", steps=steps
        ),
    ]
    return lines, Curves(one=plain[0], other=plain[1], kind=kind, output=configs[0].name)


def curve_configs(
    pairing: Pairing, batches: tuple[Batch, Batch], values: Mapping[str, Any], steps: int, seed: int
) -> tuple[CurveConfig, CurveConfig]:
    """Return the trainings of both models on the output that is likeliest what users train on."""
    keys = [one for one, _ in pairing.outputs]
    name = next((key for key in ("loss", "logits") if key in keys), keys[0])
    other = dict(pairing.outputs)[name]
    first = CurveConfig(batches[0], name, name, seed=seed, steps=steps)
    return first, replace(first, batch=batches[1], output=other, values=values)


def _noise(plain: list[tuple[float, ...]], moved: list[tuple[float, ...]]) -> float:
    """Return the larger of what moved inputs change in the losses of each model."""
    return max(_apart(a, b) for a, b in zip(plain, moved, strict=True))


def _apart(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Return the largest difference of two curves, relative to the largest loss."""
    largest = max(map(abs, (*one, *other)), default=0.0) or 1.0
    gaps = [abs(a - b) / largest for a, b in zip(one, other, strict=True)]
    return max((gap if gap == gap else float("inf") for gap in gaps), default=0.0)
