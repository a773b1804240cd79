"""Checking parity of live models in one process."""

from __future__ import annotations

from typing import Any

from unifreeze._arguments import checked
from unifreeze._evidence.parity.compare import compare_records
from unifreeze._evidence.parity.record import Order, Record, common_outputs, make_record
from unifreeze._evidence.parity.report import Report
from unifreeze._plan import FreezePlan
from unifreeze._protocol import Backend, Batch, ProbeConfig, backend_for


@checked
def check_parity(
    plan: FreezePlan,
    model: Any,
    other: Any,
    *,
    batch: Any,
    steps: int = 2,
    seed: int = 0,
    order: Order = "registration",
) -> Report:
    """Check that a plan means the same on two models, and that training keeps it.

    Both models are trained for a few seeded steps, with AdamW and weight decay and with SGD and
    momentum, and then restored bit for bit.

    Args:
        plan: The plan.
        model: A live model, of any framework.
        other: Another, of another framework or on another device.
        batch: One batch of inputs for both: an array, a sequence, or a mapping by name; or one for
            each, by the names of their frameworks.
        steps: Training steps per optimizer.
        seed: Seed of everything random.
        order: What positions count by; `execution` is what `apply(…, batch=…)` does.

    Returns:
        The report; `report.holds` tells, `print(report)` explains.

    Raises:
        ResolveError: The plan does not fit one of the models.
        TargetError: A model does not run on the batch.

    >>> report = check_parity(plan, torch_model, paddle_model, batch=batch)
    >>> report.holds
    True
    """
    models, backends = (model, other), (backend_for(model), backend_for(other))
    batches = Batch.for_sides(batch, (backends[0].name, backends[1].name), seed=seed)

    def record(side: int, outputs: tuple[str, ...] | None) -> Record:
        config = ProbeConfig(batches[side], steps=steps, seed=seed, outputs=outputs)
        return _record(plan, models[side], backends[side], config, order)

    records = record(0, None), record(1, None)
    shared = common_outputs(*records)
    if shared:
        records = record(0, shared[0]), record(1, shared[1])
    return compare_records(*records)


def _record(
    plan: FreezePlan, model: Any, backend: Backend, config: ProbeConfig, order: Order
) -> Record:
    name = type(model).__name__
    device = backend.device_of(model)
    return make_record(plan, model, backend, config, device=device, name=name, order=order)
