"""Rows of siblings that are built alike: what is derived for the first is filled in for the others.

A large model is a list of many blocks. What depends on nothing but a module's class, tensors and
place inside its block is the same at the same place in every block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Column = TypeVar("Column", bound=np.generic)


class Copies(NamedTuple):
    """Siblings in a row that were described by the description of another one.

    Attributes:
        first: Number of the module that they are like.
        top: Number of the first of them; the others follow it.
        siblings: How many there are.
        modules: How many modules each has, itself included.
    """

    first: int
    top: int
    siblings: int
    modules: int

    @property
    def tops(self) -> range:
        """The numbers of the siblings."""
        return range(self.top, self.top + self.siblings * self.modules, self.modules)

    def fill(self, column: NDArray[Column], *, below: bool) -> None:
        """Fill in what a column holds for the first: for all of it, or for what is below it.

        Args:
            column: A value for each module of the model.
            below: Leave out the siblings themselves: they have names of their own.
        """
        rows = column[self.top : self.tops.stop].reshape(self.siblings, self.modules)
        rows[:, below:] = column[self.first + below : self.first + self.modules]


def not_below_copies(rows: Sequence[Copies], modules: int) -> list[int]:
    """Return the numbers of a model's modules, but for those that `fill_below` gives values."""
    seen = np.ones(modules, np.bool_)
    for row in rows:
        seen[row.top : row.tops.stop].reshape(row.siblings, row.modules)[:, 1:] = False
    numbers: list[int] = np.flatnonzero(seen).tolist()
    return numbers


def fill_below(rows: Sequence[Copies], column: NDArray[Column]) -> None:
    """Give modules below copies what a column holds for the modules that they are like."""
    for row in rows:
        row.fill(column, below=True)
