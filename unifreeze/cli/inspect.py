"""`show` and `explain`: a model as unifreeze sees it, and what a plan would do to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text
from rich.tree import Tree as RichTree

from unifreeze.cli.output import (
    BackendOption,
    BatchOption,
    JsonOption,
    ModelArgument,
    PlanArgument,
    SeedOption,
    console,
    write_json,
)
from unifreeze.cli.targets import check_backends_used, load_model, read_batch, use_backends
from unifreeze.cli.timeline import phase_rows, phase_table
from unifreeze.plan import FreezePlan
from unifreeze.resolution import Resolution, expand_plan, resolve_phases, resolve_spec
from unifreeze.structure import ModelSpec, Zone
from unifreeze.tables import human_bytes


def show(
    model: ModelArgument,
    batch: BatchOption = [],  # noqa: B006 - typer copies it
    everything: Annotated[bool, typer.Option("--all", help="Go into blocks too.")] = False,
    seed: SeedOption = 0,
    backend: BackendOption = [],  # noqa: B006 - typer copies it
    json: JsonOption = "",
) -> None:
    """Show a model: its tree with roles, kinds, counts, and flags as found."""
    use_backends(backend)
    live, framework = load_model(model, seed=seed)
    check_backends_used(backend, {framework.name})
    spec = framework.describe(live, read_batch(batch, seed=seed))
    if json:
        write_json(_spec_json(spec), json)
        return
    out = console()
    out.print(_headline(model, spec))
    out.print(_tree(spec, everything=everything))
    for run, label in zip(spec.runs, spec.placement.labels, strict=True):
        stages = max(run.stages) + 1
        out.print(f"{label}: {_count(len(run.blocks), 'block')} in {_count(stages, 'stage')}")


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _headline(name: str, spec: ModelSpec) -> str:
    found = int(spec.found.sum())
    return (
        f"{name}: {spec.framework}, {len(spec)} parameters, {int(spec.counts.sum()):,} values, "
        f"{found} trainable as found, {len(spec.states)} state tensors; "
        f"positions by order of {spec.order}"
    )


def _tree(spec: ModelSpec, *, everything: bool) -> RichTree:
    tree = spec.tree
    blocks = {block for run in spec.runs for block in run.blocks}
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
        line.append(f"  {len(tensors)} parameters, {values:,} values, {flag}", style="dim")
    elif kind := at.kinds[index]:
        line.append(f"  {kind}", style="dim")
    return line


def _where(spec: ModelSpec, index: int) -> str:
    at = spec.placement
    for run, label in zip(spec.runs, at.labels, strict=True):
        if index in run.blocks:
            return f"{label}.{run.blocks.index(index)}"
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
        str, typer.Option(metavar="GLOB", help="Say what decided the parameters that match.")
    ] = "",
    phase: Annotated[
        str, typer.Option(metavar="NAME", help="Of a plan with phases, the one to explain.")
    ] = "",
    seed: SeedOption = 0,
    backend: BackendOption = [],  # noqa: B006 - typer copies it
    json: JsonOption = "",
) -> None:
    """Explain a plan on a model, touching nothing: what each rule takes, and what it saves."""
    use_backends(backend)
    loaded = FreezePlan.load(plan)
    live, framework = load_model(model, seed=seed)
    check_backends_used(backend, {framework.name})
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
    if json:
        plain = _resolution_json(resolution, findings)
        write_json({**plain, "phases": rows} if rows else plain, json)
        return
    out = console()
    if why:
        out.print("\n".join(resolution.why(why)), markup=False)
        return
    if rows:
        out.print(phase_table(rows))
        out.print(f"\nphase {loaded.phases[number].name!r}:", markup=False)
    out.print(str(resolution), markup=False)
    for finding in findings:
        out.print(f"  {framework.name} would refuse: {finding}", markup=False)
    out.print(_unit_table(resolution))
    out.print(_savings(resolution), markup=False)


@dataclass
class _Unit:
    """What a plan does to one unit of the network."""

    label: str
    paths: list[str]
    parameters: int = 0
    frozen: int = 0
    values: int = 0
    size: int = 0
    frozen_size: int = 0

    @property
    def decision(self) -> str:
        if self.frozen in (0, self.parameters):
            return "frozen" if self.frozen else "trainable"
        return f"{self.parameters - self.frozen} of {self.parameters} trainable"


def _units(resolution: Resolution) -> list[_Unit]:
    """Add up what happens in each unit, in canonical order."""
    spec, tree = resolution.spec, resolution.spec.tree
    units: dict[str, _Unit] = {}
    for number in spec.canonical_order.tolist():
        owner = tree.owners[spec.first_names[number]]
        at = spec.placement.units[spec.placement.unit_of[owner]]
        unit = units.setdefault(at.label, _Unit(at.label, []))
        block = at.zone is Zone.BLOCK and at.run >= 0 and spec.runs[at.run].blocks[at.block]
        path = tree.paths[block or owner] or "(model)"
        if path not in unit.paths:
            unit.paths.append(path)
        size = int(spec.sizes[number])
        unit.parameters += 1
        unit.values += int(spec.counts[number])
        unit.size += size
        if not resolution.trainable[number]:
            unit.frozen += 1
            unit.frozen_size += size
    return list(units.values())


def _unit_table(resolution: Resolution) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("canonical", "native", "decision"):
        table.add_column(name, overflow="fold")
    for name in ("parameters", "values", "bytes"):
        table.add_column(name, justify="right")
    for unit in _units(resolution):
        style = "cyan" if unit.frozen == unit.parameters else ""
        table.add_row(
            unit.label,
            _shorten(unit.paths),
            unit.decision,
            str(unit.parameters),
            f"{unit.values:,}",
            human_bytes(unit.size),
            style=style,
        )
    return table


def _shorten(paths: list[str], limit: int = 3) -> str:
    shown = ", ".join(paths[:limit])
    return shown if len(paths) <= limit else f"{shown}, … ({len(paths) - limit} more)"


def _savings(resolution: Resolution) -> str:
    saved = sum(unit.frozen_size for unit in _units(resolution))
    return (
        f"memory saved: {human_bytes(saved)} of gradients, "
        f"{human_bytes(2 * saved)} of optimizer state with Adam's two moments, "
        f"{human_bytes(saved)} with SGD's momentum"
    )


def _resolution_json(resolution: Resolution, findings: list[str]) -> dict[str, Any]:
    spec = resolution.spec
    trainable, total = resolution.counts()
    saved = sum(unit.frozen_size for unit in _units(resolution))
    return {
        "framework": spec.framework,
        "order": spec.order,
        "trainable_values": trainable,
        "all_values": total,
        "rules": [effect._asdict() for effect in resolution.effects],
        "units": [{**unit.__dict__, "decision": unit.decision} for unit in _units(resolution)],
        "parameters": [
            {
                "name": spec.parameters[number].name,
                "path": spec.parameters[number].path,
                "trainable": bool(resolution.trainable[number]),
                "reason": resolution.reason(number),
            }
            for number in spec.canonical_order.tolist()
        ],
        "held": [spec.tree.paths[module] for module in resolution.held],
        "notices": list(resolution.notices),
        "refusals": findings,
        "saved_bytes": {"gradients": saved, "adam": 2 * saved, "sgd_momentum": saved},
    }
