"""Checking that two live models take the same training step: the evidence in numbers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial as bound
from typing import Any, Literal

import numpy as np

from unifreeze._arguments import checked
from unifreeze._evidence.parity import Order
from unifreeze._evidence.step.compare import compare_sides
from unifreeze._evidence.step.report import StepReport
from unifreeze._evidence.step.side import make_side
from unifreeze._numerics.projections import Array
from unifreeze._plan import FreezePlan
from unifreeze._ports.carrying.transfers import Piece, route
from unifreeze._ports.pairing import Pairing, pair
from unifreeze._ports.pairing.layout import places
from unifreeze._protocol import Backend, Batch, StepConfig, backend_for
from unifreeze.errors import PairingError

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

    For the time of the check the second model holds the first one's weights and statistics. Each
    side trains with SGD and with AdamW, from the same start and with the same hyper-parameters;
    layers with running statistics are in training mode, everything random is off. Both models come
    back bit for bit.

    Args:
        plan: The plan.
        one: A live model; its weights are used.
        other: Another port of the same network.
        batch: One batch of inputs for both: an array, a sequence, or a mapping by name; or one for
            each, by the names of their frameworks.
        pairing: Which tensor is which; found out where it is not given.
        dtype: Compute in double precision, where differences are no rounding; or as the models
            are, where each framework's own rounding noise is measured and allowed for.
        steps: Steps per optimizer; momentum shows from the second on.
        seed: Seed of everything random.
        order: What positions count by; `execution` is what `apply(…, batch=…)` does.

    Returns:
        The report; `report.holds` tells, `print(report)` explains.

    Raises:
        PairingError: The two are not the same network, or the pairing is of other models.
        ResolveError: The plan does not fit one of the models.
        TargetError: A model does not run on the batch.

    Example:
        ```python
        report = check_step(plan, torch_model, paddle_model, batch=batch)
        report.raise_if_broken()
        ```
    """
    backends = backend_for(one), backend_for(other)
    inputs = Batch.for_sides(batch, (backends[0].name, backends[1].name), seed=seed)
    if pairing is None:
        pairing = pair(one, other, batch=batch, seed=seed)
    config = StepConfig(inputs[0], double=dtype == "float64", steps=steps, seed=seed)
    ours = replace(
        config,
        chosen={key: key for key, _ in pairing.outputs},
        parts=places(row.one_part for row in pairing.pairs),
    )
    theirs = replace(
        config,
        batch=inputs[1],
        values=carried_values(pairing, backends, one, other),
        chosen={key: name for name, key in pairing.outputs},
        parts=places(row.other_part for row in pairing.pairs),
    )
    a, b = backends
    sides = (
        make_side(plan, one, a, ours, name=type(one).__name__, order=order),
        make_side(plan, other, b, theirs, name=type(other).__name__, order=order),
    )
    return compare_sides(*sides, pairing)


def carried_values(
    pairing: Pairing, backends: tuple[Backend, Backend], one: Any, other: Any
) -> dict[str, Array]:
    """Return the values that the second model takes from the first, laid out as it stores them.

    Raises:
        PairingError: The pairing names tensors that the models do not have.
        PortError: The pairing was never certified.
    """
    there = [set(b.objects(model)) for b, model in zip(backends, (one, other), strict=True)]
    wrong = [
        pair
        for pair in pairing.pairs
        if pair.one_tensor not in there[0] or pair.other_tensor not in there[1]
    ]
    if wrong:
        raise PairingError(
            f"the pairing is of other models: {wrong[0].one} and {wrong[0].other} are not there",
            hint="pair the models anew, or leave the pairing out",
        )

    def read(piece: Piece) -> Array:
        return backends[0].tensor(one, piece.names[0])

    return {
        step.targets[0]: np.array(
            step.filled(read, bound(backends[1].tensor, other, step.targets[0])), order="C"
        )
        for step in route(pairing, reverse=False).steps
    }
