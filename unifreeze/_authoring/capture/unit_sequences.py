"""Blocks and stages in a row, and the selectors that take some of them: `blocks[:4]`."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unifreeze._authoring.capture.candidates import BOTH, INDEXED, STAGES, WORD, Candidate
from unifreeze._plan.selectors import Word
from unifreeze._plan.selectors.expression import Bound, Index, Within
from unifreeze._structure import Mask, ModelSpec, Zone

STACKS = ("encoder", "decoder")


class UnitSequence(NamedTuple):
    """Blocks or stages in a row.

    Attributes:
        word: The selector's word for them; "" for the children of a module.
        place: Native path of the submodule they are counted in; "" for the whole model.
        length: Number of units.
        of_name: For each name, the position of its unit; -1 outside.
        cost: What an index costs.
    """

    word: str
    place: str
    length: int
    of_name: NDArray[np.intp]
    cost: float

    @property
    def inside(self) -> Mask:
        """For each name, whether it is in one of the units."""
        return self.of_name >= 0

    def pick(self, start: int, stop: int) -> Candidate:
        """Return the selector of the units from `start` up to `stop`."""
        word = Word(self.word, index_of(start, stop, self.length))
        # Where two indices say the same, the one with fewer units reads better.
        share = (stop - start) / self.length
        cost = WORD if word.index is None else self.cost + 0.1 * share
        if self.place:
            return Candidate(Within(word, self.place), cost + BOTH)
        return Candidate(word, cost)

    def uniform(self, wanted: Mask, mask: Mask) -> Iterator[tuple[int, int]]:
        """Yield the longest runs of units in which every name in `mask` has one decision."""
        train = np.bincount(self.of_name[mask & wanted], minlength=self.length) > 0
        freeze = np.bincount(self.of_name[mask & ~wanted], minlength=self.length) > 0
        for wrong in (train, freeze):
            start = 0
            for edge in (*np.flatnonzero(wrong).tolist(), self.length):
                if edge > start:
                    yield start, edge
                start = edge + 1

    def alike(self, wanted: Mask, tails: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
        """Yield the longest runs of units in which names with one tail have one decision."""
        start, decided = 0, dict[int, bool]()
        for unit in range(self.length):
            here = np.flatnonzero(self.of_name == unit)
            flags = dict(zip(tails[here].tolist(), wanted[here].tolist(), strict=True))
            if any(decided.get(tail, flag) != flag for tail, flag in flags.items()):
                yield start, unit
                start, decided = unit, {}
            decided |= flags
        yield start, self.length


def index_of(start: int, stop: int, length: int) -> Index | None:
    """Write a run of positions as people do: `[:2]`, `[3]`, `[-2:]`; None for all of them."""
    if stop - start == length:
        return None
    if stop - start == 1:
        last = stop == length and length > 1
        return Index(_bound(-1 if last else start), None, single=True)
    if start == 0:
        return Index(None, _bound(stop), single=False)
    if stop == length:
        return Index(_bound(start - length), None, single=False)
    return Index(_bound(start), _bound(stop), single=False)


def _bound(value: int) -> Bound:
    return Bound(Fraction(value), percent=False)


def unit_sequences(spec: ModelSpec) -> Iterator[UnitSequence]:
    """Yield every row of blocks or stages that a selector can count."""
    first = np.unique(spec.atoms.name, return_index=True)[1]
    block, run, zone = (
        column[first] for column in (spec.atoms.block, spec.atoms.run, spec.atoms.zone)
    )
    in_unit = (zone == Zone.BLOCK) | (zone == Zone.TRANSITION)
    for number, (blocks, label) in enumerate(zip(spec.runs, spec.placement.labels, strict=True)):
        here = in_unit & (run == number)
        word, place = "blocks", ""
        if len(spec.runs) > 1:
            if label in STACKS and spec.placement.labels.count(label) == 1:
                word = label
            else:
                place = spec.tree.paths[spec.placement.towers[number]]
                if not place:
                    continue
        positions = np.where(here, block, -1)
        yield UnitSequence(word, place, len(blocks.blocks), positions, INDEXED)
        stages = np.asarray(blocks.stages, np.intp)
        if len(spec.runs) == 1 and 1 < stages.max() + 1 < len(blocks.blocks):
            at = np.where(here, stages[np.maximum(block, 0)], -1)
            yield UnitSequence("stages", "", int(stages.max()) + 1, at, STAGES)
