"""Where tuning would pay, measured on a few batches: gradients by unit, and blocks left out.

There are two measures, because neither is enough:

- **Relative gradient norm** (Auto-RGN of surgical fine-tuning, Lee et al. 2022, arXiv 2210.11466):
  the norm of a unit's gradient over the norm of its weights, mean over the batches. It says how far
  from settled a unit is. The paper scales learning rates with it, tensor by tensor; here it orders
  units. It does *not* say which block is broken: a broken block makes all other gradients large.
- **Leaving a block out**: the loss with a block's output replaced by its input. In a residual
  network most blocks can be left out at little cost (Veit et al. 2016, arXiv 1605.06431). If the
  loss is *lower* without a block, the block does harm: it is damaged, or does not fit this data.
  This does not find damage to a block that the others need, often the first: then blocks above it
  may seem to do harm.

Freezing a block and evaluating again measures nothing: freezing changes no output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot
from statistics import fmean

from unifreeze._authoring.suggest.model_units import ModelUnit
from unifreeze._numerics.measurements import Bypass, MeasureRun
from unifreeze._structure import ModelSpec

HARMFUL = 0.05
"""A block does harm if every batch's loss is lower without it, and the mean by this share."""

CLOSE = 0.5
"""Units train whose relative gradient norm is at least this share of the largest."""


@dataclass(frozen=True)
class Measure:
    """The measurements of one unit.

    Attributes:
        unit: First piece of its canonical names: `blocks.3`.
        selector: What selects it in a plan.
        parameters: How many parameters it has.
        values: How many values they hold.
        gradient: Norm of its gradient, mean over the batches; None if it has none.
        weight: Norm of the weights that have gradients.
        ratio: Relative gradient norm; None if it has none.
        change: Change of the mean loss when it is left out; None where it cannot be.
        harmful: The loss is lower without it.
        why: Why a block cannot be left out; "" for other units.
    """

    unit: str
    selector: str
    parameters: int
    values: int
    gradient: float | None
    weight: float
    ratio: float | None
    change: float | None = None
    harmful: bool = False
    why: str = ""


def measures_of(spec: ModelSpec, units: Sequence[ModelUnit], run: MeasureRun) -> list[Measure]:
    """Sum up the measurements by unit, from the input to the head."""
    reached = {path for gradients in run.gradients for path in gradients}
    return [_measure(spec, unit, run, reached) for unit in units]


def _measure(spec: ModelSpec, unit: ModelUnit, run: MeasureRun, reached: set[str]) -> Measure:
    paths = [spec.parameters[number].path for number in unit.parameters]
    paths = [path for path in paths if path in reached]
    gradient = fmean(_norm(batch, paths) for batch in run.gradients) if paths else None
    weight = _norm(run.weights, paths)
    ratio = gradient / weight if gradient is not None and weight else None
    bypass = run.bypassed.get(unit.block, Bypass())
    changes = [without - loss for without, loss in zip(bypass.losses, run.losses, strict=False)]
    change = fmean(changes) if changes else None
    limit = -HARMFUL * abs(fmean(run.losses))
    return Measure(
        unit.label,
        unit.selector,
        len(unit.parameters),
        unit.values,
        gradient,
        weight,
        ratio,
        change,
        harmful=change is not None and change < limit and max(changes) < 0,
        why=bypass.why,
    )


def _norm(norms: Mapping[str, float], paths: Sequence[str]) -> float:
    return hypot(*(norms.get(path, 0.0) for path in paths))


def ranked(measures: Sequence[Measure]) -> list[Measure]:
    """Order units by where tuning would pay most.

    First units that do harm, the worst first; then by relative gradient norm.
    """
    return sorted(measures, key=_rank)


def _rank(measure: Measure) -> tuple[bool, float]:
    if measure.harmful:
        return False, measure.change or 0.0
    return True, -(measure.ratio or 0.0)
