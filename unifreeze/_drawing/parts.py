"""A network as parts for tables and timelines: its units in order, and runs of equal units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unifreeze._drawing.looks import Codes
from unifreeze._structure import ModelSpec


@dataclass(frozen=True)
class Part:
    """One unit of a network, such as a block, or neighbouring units of one zone that look alike.

    Attributes:
        labels: The units' canonical names.
        numbers: Their parameters, in canonical order.
    """

    labels: tuple[str, ...]
    numbers: NDArray[np.intp]

    @property
    def label(self) -> str:
        """What it is called: a name, or the first name and the last."""
        if len(self.labels) == 1:
            return self.labels[0]
        return f"{self.labels[0]} … {self.labels[-1]}"


def units_of(spec: ModelSpec) -> list[Part]:
    """Return the units of a network from the input to the head."""
    order = spec.canonical_order
    if not len(order):
        return []
    owners = spec.owner_of[spec.first_names[order]]
    at = spec.placement
    labels = [at.units[at.unit_of[owner]].label for owner in owners.tolist()]
    numbers: dict[str, list[int]] = {}
    for label, number in zip(labels, order.tolist(), strict=True):
        numbers.setdefault(label, []).append(number)
    return [Part((label,), np.asarray(rows, np.intp)) for label, rows in numbers.items()]


def alike(units: Sequence[Part], looks: Sequence[Codes], spec: ModelSpec) -> list[Part]:
    """Join neighbouring units of one sort that look alike in every phase.

    Args:
        units: The units, in order.
        looks: For each phase, what every parameter is drawn as.
        spec: The model's description.
    """
    joined: list[Part] = []
    last: list[dict[str, int]] = []
    for unit in units:
        by_phase = [_looks_by_name(unit, codes, spec) for codes in looks]
        if joined and _same_sort(joined[-1], unit) and all(map(_agree, last, by_phase)):
            before = joined[-1]
            numbers = np.concatenate((before.numbers, unit.numbers))
            joined[-1] = Part((*before.labels, *unit.labels), numbers)
        else:
            joined.append(unit)
        last = by_phase
    return joined


def _looks_by_name(unit: Part, looks: Codes, spec: ModelSpec) -> dict[str, int]:
    """Return what each parameter of a unit is drawn as, by its canonical name within the unit."""
    names = (spec.canonical[name] for name in spec.first_names[unit.numbers].tolist())
    within = (name.removeprefix(f"{unit.labels[0]}/") for name in names)
    return dict(zip(within, looks[unit.numbers].tolist(), strict=True))


def _same_sort(before: Part, unit: Part) -> bool:
    """Return whether two units are members of one run: only their last number differs."""
    stems = {label.rstrip("0123456789") for label in (before.labels[-1], unit.labels[0])}
    return len(stems) == 1 and stems.pop().endswith(".")


def _agree(before: dict[str, int], unit: dict[str, int]) -> bool:
    """Return whether two units look alike; either may have layers that the other lacks."""
    shared = before.keys() & unit.keys()
    return set(before.values()) == set(unit.values()) and all(
        before[name] == unit[name] for name in shared
    )
