"""How tensors are stored: parts of fused tensors, and values laid out as in the other port."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from unifreeze._numerics.projections import Array, squeezed
from unifreeze.errors import counted


class Part(NamedTuple):
    """One part of a fused tensor: query, key or value; gate or up.

    Along one axis a fused tensor is made of equal groups; each group has an equal share of every
    part. If the parts follow each other as a whole, there is one group; if they are interleaved,
    there is one for each head, or for each head of keys with its queries.

    Attributes:
        of: Native path of the fused tensor.
        axis: The axis that the parts share, as stored.
        groups: Number of groups.
        sizes: Length of each part along the axis, in order.
        number: Position of this part.
    """

    of: str
    axis: int
    groups: int
    sizes: tuple[int, ...]
    number: int

    def mistake(self, path: str, shape: tuple[int, ...]) -> str:
        """Return why this cannot be a part of that name and shape; "" if it can."""
        if not 0 <= self.axis < len(shape):
            return f"axis {self.axis} of {len(shape)}"
        if self.groups < 1 or any(size < 1 or size % self.groups for size in self.sizes):
            return f"sizes {list(self.sizes)} in {counted(self.groups, 'group')}"
        if not 0 <= self.number < len(self.sizes):
            return f"number {self.number} of {len(self.sizes)}"
        if shape[self.axis] != self.sizes[self.number] or path != self.path:
            return f"{path} {list(shape)} is not a part {self.number} of {self.of}"
        return ""

    @property
    def path(self) -> str:
        """Name of the part: `path[number]`."""
        return f"{self.of}[{self.number}]"

    @property
    def rows(self) -> Array:
        """Positions of the part along the axis.

        >>> Part("qkv", 0, 2, (4, 2, 2), 1).rows
        array([2, 6])
        """
        shares = [size // self.groups for size in self.sizes]
        start = sum(shares[: self.number])
        first = np.arange(self.groups) * sum(shares) + start
        return np.add.outer(first, np.arange(shares[self.number])).reshape(-1)

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        """Return the part's shape, given that of the fused tensor."""
        return (*whole[: self.axis], self.sizes[self.number], *whole[self.axis + 1 :])

    def take(self, whole: Array) -> Array:
        """Cut the part out of the fused tensor."""
        return np.take(whole, self.rows, axis=self.axis)

    def put(self, whole: Array, values: Array) -> None:
        """Write the part into the fused tensor."""
        whole[(slice(None),) * self.axis + (self.rows,)] = values


def places(parts: Iterable[Part | None]) -> dict[str, tuple[int, dict[str, Array]]]:
    """Return for each fused tensor its axis, and each part's positions on it by name."""
    fused: dict[str, tuple[int, dict[str, Array]]] = {}
    for part in parts:
        if part is not None:
            fused.setdefault(part.of, (part.axis, {}))[1][part.path] = part.rows
    return fused


def reshaped(array: Array, shape: tuple[int, ...], *, transposed: bool) -> Array:
    """Return a tensor's values as its partner stores them.

    Axes of length 1 are added or removed. A table with more rows than its partner loses the last; a
    table with fewer rows gets zeros.
    """
    size = np.prod(shape, dtype=np.int64)
    if transposed:
        array = array.reshape(squeezed(array.shape)).T
    if array.size == size:
        return array.reshape(shape)
    fitted = np.zeros(shape, array.dtype)
    rows = min(len(array), len(fitted))
    fitted[:rows] = array[:rows]
    return fitted


def are_one(one: tuple[int, ...], other: tuple[int, ...], *, transposed: bool) -> bool:
    """Return whether two shapes are equal, apart from axes of length 1.

    >>> are_one((5, 1), (5,), transposed=False), are_one((3, 5), (5, 3), transposed=False)
    (True, False)
    """
    here = squeezed(one)
    return (here[::-1] if transposed else here) == squeezed(other)
