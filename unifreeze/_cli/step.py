"""The command `step`: check that a training step is the same on two ports of a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

import typer

from unifreeze._cli.find_model import (
    check_backends_used,
    load_model,
    read_plan,
    use_backends,
)
from unifreeze._cli.output import (
    BackendOption,
    BatchOption,
    JsonOption,
    PairingOption,
    PlanArgument,
    SeedOption,
    output_file,
    say_as_it_is,
    write_json,
)
from unifreeze._cli.parity import OrderOption, StepsOption, read_inputs, read_order
from unifreeze._cli.report_printer import print_report
from unifreeze._evidence import (
    StepSide,
    check_step,
    compare_sides,
    make_side,
    on_sketched_values,
)
from unifreeze._ports.pairing import ModelSketch, Pairing
from unifreeze._protocol import StepConfig
from unifreeze.errors import TargetError, counted

Given = TypeVar("Given")


ModelOrFile = Annotated[
    str, typer.Argument(metavar="MODEL", help="A model, or the file of its side.")
]
PortOrFile = Annotated[
    str, typer.Argument(metavar="MODEL", help="Another port of it, or the file of its side.")
]
AsIsOption = Annotated[
    bool, typer.Option("--as-is", help="Compute as the models are; allow for rounding noise.")
]
SideOption = Annotated[Path | None, output_file("Run MODEL alone and write its side to this file.")]
SketchOption = Annotated[
    Path | None,
    typer.Option(metavar="SKETCH", help="With -o: the sketch that the pairing was made from."),
]


def step(
    plan: PlanArgument,
    model: ModelOrFile,
    other: PortOrFile = "",
    batch: BatchOption = [],  # noqa: B006 - typer copies it
    as_is: AsIsOption = False,
    pairing: PairingOption = None,
    output: SideOption = None,
    sketch: SketchOption = None,
    steps: StepsOption = 1,
    seed: SeedOption = 0,
    order: OrderOption = "registration",
    backend: BackendOption = [],  # noqa: B006 - typer copies it
    json: JsonOption = "",
) -> None:
    """Check that a training step gives the same outputs, gradients and updates on both models.

    Both run in this process, in double precision, the second on the first one's weights; or each
    side is run alone, where its framework is, and the two files are compared.
    """
    use_backends(backend)
    loaded, known = read_plan(plan), Pairing.load(pairing) if pairing else None
    files = [name.endswith(".json") for name in (model, other)]
    if all(files):
        sides = StepSide.load(model), StepSide.load(other)
        print_report(compare_sides(*sides, _needed(known, "--pairing"), plan=loaded), json)
        return
    counting, inputs = read_order(order), read_inputs(batch, seed)
    if output:
        config = StepConfig(inputs, double=not as_is, steps=steps, seed=seed)
        first, known = ModelSketch.load(_needed(sketch, "--sketch")), _needed(known, "--pairing")
        live, framework = load_model(model, seed=seed)
        config = on_sketched_values(config, first, known, framework, live)
        side = make_side(loaded, live, framework, config, name=model, order=counting)
        _save(side, output, json)
        return
    if not other or any(files):
        raise TargetError(
            "step needs two models, two files of sides, or one model and -o FILE for its side"
        )
    first_model, first_backend = load_model(model, seed=seed)
    second_model, second_backend = load_model(other, seed=seed)
    check_backends_used(backend, {first_backend.name, second_backend.name})
    report = check_step(
        loaded,
        first_model,
        second_model,
        batch=inputs,
        pairing=known,
        dtype="as is" if as_is else "float64",
        steps=steps,
        seed=seed,
        order=counting,
    )
    print_report(report, json)


def _save(side: StepSide, output: Path, json: str) -> None:
    side.save(output)
    count = len(side.run.gradients)
    if json:
        summary = {"side": str(output), "framework": side.framework, "gradients": count}
        write_json(summary, json)
    if json != "-":
        say_as_it_is(f"{side.framework}: {counted(count, 'gradient')}; written to {output}")


def _needed(given: Given | None, option: str) -> Given:
    if given is None:
        raise TargetError(f"step from files, or with -o, needs {option}")
    return given
