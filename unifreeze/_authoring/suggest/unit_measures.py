"""Where tuning would pay, measured on a few batches: gradients by unit, and blocks passed by.

Two measures, because neither is enough:

- **Relative gradient norm** (Auto-RGN of surgical fine-tuning, Lee et al. 2022, arXiv 2210.11466):
  the norm of a unit's gradient over the norm of its weights, mean over the batches. It says how far
  from settled a unit is; there it scales learning rates tensor by tensor, here it orders units. It
  does *not* tell which block is broken: a broken block makes the gradients of all others large.
- **Passing a block by**: the loss with a block's output replaced by its input. In a residual
  network most blocks can be left out at little cost (Veit et al. 2016, arXiv 1605.06431), so one
  without which the loss is *lower* does harm: it is damaged, or foreign to this data. Damage to a
  block that the rest cannot do without, often the first, is not found so: blocks above it may then
  seem to do harm in its place.

Freezing a block and evaluating again measures nothing: freezing changes no output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot
from statistics import fmean

from unifreeze._authoring.suggest.model_units import Stretch
from unifreeze._numerics.measurements import Bypass, MeasureRun
from unifreeze._structure import ModelSpec

HARMFUL = 0.05
"""A block does harm if every batch's loss is lower without it, by this share in the mean."""

CLOSE = 0.5
"""Units train whose relative gradient norm is at least this share of the largest."""


@dataclass(frozen=True)
class Measure:
    """What was measured of one unit.

    Attributes:
        unit: First piece of its canonical names: `blocks.3`.
        selector: What selects it in a plan.
        parameters: How many parameters it has.
        values: How many values they hold.
        gradient: Norm of its gradient, mean over the batches; None where none reaches it.
        weight: Norm of the weights that gradients reach.
        ratio: Relative gradient norm; None where there is none.
        change: How the mean loss changes when it is passed by; None where it cannot be.
        harmful: The loss is lower without it.
        why: Why a block cannot be passed by; "" for what is no block.
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


def measures_of(spec: ModelSpec, units: Sequence[Stretch], run: MeasureRun) -> list[Measure]:
    """Add up by unit what was measured, from the input to the head."""
    reached = {path for gradients in run.gradients for path in gradients}
    return [_measure(spec, unit, run, reached) for unit in units]


def _measure(spec: ModelSpec, unit: Stretch, run: MeasureRun, reached: set[str]) -> Measure:
    paths = [spec.parameters[number].path for number in unit.parameters]
    paths = [path for path in paths if path in reached]
    gradient = fmean(_norm(one, paths) for one in run.gradients) if paths else None
    weight = _norm(run.weights, paths)
    ratio = gradient / weight if gradient is not None and weight else None
    bypass = run.bypassed.get(unit.block, Bypass())
    changes = [one - whole for one, whole in zip(bypass.losses, run.losses, strict=False)]
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

    First those that do harm, the worst first; then by relative gradient norm.
    """
    return sorted(measures, key=_rank)


def _rank(measure: Measure) -> tuple[bool, float]:
    if measure.harmful:
        return False, measure.change or 0.0
    return True, -(measure.ratio or 0.0)
