"""Where layers can be in a network: zones, the named stretches in them, and who is where.

Zones: `stem` before the first block, `blocks.N`, `transition.N` between blocks (it leads into block
N), `neck` and `head` after the last block, `net` in a model without blocks, `unplaced` for tensors
that belong to no layer and whose first use is unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import NamedTuple

from unifreeze._structure.blocks import BlockRun
from unifreeze._structure.counting import FusedSpan, Numbering
from unifreeze._structure.order import Rank


class Zone(IntEnum):
    """Where in the network, in the order in which parameters are listed."""

    STEM = 0
    BLOCK = 1
    TRANSITION = 2
    NET = 3
    NECK = 4
    HEAD = 5
    UNPLACED = 6


STATED = "the plan's structure says so"
"""Why something is where it is: a plan corrects what would be derived."""

_WHY = {
    Zone.STEM: "before the first block",
    Zone.BLOCK: "in this block",
    Zone.TRANSITION: "between two blocks, leading into this one",
    Zone.NET: "no blocks were found, and it is before the head",
    Zone.NECK: "after the last block and before the head",
    Zone.HEAD: "after the last block, outside any module that holds one",
    Zone.UNPLACED: "its module holds blocks, and nothing shows when it is used itself",
}
_HEAD_WITHOUT_BLOCKS = "no blocks were found, and it is among the last linear layers"


class Unit(NamedTuple):
    """One stretch of the network that has a name: `stem`, `blocks.3`, `decoder.0/expert.5`.

    Attributes:
        label: First piece of the canonical names in it.
        zone: Which zone it is.
        run: Index of the run of blocks it belongs to, -1 where it belongs to none in particular.
        block: Position in the run for a block, of the block it leads into for a transition.
        expert: Position among its block's experts, -1 elsewhere.
    """

    label: str
    zone: Zone
    run: int
    block: int
    expert: int


@dataclass
class Placement:
    """Where every owner of tensors is.

    Attributes:
        kinds: Kind of every module, guesses included.
        words: Word bits of every module, inherited ones included.
        runs: The runs of blocks; in order of execution when traced.
        towers: For each run, the highest module that holds no other run.
        labels: For each run, the word its blocks go by (`blocks`, `encoder`, `decoder`).
        units: All units met.
        unit_of: For each owner, its unit's number.
        kind_of: For each owner, the kind it is counted as.
        ranks: For each owner, and each layer with state, its place in the order that was used;
            compare, do not count with it.
        unreached: Those of them that a traced forward pass never ran.
        reasons: Why an owner is where it is, if that is not by its place in the order alone.
    """

    kinds: list[str]
    words: list[int]
    runs: list[BlockRun] = field(default_factory=list)
    towers: list[int] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    units: list[Unit] = field(default_factory=list)
    unit_of: dict[int, int] = field(default_factory=dict)
    kind_of: dict[int, str] = field(default_factory=dict)
    ranks: dict[int, Rank] = field(default_factory=dict)
    unreached: frozenset[int] = frozenset()
    reasons: dict[int, str] = field(default_factory=dict)
    number: Callable[[], Numbering] = Numbering
    """Numbers the layers; only names need that, so it waits until one is asked for."""

    def reason(self, owner: int) -> str:
        """Return why an owner is where it is."""
        zone = self.units[self.unit_of[owner]].zone
        usual = _HEAD_WITHOUT_BLOCKS if zone is Zone.HEAD and not self.runs else _WHY[zone]
        return self.reasons.get(owner, usual)

    @cached_property
    def _numbering(self) -> Numbering:
        return self.number()

    @property
    def count_of(self) -> dict[int, int]:
        """For each owner, how many places of its kind come before it in its unit."""
        return self._numbering.count_of

    @property
    def spans(self) -> dict[int, FusedSpan]:
        """The layers that take several places in the count, by owner."""
        return self._numbering.spans

    @property
    def ambiguous(self) -> set[int]:
        """Owners whose number differs between the two orders with nothing to settle it."""
        return self._numbering.ambiguous
