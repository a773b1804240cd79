"""A run of blocks: the repeated units that follow each other in one part of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any


@dataclass(frozen=True)
class BlockRun:
    """One run of blocks: those that follow each other in one part of the model.

    Attributes:
        holder: Index of the module that holds the run's containers.
        blocks: Indices of the blocks, in order. Of a block whose parts stand in parallel lists,
            the first part.
        stages: For each block, the number of its stage.
        beside: For each block, its other parts; () if no block has any.
        joined: Several parts of one tower hold the blocks, so a list is not always a stage.
        why: Why these modules are its blocks.
    """

    holder: int
    blocks: tuple[int, ...]
    stages: tuple[int, ...]
    beside: tuple[tuple[int, ...], ...] = ()
    joined: bool = False
    why: str = ""

    def ordered(self, rank: Callable[[int], Any]) -> BlockRun:
        """Return the run with its blocks in another order, and stages where containers change.

        Args:
            rank: The place of a block in that order.
        """
        order = sorted(range(len(self.blocks)), key=lambda n: rank(self.blocks[n]))
        return replace(
            self,
            blocks=tuple(self.blocks[n] for n in order),
            stages=tuple(number_runs([self.stages[n] for n in order])),
            beside=tuple(self.beside[n] for n in order) if self.beside else (),
        )

    def moved(self, by: int) -> BlockRun:
        """Return the run in a tree where every module stands some places later."""
        beside = tuple(tuple(part + by for part in parts) for parts in self.beside)
        blocks = tuple(block + by for block in self.blocks)
        return replace(self, holder=self.holder + by, blocks=blocks, beside=beside)

    def parts(self) -> Iterator[tuple[int, ...]]:
        """Yield, for each block, the modules that it is made of: most often a single one."""
        for position, block in enumerate(self.blocks):
            yield (block, *(self.beside[position] if self.beside else ()))


def number_runs(values: Iterable[object]) -> list[int]:
    """Number runs of equal neighbours.

    >>> number_runs([7, 7, 9, 7])
    [0, 0, 1, 2]
    """
    values = list(values)
    changes = [1 if i and value != values[i - 1] else 0 for i, value in enumerate(values)]
    return list(accumulate(changes))
