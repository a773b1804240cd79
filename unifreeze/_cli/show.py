"""`show` and `explain`: a model as unifreeze sees it, and what a plan would do to it."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer
from rich.text import Text
from rich.tree import Tree as RichTree

from unifreeze._cache.estimate import Estimate
from unifreeze._cli.find_model import (
    load_model_with,
    read_batch,
    read_plan,
)
from unifreeze._cli.html_page import write_page
from unifreeze._cli.output import (
    BackendOption,
    BatchOption,
    JsonOption,
    ModelArgument,
    PlanArgument,
    SeedOption,
    StructureOption,
    console,
    say,
    say_as_it_is,
    write_json,
)
from unifreeze._cli.phase_table import phase_rows, say_phases
from unifreeze._cli.structure_tables import plain_structure, say_structure
from unifreeze._cli.unit_tables import plain_resolution, savings, say_groups, say_units
from unifreeze._plan import FreezePlan
from unifreeze._protocol import Batch
from unifreeze._resolution import corrected, expand_plan, resolve_phases, resolve_spec
from unifreeze._structure import ModelSpec
from unifreeze.errors import TargetError, counted


def show(
    model: ModelArgument,
    batch: BatchOption = [],  # noqa: B006 - typer copies it
    everything: Annotated[bool, typer.Option("--all", help="Go into blocks too.")] = False,
    structure: Annotated[
        bool, typer.Option("--structure", help="Show zones, towers, runs and stages, and why.")
    ] = False,
    plan: StructureOption = None,
    seed: SeedOption = 0,
    backend: BackendOption = [],  # noqa: B006 - typer copies it
    json: JsonOption = "",
) -> None:
    """Show a model: its tree with roles, kinds, counts, and flags as found."""
    live, framework = load_model_with(backend, model, seed=seed)
    spec = framework.describe(live, read_batch(batch, seed=seed))
    spec = corrected(read_plan(plan), spec) if plan else spec
    if json:
        more = {"structure": plain_structure(spec)} if structure else {}
        write_json({**_spec_json(spec), **more}, json)
        return
    say(_headline(model, spec))
    if structure:
        say_structure(spec)
        return
    console().print(_tree(spec, everything=everything))
    for run, label in zip(spec.runs, spec.placement.labels, strict=True):
        stages = max(run.stages) + 1
        say(f"{label}: {counted(len(run.blocks), 'block')} in {counted(stages, 'stage')}")


def _headline(name: str, spec: ModelSpec) -> str:
    trainable = int(spec.found.sum())
    return (
        f"{name}: {spec.framework}, {counted(len(spec), 'parameter')}, "
        f"{counted(int(spec.counts.sum()), 'value')}, "
        f"{trainable} trainable as found, {counted(len(spec.states), 'state tensor')}; "
        f"positions by order of {spec.order}"
    )


def _tree(spec: ModelSpec, *, everything: bool) -> RichTree:
    tree = spec.tree
    blocks = {part for run in spec.runs for block in run.parts() for part in block}
    root = RichTree(_line(spec, 0))
    branches = {0: root}
    index = 1
    while index < len(tree.paths):
        branch = branches[tree.parents[index]].add(_line(spec, index))
        branches[index] = branch
        index = tree.ends[index] if index in blocks and not everything else index + 1
    return root


def _line(spec: ModelSpec, index: int) -> Text:
    tree, at = spec.tree, spec.placement
    low, high = tree.name_starts[index], tree.name_ends[index]
    name = tree.paths[index].rpartition(".")[2] or "(model)"
    line = Text.assemble((name, "bold"), " ", (tree.types[index], "cyan"))
    where = _where(spec, index)
    if where:
        line.append(f"  {where}", style="green")
    if high > low:
        tensors = {tree.tensor_of[n] for n in range(low, high)}
        flags = {bool(spec.found[tensor]) for tensor in tensors}
        values = sum(int(spec.counts[tensor]) for tensor in tensors)
        flag = "mixed" if len(flags) > 1 else "trainable" if flags.pop() else "frozen"
        counts = f"{counted(len(tensors), 'parameter')}, {counted(values, 'value')}"
        line.append(f"  {counts}, {flag}", style="dim")
    elif kind := at.kinds[index]:
        line.append(f"  {kind}", style="dim")
    return line


def _where(spec: ModelSpec, index: int) -> str:
    at = spec.placement
    for run, label in zip(spec.runs, at.labels, strict=True):
        for position, parts in enumerate(run.parts()):
            if index in parts:
                return f"{label}.{position}"
    return spec.owner_name(index) if index in at.unit_of else ""


def _spec_json(spec: ModelSpec) -> dict[str, Any]:
    return {
        "framework": spec.framework,
        "order": spec.order,
        "parameters": [parameter._asdict() for parameter in spec.parameters],
        "states": [
            {"path": state.path, "name": spec.state_name(state), "role": state.role}
            for state in spec.states
        ],
        "unused": [row.path for row in spec.tree.unused],
        "runs": [
            {
                "label": label,
                "blocks": [spec.tree.paths[block] for block in run.blocks],
                "stages": list(run.stages),
            }
            for run, label in zip(spec.runs, spec.placement.labels, strict=True)
        ],
    }


def explain(
    plan: PlanArgument,
    model: ModelArgument,
    batch: BatchOption = [],  # noqa: B006 - typer copies it
    why: Annotated[
        str, typer.Option(metavar="GLOB", help="Explain what decided the parameters that match.")
    ] = "",
    phase: Annotated[
        str, typer.Option(metavar="NAME", help="The phase to explain, of a plan with phases.")
    ] = "",
    html: Annotated[
        str, typer.Option("--html", metavar="FILE", help="Write a page with a map to look at.")
    ] = "",
    cost: Annotated[
        bool, typer.Option("--cost", help="Measure what it saves in a step; needs --batch.")
    ] = False,
    examples: Annotated[
        int, typer.Option(min=1, metavar="N", help="With --cost: examples of the data.")
    ] = 1000,
    epochs: Annotated[int, typer.Option(min=1, metavar="N", help="With --cost: epochs.")] = 3,
    seed: SeedOption = 0,
    backend: BackendOption = [],  # noqa: B006 - typer copies it
    json: JsonOption = "",
) -> None:
    """Explain a plan on a model, touching nothing: what each rule takes, and what it saves."""
    loaded = read_plan(plan)
    live, framework = load_model_with(backend, model, seed=seed)
    if cost:
        estimate = _cost(loaded, live, read_batch(batch, seed=seed), examples, epochs)
        if json:
            write_json(estimate.plain(), json)
        else:
            say(str(estimate))
        return
    spec = framework.describe(live, read_batch(batch, seed=seed))
    rows = []
    if loaded.phases or phase:
        loaded = expand_plan(loaded, spec)
        number = loaded.phase_number(phase or 0)
        resolutions = resolve_phases(loaded, spec)
        rows, resolution = phase_rows(loaded, resolutions), resolutions[number]
    else:
        resolution = resolve_spec(loaded, spec)
    findings = [str(finding) for finding in framework.check(live, resolution)]
    lines = resolution.why(why) if why else []
    if html:
        start = number if rows else 0
        write_page(html, loaded, spec, partial(framework.check, live), title=model, start=start)
    if json:
        more = {**({"phases": rows} if rows else {}), **({"why": lines} if why else {})}
        write_json({**plain_resolution(resolution, findings), **more}, json)
        return
    if why:
        say("\n".join(lines))
        return
    if rows:
        say_phases(rows)
        say(f"\nphase {loaded.phases[number].name!r}:")
    say(str(resolution))
    for finding in findings:
        say(f"  {framework.name} would refuse: {finding}")
    say_units(resolution)
    say_groups(resolution, rate=rows[number]["lr"] if rows else None)
    say(savings(resolution))
    if html:
        say_as_it_is(f"written to {html}")


def _cost(
    plan: FreezePlan, model: Any, batch: Batch | None, examples: int, epochs: int
) -> Estimate:
    """Estimate what a plan saves on a model that nobody uses after."""
    if batch is None:
        raise TargetError(
            "--cost runs the model, and there is no batch",
            hint='for example --batch "float32[8,3,224,224]"',
        )
    return plan.apply(model).estimate(batch, examples=examples, epochs=epochs)
