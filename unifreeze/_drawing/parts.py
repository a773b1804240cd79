"""A network as parts for tables and timelines: its units in order, and runs of equal units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unifreeze._drawing.looks import Codes
from unifreeze._structure import ModelSpec
from unifreeze.errors import counted


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
    last: tuple[object, ...] | None = None
    for unit in units:
        sort = unit.labels[0].rstrip("0123456789")
        key = (sort, *(_mixture(unit, codes, spec) for codes in looks))
        if joined and key == last and sort.endswith("."):
            before = joined[-1]
            numbers = np.concatenate((before.numbers, unit.numbers))
            joined[-1] = Part((*before.labels, *unit.labels), numbers)
        else:
            joined.append(unit)
        last = key
    return joined


def _mixture(unit: Part, looks: Codes, spec: ModelSpec) -> object:
    """Return which looks a unit has, and of which kinds of layers, if it has several."""
    codes = looks[unit.numbers]
    if (codes == codes[0]).all():
        return int(codes[0])
    owners = spec.owner_of[spec.first_names[unit.numbers]].tolist()
    kinds = [spec.placement.kind_of[owner] for owner in owners]
    return frozenset(zip(kinds, codes.tolist(), strict=True))


def size_of(part: Part, spec: ModelSpec) -> str:
    """Say how many parameters and values a part has."""
    values = int(spec.counts[part.numbers].sum())
    return f"{counted(len(part.numbers), 'parameter')}, {counted(values, 'value')}"
