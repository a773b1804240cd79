"""The command `align`: run every check of a port and write the acceptance report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from unifreeze._cli.find_model import check_backends_used, load_model, read_plan, use_backends
from unifreeze._cli.output import (
    BROKEN,
    BackendOption,
    BatchOption,
    JsonOption,
    PairingOption,
    SeedOption,
    output_file,
    say,
    write_json,
)
from unifreeze._cli.parity import read_inputs
from unifreeze._evidence.alignment import AlignmentReport
from unifreeze._evidence.alignment import align as run_every_check
from unifreeze._files import save_text
from unifreeze._ports.pairing import Pairing
from unifreeze.errors import TargetError

Language = Literal["en", "zh"]


def align(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="The model that was ported, or a saved report.")
    ],
    other: Annotated[str, typer.Argument(metavar="MODEL", help="Its port.")] = "",
    batch: BatchOption = [],  # noqa: B006 - typer copies it
    output: Annotated[
        Path | None, output_file("Write the report as Markdown; the curves go beside it as SVG.")
    ] = None,
    language: Annotated[
        str, typer.Option(metavar="LANGUAGE", help="Language of the Markdown: en or zh.")
    ] = "en",
    plan: Annotated[
        Path | None,
        typer.Option(metavar="PLAN", help="A plan for the training; all trains without one."),
    ] = None,
    pairing: PairingOption = None,
    weights: Annotated[
        str, typer.Option(metavar="TEXT", help="Where the weights come from, for the report.")
    ] = "",
    steps: Annotated[
        int, typer.Option(min=1, metavar="N", help="Training steps of the loss curves.")
    ] = 20,
    seed: SeedOption = 0,
    backend: BackendOption = [],  # noqa: B006 - typer copies it
    json: JsonOption = "",
) -> None:
    """Run every check of a port: pairing, layers, outputs, gradients, training, settings, parity.

    Both models run in this process, the port on the first model's weights, and are restored. With
    the file that --json wrote in place of the models, the report is written again, in either
    language.
    """
    tongue = _language(language)
    if model.endswith(".json") and not other:
        report = AlignmentReport.load(model)
    else:
        report = _run(model, other, batch, plan, pairing, weights, steps, seed, backend)
    if output:
        picture = output.with_suffix(".svg")
        save_text(picture, report.to_svg(), error_class=TargetError)
        text = report.to_markdown(tongue, picture=picture.name)
        save_text(output, text, error_class=TargetError)
    if json:
        write_json(report.to_json(), json)
    if json != "-":
        if not output:
            say(str(report))
        say(report.summary, style="bold green" if report.holds else "bold red")
    if not report.holds:
        raise typer.Exit(BROKEN)


def _language(text: str) -> Language:
    for language in get_args(Language):
        if text == language:
            known: Language = language
            return known
    raise TargetError(f"--language {text!r} is not known", hint="en or zh")


def _run(
    model: str,
    other: str,
    batch: list[str],
    plan: Path | None,
    pairing: Path | None,
    weights: str,
    steps: int,
    seed: int,
    backend: list[str],
) -> AlignmentReport:
    if not other:
        raise TargetError(
            "align needs two models, or the file of a saved report",
            hint="unifreeze align MODEL MODEL --batch …, or unifreeze align report.json",
        )
    use_backends(backend)
    known = Pairing.load(pairing) if pairing else None
    loaded, inputs = read_plan(plan) if plan else None, read_inputs(batch, seed)
    first_model, first_backend = load_model(model, seed=seed)
    second_model, second_backend = load_model(other, seed=seed)
    check_backends_used(backend, {first_backend.name, second_backend.name})
    return run_every_check(
        first_model,
        second_model,
        batch=inputs,
        plan=loaded,
        pairing=known,
        steps=steps,
        seed=seed,
        weights=weights,
    )
