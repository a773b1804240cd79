"""Compare two runs of one plan clause by clause: as records, or on live models in one process."""

from __future__ import annotations

from typing import Any

from unifreeze._arguments import checked
from unifreeze._evidence.clauses import PARITY_CLAUSES
from unifreeze._evidence.parity_clauses import RecordPair
from unifreeze._evidence.record import Order, Record, common_outputs, make_record, refuse_different
from unifreeze._evidence.report import ClauseResult, Report, Side
from unifreeze._files import told_of_files
from unifreeze._plan import FreezePlan
from unifreeze._protocol import Batch, ProbeConfig, backend_for
from unifreeze.errors import counted


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
        other: The second model, of another framework or on another device.
        batch: One batch of inputs for both: an array, a sequence, or a mapping by name; or one for
            each, by the names of their frameworks.
        steps: Training steps per optimizer.
        seed: Seed of everything random.
        order: How positions in the plan are counted; `execution` is what `apply(…, batch=…)` does.

    Returns:
        The report: `report.holds` is the verdict, `print(report)` explains it.

    Raises:
        ResolveError: The plan does not fit one of the models.
        TargetError: A model does not run on the batch.

    >>> report = check_parity(plan, torch_model, paddle_model, batch=batch)
    >>> report.holds
    True
    """
    models, backends = (model, other), (backend_for(model), backend_for(other))
    batches = Batch.for_sides(batch, (backends[0].name, backends[1].name), seed=seed)

    def record(side: int, outputs: tuple[str, ...] | None = None) -> Record:
        live, backend = models[side], backends[side]
        config = ProbeConfig(batches[side], steps=steps, seed=seed, outputs=outputs)
        device, name = backend.device_of(live), type(live).__name__
        return make_record(plan, live, backend, config, device=device, name=name, order=order)

    records = record(0), record(1)
    if shared := common_outputs(*records):
        records = record(0, shared[0]), record(1, shared[1])
    return compare_records(*records)


@told_of_files
def compare_records(first: Record, second: Record) -> Report:
    """Compare two runs of one plan, clause by clause; neither framework is needed.

    Raises:
        RecordError: The records are of different plans or of different probes.
    """
    plans = [(record.side, record.plan_digest) for record in (first, second)]
    hint = "record both sides with the same plan file"
    refuse_different("the records are of different plans", *plans, hint=hint)
    probes = [(record.side, _probe(record)) for record in (first, second)]
    hint = "record both sides with the same --steps and --seed"
    refuse_different("the records are of different probes", *probes, hint=hint)
    pair = RecordPair(first, second)
    return Report(
        tuple(ClauseResult(c.name, c.title, tuple(c.check(pair))) for c in PARITY_CLAUSES),
        (_side(first), _side(second)),
        first.steps,
        tuple(run.optimizer for run in first.runs),
    )


def _probe(record: Record) -> str:
    optimizers = ", ".join(run.optimizer for run in record.runs)
    return f"{counted(record.steps, 'step')} of {optimizers}, seed {record.seed}"


def _side(record: Record) -> Side:
    trainable = sum(row.trainable for row in record.parameters)
    return Side(
        record.framework,
        record.device,
        len(record.parameters),
        sum(row.values for row in record.parameters),
        len(record.parameters) - trainable,
        trainable,
    )
