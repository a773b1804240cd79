"""What a plan does to each unit of a network and each group of an optimizer: tables and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unifreeze._cli.output import say, say_table
from unifreeze._cli.phase_table import short_list
from unifreeze._handle import param_groups
from unifreeze._plan.structure import plain_structure
from unifreeze._resolution import Resolution
from unifreeze._structure import ModelSpec, Parameter, Unit, Zone
from unifreeze._structure.words_in_names import role_of
from unifreeze._tables import human_bytes
from unifreeze.errors import listing


@dataclass
class UnitRow:
    """What a plan does to one unit of the network."""

    label: str
    paths: list[str]
    parameters: int = 0
    frozen: int = 0
    values: int = 0
    size: int = 0
    frozen_size: int = 0
    lr_scales: list[float] = field(default_factory=list)
    weight_decays: list[float | None] = field(default_factory=list)

    @property
    def decision(self) -> str:
        """Whether it trains."""
        if self.frozen in (0, self.parameters):
            return "frozen" if self.frozen else "trainable"
        return f"{self.parameters - self.frozen} of {self.parameters} trainable"

    def plain(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**self.__dict__, "decision": self.decision}


def units_of(resolution: Resolution) -> list[UnitRow]:
    """Add up what happens in each unit, in canonical order."""
    spec, tree = resolution.spec, resolution.spec.tree
    units: dict[str, UnitRow] = {}
    for number in spec.canonical_order.tolist():
        owner = tree.owners[spec.first_names[number]]
        at = spec.placement.units[spec.placement.unit_of[owner]]
        unit = units.setdefault(at.label, UnitRow(at.label, []))
        path = tree.paths[_part_of_block(spec, at, owner)] or "(model)"
        if path not in unit.paths:
            unit.paths.append(path)
        _add(unit, resolution, number)
    for unit in units.values():
        unit.paths = _whole(unit, spec) or unit.paths
    return list(units.values())


def _part_of_block(spec: ModelSpec, at: Unit, owner: int) -> int:
    """Return the block, or the part of one, that holds a layer; the layer itself outside blocks."""
    if at.zone is not Zone.BLOCK or at.run < 0:
        return owner
    parts = list(spec.runs[at.run].parts())[at.block]
    return max(part for part in parts if part <= owner)


def _whole(unit: UnitRow, spec: ModelSpec) -> list[str]:
    """Return the module that holds all of a unit and nothing else; [] if there is none."""
    split = [path.split(".") for path in unit.paths]
    shared = [pieces[0] for pieces in zip(*split, strict=False) if len({*pieces}) == 1]
    module = spec.module_numbers.get(".".join(shared), 0)
    low, high = spec.tree.name_starts[module], spec.tree.name_ends[module]
    held = {spec.tree.tensor_of[name] for name in range(low, high)}
    return [spec.tree.paths[module]] if module and len(held) == unit.parameters else []


def _add(unit: UnitRow, resolution: Resolution, number: int) -> None:
    """Add one parameter to its unit."""
    size = int(resolution.spec.sizes[number])
    unit.parameters += 1
    unit.values += int(resolution.spec.counts[number])
    unit.size += size
    if not resolution.trainable[number]:
        unit.frozen += 1
        unit.frozen_size += size
        return
    scale, decay = float(resolution.lr_scale[number]), float(resolution.weight_decay[number])
    set_decay = None if np.isnan(decay) else decay
    unit.lr_scales += [] if scale in unit.lr_scales else [scale]
    unit.weight_decays += [] if set_decay in unit.weight_decays else [set_decay]


def say_units(resolution: Resolution) -> None:
    """Print what the plan does to each unit; if it has groups, also the rates."""
    units = units_of(resolution)
    header = ["canonical", "native", "decision", "parameters", "values", "bytes"]
    rows = [
        [
            unit.label,
            listing(unit.paths, limit=3),
            unit.decision,
            str(unit.parameters),
            f"{unit.values:,}",
            human_bytes(unit.size),
        ]
        for unit in units
    ]
    left = [0, 1, 2]
    if resolution.plan.groups:
        header.insert(3, "rate")
        left.append(3)
        for unit, row in zip(units, rows, strict=True):
            row.insert(3, _scales(unit.lr_scales))
    styles = ["cyan" if unit.frozen == unit.parameters else "" for unit in units]
    say_table(header, rows, left=left, styles=styles)


def say_groups(resolution: Resolution, *, rate: float | None) -> None:
    """Print the optimizer's groups that the plan makes, if it makes any.

    Args:
        resolution: What the plan decides.
        rate: The phase's learning rate; None if the optimizer keeps its own.
    """
    if not resolution.plan.groups:
        return
    parameters = {row.path: row for row in resolution.spec.parameters}
    rows = []
    for group in param_groups(resolution):
        members = [parameters[path] for path in group.paths]
        values = sum(row.values for row in members)
        shown = f"x {group.lr_scale:g}" if rate is None else f"{rate * group.lr_scale:g}"
        decay = _decays([group.weight_decay])
        rows.append((_what(members), shown, decay, str(len(group.paths)), f"{values:,}"))
    say("")
    header = ("group", "rate", "decay", "parameters", "values")
    say_table(header, rows, left=(0, 2))


def savings(resolution: Resolution) -> str:
    """Return a line on how much memory a plan saves."""
    saved = sum(unit.frozen_size for unit in units_of(resolution))
    return (
        f"memory saved: {human_bytes(saved)} of gradients, "
        f"{human_bytes(2 * saved)} of optimizer state with Adam's two moments, "
        f"{human_bytes(saved)} with SGD's momentum"
    )


def plain_resolution(resolution: Resolution, findings: list[str]) -> dict[str, Any]:
    """Return a resolution as plain data."""
    spec, units = resolution.spec, units_of(resolution)
    structure = resolution.plan.structure
    trainable, total = resolution.counts()
    saved = sum(unit.frozen_size for unit in units)
    return {
        "framework": spec.framework,
        "order": spec.order,
        "trainable_values": trainable,
        "all_values": total,
        **({"structure": plain_structure(structure)} if structure else {}),
        "rules": [effect._asdict() for effect in resolution.effects],
        **({"rows": [rows._asdict() for rows in resolution.rows]} if resolution.rows else {}),
        "units": [unit.plain() for unit in units],
        "groups": [group.__dict__ for group in param_groups(resolution)],
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


def _scales(scales: list[float]) -> str:
    """Write factors on the learning rate: a single one, or the least and the greatest."""
    if not scales:
        return ""
    low, high = min(scales), max(scales)
    return f"x {low:g}" if low == high else f"x {low:g} to {high:g}"


def _decays(decays: list[float | None]) -> str:
    """Write weight decays; None stands for the optimizer's own."""
    known = sorted(decay for decay in decays if decay is not None)
    return " or ".join(
        [*(f"{decay:g}" for decay in known), *(["as built"] if None in decays else [])]
    )


def _what(members: Sequence[Parameter]) -> str:
    """Describe a group: where its parameters are, and whether all are weights, or biases."""
    places = list(dict.fromkeys(row.name.partition("/")[0] for row in members))
    roles = {role_of(row.role, row.kind)[1] for row in members}
    part = (
        {"weight": ", weights", "bias": ", biases"}.get(roles.pop(), "") if len(roles) == 1 else ""
    )
    return f"{short_list(places)}{part}"
