"""`align` in two environments: one side at a time, and the report of the two files."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from unifreeze._cli.find_model import load_model_with, read_plan
from unifreeze._cli.output import say_as_it_is, write_json
from unifreeze._cli.pair import pair_in_two_processes
from unifreeze._cli.parity import read_inputs
from unifreeze._cli.progress_bars import progress_bars
from unifreeze._cli.side_process import SideCommand, run_sides
from unifreeze._evidence.alignment import (
    AlignmentReport,
    AlignmentSide,
    Task,
    compare_alignment_sides,
    pair_by_place,
    placed_by_sketch,
    save_first_side,
    save_second_side,
    weights_beside,
)
from unifreeze._plan import FreezePlan
from unifreeze._ports.carrying import load_weights
from unifreeze._ports.pairing import ModelSketch, Pairing
from unifreeze.errors import PairingError, TargetError, counted

STEPS = 20
"""Training steps of the loss curves, unless others are asked for."""


class Settings(NamedTuple):
    """The options of `align` that say how to measure."""

    batch: list[str]
    plan: Path | None
    pairing: Path | None
    weights: Path | None
    like: Path | None
    steps: int
    seed: int
    other_python: str
    backend: list[str]

    def check(self, are_files: list[bool]) -> None:
        """Refuse options that would do nothing, or names that do not go together.

        Args:
            are_files: For each name that is given, whether it is a file.

        Raises:
            TargetError: Saying what to write.
        """
        if any(are_files) and not all(are_files):
            raise TargetError(
                "align was given a file and a model",
                hint="two models; two files of sides; one model and -o SIDE.json; or one report",
            )
        alone, measured = len(are_files) == 1, not any(are_files)
        useless = {
            "--weights": self.weights and (not measured or self.like),
            "--like": self.like and not (measured and alone),
            "--other-python": self.other_python and (not measured or alone),
            "--batch": self.batch and not measured,
            "--plan": self.plan and not measured,
            "--steps": self.steps != STEPS and not measured,
            "--seed": self.seed and not measured,
            "--backend": self.backend and not measured,
            "-p": self.pairing and not measured and alone,
        }
        for option, given in useless.items():
            if given:
                raise TargetError(
                    f"{option} does nothing here", hint=_PLACES.get(option, _MEASURED)
                )

    def read_plan(self) -> FreezePlan:
        """Read the plan; without one, everything trains."""
        return read_plan(self.plan) if self.plan else FreezePlan().train("all")

    def read_pairing(self) -> Pairing:
        """Read the pairing, which both sides and their report need.

        Raises:
            TargetError: None is given.
        """
        if self.pairing is None:
            raise TargetError(
                "one side, and the report of two, need the pairing of both models",
                hint="-p pairing.json, which `unifreeze pair MODEL MODEL -o pairing.json` writes; "
                "or give two models",
            )
        return Pairing.load(self.pairing)


_MEASURED = "it is for the command that measures the models"
_PLACES = {
    "--weights": "it is for the model that was ported; the port takes its weights from there",
    "--like": "it is for the port measured alone: unifreeze align PORT --like FIRST.json -o …",
    "--other-python": "it is for two models: unifreeze align MODEL PORT --other-python PYTHON …",
}


def save_side(model: str, output: Path | None, settings: Settings, json: str) -> None:
    """Measure one model and write its side; the first model's weights go beside it.

    Raises:
        TargetError: There is no file to write to, it is not called .json, or another is in its way.
    """
    if output is None or output.suffix != ".json":
        raise TargetError(
            "align needs two models for a report; of one model it writes the side",
            hint="unifreeze align MODEL PORT --batch …, or unifreeze align MODEL -p pairing.json "
            "-o SIDE.json --batch …",
        )
    _keep_what_is_there(output, settings)
    pairing, inputs = settings.read_pairing(), read_inputs(settings.batch, settings.seed)
    plan = settings.read_plan()
    live, backend = load_model_with(settings.backend, model, seed=settings.seed)
    label = str(load_weights(live, backend, settings.weights)) if settings.weights else ""
    with progress_bars() as show:
        task = Task(plan, pairing, settings.steps, settings.seed, label, show)
        if settings.like:
            side = save_second_side(task, live, backend, inputs, settings.like, output)
        else:
            side = save_first_side(task, live, backend, inputs, output)
    written = str(output) if settings.like else f"{output} and {weights_beside(output)}"
    count = len(side.owners)
    if json:
        about = {"side": str(output), "framework": side.framework, "tensors": count}
        write_json({**about, "failures": side.failures}, json)
    if json != "-":
        for check, lines in side.failures.items():
            say_as_it_is(f"could not be run: {check}: {lines[0]}")
        say_as_it_is(f"{side.framework}: {counted(count, 'tensor')}; written to {written}")


def _keep_what_is_there(output: Path, settings: Settings) -> None:
    """Refuse to write over a file that is read, or over weights that no side was written with.

    Raises:
        TargetError: Naming the file.
    """
    written = [output] if settings.like else [output, weights_beside(output)]
    read = [settings.like, settings.pairing, settings.plan, settings.weights]
    in_the_way = [file for file in written if file.resolve() in {f.resolve() for f in read if f}]
    if not settings.like and written[1].exists() and not output.exists():
        in_the_way.append(written[1])
    if in_the_way:
        raise TargetError(
            f"-o {output} would overwrite {in_the_way[0]}",
            hint="give the side another name; a first side's weights are written beside it",
        )


def align_files(first: Path, second: Path, settings: Settings) -> AlignmentReport:
    """Make the report of two sides; neither framework is needed."""
    sides = AlignmentSide.load(first), AlignmentSide.load(second)
    return compare_alignment_sides(*sides, settings.read_pairing())


def align_in_two_processes(model: str, other: str, settings: Settings) -> AlignmentReport:
    """Run each model in a process of its own, the port by another interpreter."""
    read_inputs(settings.batch, settings.seed)
    settings.read_plan()
    pythons = sys.executable, settings.other_python
    common = ["--seed", str(settings.seed), *(f"--batch={value}" for value in settings.batch)]
    common += [f"--backend={value}" for value in settings.backend]
    with tempfile.TemporaryDirectory(prefix="unifreeze-") as name:
        folder = Path(name)
        one, two, known = (folder / f"{file}.json" for file in ("one", "two", "pairing"))
        refusal = ""
        if settings.pairing:
            pairing = Pairing.load(settings.pairing)
        else:
            try:
                pairing = pair_in_two_processes((model, other), pythons[1], common, {})
            except PairingError as error:
                pairing, refusal = _by_place((model, other), pythons, common, folder), str(error)
        pairing.save(known)
        options = [*common, "-p", str(known), "--steps", str(settings.steps)]
        options += ["--plan", str(settings.plan)] if settings.plan else []
        given = ["--weights", str(settings.weights)] if settings.weights else []
        words = ("align", model, "-o", str(one), *options, *given)
        run_sides([SideCommand(pythons[0], model, words)])
        words = ("align", other, "-o", str(two), "--like", str(one), *options)
        run_sides([SideCommand(pythons[1], other, words)])
        sides = AlignmentSide.load(one), AlignmentSide.load(two)
    return compare_alignment_sides(*sides, pairing, refusal=refusal)


def _by_place(
    models: tuple[str, str], pythons: tuple[str, str], common: list[str], folder: Path
) -> Pairing:
    """Pair two models that are not one function by the places of their tensors."""
    files = folder / "first_sketch.json", folder / "second_sketch.json"
    rows = zip(models, pythons, files, strict=True)
    run_sides(
        [
            SideCommand(python, model, ("sketch", model, "-o", str(file), *common))
            for model, python, file in rows
        ]
    )
    first, second = (placed_by_sketch(ModelSketch.load(file)) for file in files)
    return pair_by_place(first, second)
