"""`show --structure`: runs of blocks, stages, towers and zones, each with the reason for it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Any

from unifreeze._cli.output import say, say_table
from unifreeze._plan.selectors.vocabulary import WORDS
from unifreeze._structure import BlockRun, ModelSpec, Tree, Zone
from unifreeze._structure.zones import STATED
from unifreeze.errors import counted

_MOST = 3
"""Modules of one place that a table shows by name."""


def plain_structure(spec: ModelSpec) -> dict[str, Any]:
    """Return where everything in a model is, and why, as plain data."""
    parts = {
        "runs": list(_runs(spec)),
        "towers": list(_towers(spec)),
        "places": list(_places(spec)),
    }
    return {"order": spec.order, **parts}


def say_structure(spec: ModelSpec) -> None:
    """Print where everything in a model is, and why."""
    for run in _runs(spec):
        stages = run["stages"]
        how = f" in {counted(len(stages), 'stage')}" if len(stages) > 1 else ""
        say(f"{run['label']}: {counted(len(run['blocks']), 'block')}{how}: {run['why']}")
        if run["tower_why"]:
            say(f"  tower {run['tower'] or '(model)'}: {run['tower_why']}")
        for number, stage in enumerate(stages):
            name = f"stage {number}: " if len(stages) > 1 else ""
            say(f"  {name}{_span(stage)}")
        if len(stages) > 1:
            say(f"  {run['stages_why']}")
    if not spec.runs:
        say("no blocks: no modules of one class repeat, each with two matrices")
    rows = [[row["place"], _few(row["modules"]), *_sizes(row), row["why"]] for row in _places(spec)]
    header = ["place", "modules", "parameters", "values", "why"]
    say_table(header, rows, left=(0, 1, 4))
    if len(towers := list(_towers(spec))) > 1:
        rows = [[row["tower"], _few(row["modules"]), *_sizes(row), row["why"]] for row in towers]
        say_table(["tower", *header[1:]], rows, left=(0, 1, 4))
    for path, why in spec.towers.unclear.items():
        say(f"no tower is known of {path or 'the model'}: {why}")


def _sizes(row: dict[str, Any]) -> list[str]:
    return [f"{row['parameters']:,}", f"{row['values']:,}"]


def _runs(spec: ModelSpec) -> Iterator[dict[str, Any]]:
    at = spec.placement
    for run, label, tower in zip(spec.runs, at.labels, at.towers, strict=True):
        stages: dict[int, list[str]] = {}
        for block, stage in zip(run.blocks, run.stages, strict=True):
            stages.setdefault(stage, []).append(spec.tree.paths[block])
        yield {
            "label": label,
            "blocks": [spec.tree.paths[block] for block in run.blocks],
            "stages": list(stages.values()),
            "why": run.why or "modules that repeat",
            "stages_why": _why_stages(spec, run),
            "tower": spec.tree.paths[tower],
            "tower_why": _why_tower(label) if len(spec.runs) > 1 else "",
        }


def _why_stages(spec: ModelSpec, run: BlockRun) -> str:
    """Return why a run has the stages that it has."""
    lists = {spec.tree.parents[block] for block in run.blocks}
    if max(run.stages) == 0:
        return "one list, and no change of resolution was seen"
    if len(lists) > 1:
        return "the blocks of each list are a stage"
    return "a stage ends where the resolution of the blocks' outputs changes"


def _why_tower(label: str) -> str:
    if label in ("encoder", "decoder"):
        return f"it holds this run and no other, and its name says {label}"
    return "the outermost module that holds this run and no other"


def _places(spec: ModelSpec) -> Iterator[dict[str, Any]]:
    """Yield the stretches outside blocks, from the input to the head."""
    at, tree = spec.placement, spec.tree
    groups: dict[tuple[int, str], list[int]] = {}
    for owner, unit in at.unit_of.items():
        if at.units[unit].zone is not Zone.BLOCK:
            groups.setdefault((unit, at.reason(owner)), []).append(owner)
    order = sorted(groups, key=lambda key: (_rank(spec, key[0]), min(groups[key])))
    for unit, why in order:
        owners = set(groups[unit, why])
        tensors = {
            tensor
            for owner, tensor in zip(tree.owners, tree.tensor_of, strict=True)
            if owner in owners
        }
        yield {
            "place": at.units[unit].label,
            "zone": at.units[unit].zone.name.lower(),
            "modules": list(_modules(spec, owners)),
            "parameters": len(tensors),
            "values": sum(int(spec.counts[tensor]) for tensor in tensors),
            "why": why,
        }


def _towers(spec: ModelSpec) -> Iterator[dict[str, Any]]:
    """Yield the towers, with what is said of them: by a plan, or by what goes through them."""
    tree, parts = spec.tree, spec.towers
    for word in parts.words:
        names = [name for name, part in enumerate(parts.of_name) if part == word]
        tensors = {tree.tensor_of[name] for name in names}
        yield {
            "tower": word,
            "modules": list(_holding(tree, set(names))),
            "parameters": len(tensors),
            "values": sum(int(spec.counts[tensor]) for tensor in tensors),
            "why": STATED if word in parts.stated else WORDS[word],
        }


def _holding(tree: Tree, names: set[int]) -> Iterator[str]:
    """Yield the outermost modules that hold nothing but these names, and names beside them."""
    end = 0
    for name in sorted(names):
        if name < end:
            continue
        module = tree.owners[name]
        if not names.issuperset(range(tree.name_starts[module], tree.name_ends[module])):
            yield tree.names[name]
            continue
        while module > 0 and names.issuperset(
            range(tree.name_starts[tree.parents[module]], tree.name_ends[tree.parents[module]])
        ):
            module = tree.parents[module]
        yield tree.paths[module] or "(model)"
        end = tree.name_ends[module]


def _rank(spec: ModelSpec, unit: int) -> tuple[int, int, int]:
    place = spec.units[unit]
    return place.zone, place.run, place.block


def _modules(spec: ModelSpec, owners: set[int]) -> Iterator[str]:
    """Yield the outermost modules in which nothing but these owners holds tensors."""
    tree, index = spec.tree, 0
    every, here = sorted(spec.placement.unit_of), sorted(owners)
    while index < len(tree.paths):
        held, known = _count(here, tree, index), _count(every, tree, index)
        if index and held and held == known:
            yield tree.paths[index]
            index = tree.ends[index]
            continue
        if index in owners:
            yield f"{tree.paths[index] or '(model)'} itself"
        index = index + 1 if held else tree.ends[index]


def _count(owners: list[int], tree: Tree, module: int) -> int:
    """Count the owners in a module."""
    return bisect_left(owners, tree.ends[module]) - bisect_left(owners, module)


def _span(paths: list[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{paths[0]} … {paths[-1]}"


def _few(names: Iterable[str]) -> str:
    named = list(names)
    more = f" and {len(named) - _MOST} more" if len(named) > _MOST else ""
    return ", ".join(named[:_MOST]) + more
