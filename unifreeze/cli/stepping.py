"""`step`: whether one training step is the same on two ports of a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unifreeze.cli.output import (
    BROKEN,
    BackendOption,
    BatchOption,
    JsonOption,
    ModelArgument,
    PlanArgument,
    SeedOption,
    console,
    write_json,
)
from unifreeze.cli.parity import OrderOption, read_inputs, read_order
from unifreeze.cli.targets import check_backends_used, load_model, use_backends
from unifreeze.pairing import Pairing
from unifreeze.plan import FreezePlan
from unifreeze.stepping import StepReport, check_step


def step(
    plan: PlanArgument,
    model: ModelArgument,
    other: Annotated[
        str, typer.Argument(metavar="MODEL", help="Another port of it, which gets its weights.")
    ],
    batch: BatchOption = [],  # noqa: B006 - typer copies it
    as_is: Annotated[
        bool,
        typer.Option("--as-is", help="Compute as the models are; allow for rounding noise."),
    ] = False,
    pairing: Annotated[
        Path | None,
        typer.Option("-p", "--pairing", help="The pairing that `unifreeze pair -o` wrote."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps per optimizer.")] = 1,
    seed: SeedOption = 0,
    order: OrderOption = "registration",
    backend: BackendOption = [],  # noqa: B006 - typer copies it
    json: JsonOption = "",
) -> None:
    """Check that a training step gives the same outputs, gradients and updates on both models.

    Both run in this process, in double precision, the second on the first one's weights.
    """
    use_backends(backend)
    loaded, known = FreezePlan.load(plan), Pairing.load(pairing) if pairing else None
    counted, inputs = read_order(order), read_inputs(batch, seed)
    one, framework = load_model(model, seed=seed)
    two, its_framework = load_model(other, seed=seed)
    check_backends_used(backend, {framework.name, its_framework.name})
    report = check_step(
        loaded,
        one,
        two,
        batch=inputs,
        pairing=known,
        dtype="as is" if as_is else "float64",
        steps=steps,
        seed=seed,
        order=counted,
    )
    _finish(report, json)


def _finish(report: StepReport, json: str) -> None:
    if json:
        write_json(report.to_json(), json)
    if json != "-":
        console().print(str(report), markup=False, soft_wrap=True)
        verdict = "the step is the same" if report.holds else "the step is not the same"
        if report.holds and not report.decided:
            verdict = "nothing speaks against the step, but not all of it could be decided"
        console().print(verdict, style="bold green" if report.holds else "bold red")
    if not report.holds:
        raise typer.Exit(BROKEN)
