"""The commands `parity`, `record` and `compare`: check parity at once, or a side at a time."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from unifreeze._cli.find_model import (
    check_backends_used,
    device_for,
    load_model,
    read_batch,
    read_plan,
    use_backends,
)
from unifreeze._cli.output import (
    BackendOption,
    BatchOption,
    JsonOption,
    ModelArgument,
    OtherPythonOption,
    OutputsOption,
    PlanArgument,
    SeedOption,
    output_file,
    say_as_it_is,
    write_json,
)
from unifreeze._cli.report_printer import print_report, print_reports
from unifreeze._cli.side_process import SideCommand, run_sides
from unifreeze._evidence import (
    Order,
    Record,
    common_outputs,
    compare_records,
    make_record,
)
from unifreeze._protocol import Batch, ProbeConfig
from unifreeze.errors import TargetError, counted

DeviceOption = Annotated[
    str, typer.Option(metavar="DEVICES", help="cpu or gpu, or torch=gpu,paddle=cpu by framework.")
]
StepsOption = Annotated[int, typer.Option(min=1, metavar="N", help="Training steps per optimizer.")]
OrderOption = Annotated[
    str,
    typer.Option(
        metavar="ORDER",
        help="How positions are counted: registration, or execution as with batch=.",
    ),
]


def record(
    plan: PlanArgument,
    model: ModelArgument,
    output: Annotated[Path, output_file("Where to write the record.")],
    batch: BatchOption = [],  # noqa: B006 - typer copies it
    device: DeviceOption = "",
    steps: StepsOption = 2,
    seed: SeedOption = 0,
    order: OrderOption = "registration",
    outputs: OutputsOption = "",
    backend: BackendOption = [],  # noqa: B006 - typer copies it
    json: JsonOption = "",
) -> None:
    """Run one side of a parity check and write its record."""
    use_backends(backend)
    loaded, order_of_counts = read_plan(plan), read_order(order)
    inputs = read_inputs(batch, seed)
    live, framework = load_model(model, seed=seed)
    if kind := device_for(device, framework.name):
        live = framework.place(live, kind)
    shared = tuple(outputs.split(",")) if outputs else None
    saved = make_record(
        loaded,
        live,
        framework,
        ProbeConfig(inputs, steps=steps, seed=seed, outputs=shared),
        device=framework.device_of(live),
        name=model,
        order=order_of_counts,
    )
    saved.save(output)
    trainable = sum(row.trainable for row in saved.parameters)
    summary = f"{saved.side}: {counted(len(saved.parameters), 'parameter')}, {trainable} trainable"
    if json:
        write_json({"record": str(output), "side": saved.side, "outputs": saved.outputs}, json)
    else:
        say_as_it_is(f"{summary}; written to {output}")


def read_inputs(batch: list[str], seed: int) -> Batch:
    """Read the batch that a command needs.

    Raises:
        TargetError: None is given, or it cannot be read.
    """
    inputs = read_batch(batch, seed=seed)
    if inputs is None:
        raise TargetError(
            "a batch is needed: the model is run on it",
            hint='for example --batch "float32[2,3,64,64]"',
        )
    return inputs


def read_order(order: str) -> Order:
    """Read how positions in a plan are counted.

    Raises:
        TargetError: It is neither registration nor execution.
    """
    if order == "registration":
        return "registration"
    if order == "execution":
        return "execution"
    raise TargetError(f"order {order!r} cannot be read", hint="registration or execution")


def compare(
    records: Annotated[
        list[Path],
        typer.Argument(metavar="RECORD RECORD ...", help="Two or more.", show_default=False),
    ],
    json: JsonOption = "",
) -> None:
    """Compare records, each with the first; needs neither framework."""
    if len(records) < 2:
        raise TargetError("compare needs two records or more", hint="`unifreeze record` writes one")
    first, *others = map(Record.load, records)
    print_reports([compare_records(first, other) for other in others], json)


def parity(
    plan: PlanArgument,
    model: ModelArgument,
    other: Annotated[
        str, typer.Argument(metavar="MODEL", help="The same network in the other framework.")
    ],
    batch: BatchOption = [],  # noqa: B006 - typer copies it
    device: DeviceOption = "",
    steps: StepsOption = 2,
    seed: SeedOption = 0,
    order: OrderOption = "registration",
    other_python: OtherPythonOption = "",
    backend: BackendOption = [],  # noqa: B006 - typer copies it
    json: JsonOption = "",
) -> None:
    """Check that one plan means the same on two models, and that training keeps it.

    Each side runs in a process of its own.
    """
    read_plan(plan)
    use_backends(backend)
    read_inputs(batch, seed)
    read_order(order)
    device_for(device, "")
    settings = ["--steps", str(steps), "--seed", str(seed), "--order", order]
    settings += [f"--device={device}"] if device else []
    for flag, values in (("--batch", batch), ("--backend", backend)):
        settings += [f"{flag}={value}" for value in values]
    pythons = (sys.executable, other_python or sys.executable)
    with tempfile.TemporaryDirectory(prefix="unifreeze-") as folder:
        files = [Path(folder) / name for name in ("one.json", "other.json")]
        sides = [
            SideCommand(python, name, ("record", str(plan), name, "-o", str(file), *settings))
            for python, name, file in zip(pythons, (model, other), files, strict=True)
        ]
        run_sides(sides)
        first, second = map(Record.load, files)
        check_backends_used(backend, {first.framework, second.framework})
        if shared := common_outputs(first, second):
            limits = [f"--outputs={','.join(keys)}" for keys in shared]
            limited = zip(sides, limits, strict=True)
            run_sides([side._replace(arguments=(*side.arguments, to)) for side, to in limited])
            first, second = map(Record.load, files)
    print_report(compare_records(first, second), json)
