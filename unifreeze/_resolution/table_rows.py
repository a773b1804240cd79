"""The rows of a lookup table that a rule trains, while its other rows stay as they are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from unifreeze._plan.selectors import Expression, Rows, Selector
from unifreeze._resolution.select_parameters import select
from unifreeze._structure import Mask, ModelSpec
from unifreeze._structure.words_in_names import KINDS
from unifreeze.errors import ResolveError, SelectorRangeError, counted, listing

_RESIZE = "new rows: resize the vocabulary first, then apply the plan"


class TrainedRows(NamedTuple):
    """The rows of one table that train.

    Attributes:
        number: The number of the table among the parameters.
        path: Its native path.
        start: The first row that trains, counted from 0.
        stop: The first row after them that does not.
        total: The number of rows of the table.
    """

    number: int
    path: str
    start: int
    stop: int
    total: int

    @property
    def kept(self) -> int:
        """Number of the other rows, which stay as they are."""
        return self.total - (self.stop - self.start)

    def same(self, other: TrainedRows) -> bool:
        """Return whether these are the same rows, whatever number their table has."""
        return self._replace(number=other.number) == other

    def __str__(self) -> str:
        trained = self.stop - self.start
        which = f"row {self.start}" if trained == 1 else f"rows {self.start} to {self.stop - 1}"
        return (
            f"{self.path}: {which} {'trains' if trained == 1 else 'train'} ({trained:,} of "
            f"{self.total:,}), {counted(self.kept, 'row')} stay as they are"
        )


def find_rows(rows: Rows, spec: ModelSpec, where: str, *, optional: bool) -> TrainedRows | None:
    """Return the rows that a rule trains on a model; None if it is optional and matches nothing.

    Raises:
        UnmatchedSelectorError: There is no such table.
        SelectorRangeError: There are no such rows.
        ResolveError: What is selected is not one lookup table.
    """
    mask = select(Selector(str(rows.inner)), spec, where, optional=optional)
    if not mask.any():
        return None
    number = _table(mask, spec, rows.inner, where)
    (path,), count = spec.paths_of([number]), spec.parameters[number].shape[0]
    start, stop = (
        _bound(bound, count, default, f"{where}: {path}")
        for bound, default in ((rows.start, 0), (rows.stop, count))
    )
    if start >= stop:
        raise SelectorRangeError(
            f"{where}: {path} has {counted(count, 'row')}, and none from {start} up to {stop}",
            hint=_RESIZE if start == count else "write START:STOP, such as 30000: or 5:10",
        )
    if stop - start == count:
        raise SelectorRangeError(
            f"{where}: these are all {counted(count, 'row')} of {path}",
            hint=f'to train the whole table: train: "{rows.inner}"',
        )
    return TrainedRows(number, path, start, stop, count)


def _table(mask: Mask, spec: ModelSpec, inner: Expression, where: str) -> int:
    """Return the number of the lookup table that is selected."""
    selected = np.unique(spec.atoms.tensor[mask])
    paths = spec.paths_of(selected)
    if len(selected) > 1:
        raise ResolveError(
            f"{where}: {inner} is {counted(len(selected), 'parameter')}, and rows are of one table",
            context=listing(paths),
            hint=f"name the table: rows('path:\"{paths[0]}\"', …)",
        )
    number = int(selected[0])
    names = spec.atoms.tensor == number
    lookup = (spec.atoms.kind[names] == KINDS.index("embedding")).any()
    shape = spec.parameters[number].shape
    if not lookup or len(shape) != 2:
        kind = "" if lookup else ", and is not the table of an embedding"
        raise ResolveError(
            f"{where}: {paths[0]} is of shape {list(shape)}{kind}",
            context="only rows of lookup tables can train while the others stay",
            hint="freeze or train the whole parameter",
        )
    others = [n for group in spec.tree.shared if number in group for n in group if n != number]
    if others:
        raise ResolveError(
            f"{where}: {paths[0]} shares memory with {listing(spec.paths_of(others))}, which is "
            "another parameter",
            context="its gradients and its steps would reach the rows that stay",
            hint="let both names hold one parameter (head.weight = table.weight), or give each its "
            "own memory",
        )
    return number


def _bound(bound: int | None, count: int, default: int, where: str) -> int:
    """Return a bound counted from the first row.

    Raises:
        SelectorRangeError: It goes past an end of the table.
    """
    if bound is None:
        return default
    if not -count <= bound <= count:
        raise SelectorRangeError(
            f"{where} has {counted(count, 'row')}, so {bound} is past "
            f"{'its end' if bound > 0 else 'its beginning'}",
            hint=_RESIZE if bound > 0 else f"count from the end by at most -{count}",
        )
    return bound + count if bound < 0 else bound
