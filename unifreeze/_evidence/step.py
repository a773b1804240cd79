"""Compare the same training step of two models: as files of sides, or live in one process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from unifreeze._arguments import checked
from unifreeze._evidence.clauses import STEP_CLAUSES
from unifreeze._evidence.record import Order, refuse_different
from unifreeze._evidence.report import ClauseResult, StepReport
from unifreeze._evidence.step_clauses import StepPair
from unifreeze._evidence.step_side import StepSide, make_side
from unifreeze._evidence.step_values import carried_values, for_first, for_second
from unifreeze._files import told_of_files
from unifreeze._plan import FreezePlan
from unifreeze._ports.pairing import Pairing, pair
from unifreeze._ports.pairing.layer_settings import compare_settings
from unifreeze._ports.pairing.random_layers import RandomLayers, compare_random_layers
from unifreeze._protocol import Batch, StepConfig, backend_for
from unifreeze.errors import RecordError

Precision = Literal["float64", "as is"]


@checked
def check_step(
    plan: FreezePlan,
    one: Any,
    other: Any,
    *,
    batch: Any,
    pairing: Pairing | None = None,
    dtype: Precision = "float64",
    steps: int = 1,
    seed: int = 0,
    order: Order = "registration",
) -> StepReport:
    """Check that a training step under a plan is the same on two ports of one network.

    During the check the second model holds the first one's weights and statistics. Each side trains
    with SGD and with AdamW, from the same start and with the same hyper-parameters. Layers with
    running statistics are in training mode; everything random is off. Then both models are restored
    bit for bit.

    Args:
        plan: The plan.
        one: A live model; its weights are used.
        other: Another port of the same network.
        batch: One batch of inputs for both: an array, a sequence, or a mapping by name; or one for
            each, by the names of their frameworks.
        pairing: Which tensor is which; made from the batch where it is not given.
        dtype: "float64" computes in double precision, where rounding cannot explain a difference.
            "as is" computes as the models are; each framework's own rounding noise is measured and
            allowed for.
        steps: Steps per optimizer; momentum shows from the second on.
        seed: Seed of everything random.
        order: How positions in the plan are counted; `execution` is what `apply(…, batch=…)` does.

    Returns:
        The report: `report.holds` is the verdict, `print(report)` explains it.

    Raises:
        PairingError: The two are not the same network, or the pairing is of other models.
        ResolveError: The plan does not fit one of the models.
        TargetError: A model does not run on the batch.

    >>> check_step(plan, torch_model, paddle_model, batch=batch)
    <unifreeze.StepReport: the step is the same, 7 clauses>
    """
    backends = backend_for(one), backend_for(other)
    batches = Batch.for_sides(batch, (backends[0].name, backends[1].name), seed=seed)
    if pairing is None:
        pairing = pair(one, other, batch=batch, seed=seed)
    config = StepConfig(batches[0], double=dtype == "float64", steps=steps, seed=seed)
    values = carried_values(pairing, backends, one, other)
    second_config = replace(config, batch=batches[1])
    configs = for_first(config, pairing), for_second(second_config, pairing, values)
    first, second = (
        make_side(plan, model, backend, config, name=type(model).__name__, order=order)
        for model, backend, config in zip((one, other), backends, configs, strict=True)
    )
    return compare_sides(first, second, pairing)


@told_of_files
def compare_sides(
    first: StepSide, second: StepSide, pairing: Pairing, *, plan: FreezePlan | None = None
) -> StepReport:
    """Compare two models' training steps, clause by clause; neither framework is needed.

    Args:
        first: The first model's side.
        second: The second model's side.
        pairing: Of the two models, in this order.
        plan: The plan that both sides must be of; None if any will do.

    Raises:
        RecordError: The sides are of different plans, precisions, seeds or optimizers, or not of
            the plan or the pairing.
    """
    _check_comparable((first, second), pairing, plan)
    sides = StepPair(first, second, pairing)
    layers = _paired_layers(first, second, pairing)
    random = compare_random_layers(first.layers, second.layers, layers)
    defaults = [(row.path, row.path) for row in first.defaults]
    return StepReport(
        tuple(ClauseResult(c.name, c.title, *c.check(sides)) for c in STEP_CLAUSES),
        (*compare_settings(first.layers, second.layers, layers), *random.differences),
        tuple(f"{side.model} in {side.framework} on {side.device}" for side in (first, second)),
        first.run.dtype,
        first.steps,
        compare_settings(first.defaults, second.defaults, defaults),
        tuple(_alone(first, second, random)),
    )


def _check_comparable(
    sides: tuple[StepSide, StepSide], pairing: Pairing, plan: FreezePlan | None
) -> None:
    for field in ("plan_digest", "double", "seed", "steps", "optimizers"):
        fact = f"the two sides are not of the same step: {field.replace('_', ' ')} differs"
        values = [(side.framework, getattr(side, field)) for side in sides]
        refuse_different(fact, *values, hint="run both with the same plan and the same options")
    if plan is not None and plan.digest != sides[0].plan_digest:
        raise RecordError("the two sides are of another plan", hint="run both with this one")
    for row in pairing.pairs:
        for side, path in zip(sides, (row.one, row.other), strict=True):
            if not row.state and path not in side.run.weights:
                raise RecordError(
                    f"the pairing is of other models: {side.model} has no {path}",
                    hint="give the sides in the pairing's order",
                )


def _paired_layers(first: StepSide, second: StepSide, pairing: Pairing) -> list[tuple[str, str]]:
    """Return the layers that paired tensors belong to, and those paired by their results."""
    here, there = first.owners, second.owners
    tensors = [(row.one_tensor, row.other_tensor) for row in pairing.pairs]
    owners = [(here[a], there[b]) for a, b in tensors if a in here and b in there]
    return [*owners, *pairing.layers]


def _alone(first: StepSide, second: StepSide, random: RandomLayers) -> Iterator[str]:
    """Say which layers that draw random numbers have no counterpart to be compared with."""
    sides = (first, second), (second, first)
    for (side, partner), layers in zip(sides, random.alone, strict=True):
        for layer in layers:
            yield (
                f"{layer.setting} {layer.rate} in {layer.path} of {side.framework}: no layer of "
                f"{partner.framework} is in its place"
            )
