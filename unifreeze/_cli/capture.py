"""`capture`, `translate` and `expand`: plans written from loops, other plans and generators."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unifreeze._authoring.capture import Capture
from unifreeze._authoring.capture import capture as capture_model
from unifreeze._authoring.capture import translate as translate_plan
from unifreeze._cli.find_model import (
    check_backends_used,
    load_model,
    load_model_with,
    read_batch,
    read_plan,
    use_backends,
)
from unifreeze._cli.output import (
    BackendOption,
    BatchOption,
    JsonOption,
    ModelArgument,
    PairingOption,
    PlanArgument,
    SeedOption,
    StructureOption,
    output_file,
    say_as_it_is,
    say_plan,
    write_json,
)
from unifreeze._plan import save_text
from unifreeze._ports.pairing import Pairing
from unifreeze._resolution import expand_plan
from unifreeze.errors import counted

OutputOption = Annotated[Path | None, output_file("Write the plan to this file.")]


def capture(
    model: ModelArgument,
    output: OutputOption = None,
    batch: BatchOption = [],  # noqa: B006 - typer copies it
    native: Annotated[bool, typer.Option("--native", help="Use the framework's names.")] = False,
    pairing: PairingOption = None,
    plan: StructureOption = None,
    seed: SeedOption = 0,
    backend: BackendOption = [],  # noqa: B006 - typer copies it
    json: JsonOption = "",
) -> None:
    """Write the plan that says how a model is frozen.

    A batch shows what is cut off, and the order in which layers run. With a pairing, the plan is
    for both ports.
    """
    live, _ = load_model_with(backend, model, seed=seed)
    known = Pairing.load(pairing) if pairing else None
    inputs = read_batch(batch, seed=seed)
    structure = read_plan(plan).document().get("structure") if plan else None
    captured = capture_model(live, batch=inputs, native=native, pairing=known, structure=structure)
    _finish(captured, output, json)


def translate(
    plan: PlanArgument,
    source: Annotated[str, typer.Option("--from", metavar="MODEL", help="Model of the plan.")],
    target: Annotated[str, typer.Option("--to", metavar="MODEL", help="Model to translate to.")],
    output: OutputOption = None,
    batch: BatchOption = [],  # noqa: B006 - typer copies it
    native: Annotated[bool, typer.Option("--native", help="Use the target's own names.")] = False,
    pairing: PairingOption = None,
    seed: SeedOption = 0,
    backend: BackendOption = [],  # noqa: B006 - typer copies it
    json: JsonOption = "",
) -> None:
    """Rewrite a plan for one port of a network so that it means the same on the other port."""
    use_backends(backend)
    loaded = read_plan(plan)
    source_model, source_backend = load_model(source, seed=seed)
    target_model, target_backend = load_model(target, seed=seed)
    check_backends_used(backend, {source_backend.name, target_backend.name})
    known = Pairing.load(pairing) if pairing else None
    inputs = read_batch(batch, seed=seed)
    translated = translate_plan(
        loaded, source_model, target_model, batch=inputs, native=native, pairing=known
    )
    _finish(translated, output, json)


def expand(
    plan: PlanArgument,
    model: ModelArgument,
    output: OutputOption = None,
    batch: BatchOption = [],  # noqa: B006 - typer copies it
    seed: SeedOption = 0,
    backend: BackendOption = [],  # noqa: B006 - typer copies it
    json: JsonOption = "",
) -> None:
    """Write a plan's generators out as plain phases, as they are on a model, ready to edit."""
    loaded = read_plan(plan)
    live, framework = load_model_with(backend, model, seed=seed)
    expanded = expand_plan(loaded, framework.describe(live, read_batch(batch, seed=seed)))
    text = f"# {plan.name}, as it is on {model}\n{expanded.to_yaml()}"
    if output is not None:
        save_text(output, text)
    if json:
        write_json({"plan": expanded.document(), "text": text}, json)
    elif output is None:
        say_plan(text)
    if output is None or json == "-":
        return
    say_as_it_is(f"{counted(len(expanded.phases), 'phase')} written to {output}")


def _finish(captured: Capture, output: Path | None, json: str) -> None:
    plan = captured.plan
    if output is not None:
        captured.save(output)
    if json:
        data = {"plan": plan.document(), "text": captured.text, "notes": list(captured.notes)}
        write_json(data, json)
    elif output is not None:
        say_as_it_is(f"{counted(len(plan.rules), 'rule')}; written to {output}")
    else:
        say_plan(str(captured))
