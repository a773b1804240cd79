"""The command `align`: run every check of a port and write the acceptance report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from unifreeze._cli.align_sides import (
    STEPS,
    Settings,
    align_files,
    align_in_two_processes,
    save_side,
)
from unifreeze._cli.find_model import check_backends_used, load_model, use_backends
from unifreeze._cli.output import (
    BROKEN,
    BackendOption,
    BatchOption,
    JsonOption,
    OtherPythonOption,
    PairingOption,
    SeedOption,
    output_file,
    say,
    say_as_it_is,
    write_json,
)
from unifreeze._cli.parity import read_inputs
from unifreeze._cli.progress_bars import progress_bars
from unifreeze._evidence.alignment import AlignmentReport, Checks
from unifreeze._files import save_text
from unifreeze._ports.carrying import load_weights
from unifreeze._ports.pairing import Pairing
from unifreeze.errors import TargetError

Language = Literal["en", "zh"]


def align(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="The model that was ported, the file of its side, or a saved report.",
        ),
    ],
    other: Annotated[
        str, typer.Argument(metavar="MODEL", help="Its port, or the file of its side.")
    ] = "",
    batch: BatchOption = [],  # noqa: B006 - typer copies it
    output: Annotated[
        Path | None,
        output_file(
            "Write the report as Markdown, and the curves beside it as SVG; of one MODEL, write "
            "its side (.json)."
        ),
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
        Path | None,
        typer.Option(
            metavar="FILE", help="Load this weight file into the model that was ported, first."
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            metavar="SIDE",
            help="With one MODEL, the port: the first model's side, with its weights beside it.",
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option(min=1, metavar="N", help="Training steps of the loss curves.")
    ] = STEPS,
    seed: SeedOption = 0,
    other_python: OtherPythonOption = "",
    backend: BackendOption = [],  # noqa: B006 - typer copies it
    json: JsonOption = "",
) -> None:
    """Run every check of a port: pairing, layers, outputs, gradients, training, settings, parity.

    Both models run in this process, the port on the first model's weights, and are restored. Or
    each is run alone, where its framework is, and the report is made of the two files. With the
    file that --json wrote in place of the models, the report is written again, in either language.
    """
    tongue = _language(language)
    settings = Settings(batch, plan, pairing, weights, like, steps, seed, other_python, backend)
    are_files = [name.endswith(".json") for name in (model, other) if name]
    settings.check(are_files)
    if not other and not any(are_files):
        save_side(model, output, settings, json)
        return
    if len(are_files) == 1:
        report = AlignmentReport.load(model)
    elif all(are_files):
        report = align_files(Path(model), Path(other), settings)
    elif other_python:
        report = align_in_two_processes(model, other, settings)
    else:
        report = _align_here(model, other, settings)
    _write(report, output, tongue, json)


def _write(report: AlignmentReport, output: Path | None, tongue: Language, json: str) -> None:
    """Write and print a report, and end the command."""
    if output:
        picture = output.with_suffix(".svg")
        save_text(picture, report.to_svg(tongue), error_class=TargetError)
        text = report.to_markdown(tongue, picture=picture.name)
        save_text(output, text, error_class=TargetError)
    if json:
        write_json(report.to_json(), json)
    if json != "-":
        if output:
            say_as_it_is(f"written to {output}")
        else:
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


def _align_here(model: str, other: str, settings: Settings) -> AlignmentReport:
    """Run both models in this process."""
    use_backends(settings.backend)
    seed = settings.seed
    known = Pairing.load(settings.pairing) if settings.pairing else None
    plan, inputs = settings.read_plan(), read_inputs(settings.batch, seed)
    first, first_backend = load_model(model, seed=seed)
    label = ""
    if settings.weights:
        label = str(load_weights(first, first_backend, settings.weights))
    second, second_backend = load_model(other, seed=seed)
    check_backends_used(settings.backend, {first_backend.name, second_backend.name})
    with progress_bars() as show:
        checks = Checks(first, second, inputs, plan, settings.steps, seed, label, show)
        return checks.report(known)
