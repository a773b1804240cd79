"""Sketches of tensors: a norm and a few fixed projections, the same wherever they are computed.

Two frameworks, two processes or two machines give one tensor the same sketch, so that equal tensors
are recognised by records of a few bytes each. Everything here depends on indices alone: the sketch
of a table with more rows, all zero, is that of the shorter table.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Parts = Mapping[str, tuple[int, Mapping[str, Array]]]

LIMIT = 1e-6
"""Relative difference of outputs up to which two runs are of one function.

In double precision ports of one network differ by 1e-16 to 1e-11, and by 1e-7 where their code
computes a part in single precision."""

PROJECTIONS = 8
_WIDTH = 4096
_MILLION = 2**20
_GOLDEN = 0x9E3779B97F4A7C15


class Sketch(NamedTuple):
    """A few numbers that stand for one tensor.

    Attributes:
        norm: Euclidean norm.
        along: Its projections, as it is stored but for axes of length 1.
        across: Projections of the transposed matrix; none for what is not a matrix, and for tables.
    """

    norm: float
    along: tuple[float, ...]
    across: tuple[float, ...] = ()

    def distance(self, other: Sketch, *, transposed: bool = False) -> float:
        """Return the largest difference of a projection or norm, relative to the larger norm."""
        here, there = self.along, other.across if transposed else other.along
        if transposed and not there:  # the other is a table, which is never transposed
            here, there = self.across, other.along
        largest = max(self.norm, other.norm)
        if not largest or len(here) != len(there):
            return float("inf")
        pairs = [(self.norm, other.norm), *zip(here, there, strict=True)]
        return max(abs(a - b) for a, b in pairs) / largest

    def gap(self, other: Sketch, *, transposed: bool = False) -> float:
        """Return their distance: 0 where both are zero, infinite where one is not finite."""
        if not self.norm and not other.norm:
            return 0.0
        gap = self.distance(other, transposed=transposed)
        return gap if isfinite(gap) else float("inf")


def squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without its axes of length 1, which only one of two ports may have.

    >>> squeezed((1, 7)), squeezed((4, 1, 1)), squeezed((1,))
    ((7,), (4,), ())
    """
    return tuple(size for size in shape if size != 1)


def plain_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape as comparisons see it: no axes of length 1, matrices with the longer first.

    >>> plain_shape((3, 5)), plain_shape((1, 7)), plain_shape((4, 2, 3, 3)), plain_shape((5, 2, 1))
    ((5, 3), (7,), (4, 2, 3, 3), (5, 2))
    """
    plain = squeezed(shape)
    return (max(plain), min(plain)) if len(plain) == 2 else plain


def numbers(count: int, *key: int) -> Array:
    """Return seeded numbers between -1 and 1; the first ones are the same whatever the count.

    After a million they come again, each million times a factor of its own.
    """
    first = scrambled(np.arange(min(count, _MILLION), dtype=np.uint64), *key)
    if count <= _MILLION:
        return first
    millions = -(-count // _MILLION)
    return np.multiply.outer(factors(millions, *key), first).reshape(-1)[:count]


def factors(count: int, *key: int) -> Array:
    """Return seeded numbers with a size between 1/2 and 1, of either sign; the first is 1."""
    drawn = scrambled(np.arange(count, dtype=np.uint64), *key, 99)
    drawn = np.sign(drawn) * (0.5 + 0.5 * np.abs(drawn))
    drawn[:1] = 1.0
    return drawn


def scrambled(index: Array, *key: int) -> Array:
    """Return a number between -1 and 1 for each index: the finaliser of splitmix64."""
    seed = 0
    for part in key:
        seed = (seed * 0x100000001B3 + part + 1) % 2**64
    with np.errstate(over="ignore"):
        mixed = (index + np.uint64(seed % 2**64)) * np.uint64(_GOLDEN)
        mixed ^= mixed >> np.uint64(30)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(27)
        mixed *= np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return np.asarray((mixed >> np.uint64(11)) * 2.0**-52 - 1.0)


def sketch(array: Array) -> Sketch:
    """Sketch a tensor; axes of length 1 make no difference."""
    values = np.asarray(array, np.float64)
    values = values.reshape(squeezed(values.shape))
    norm = float(np.linalg.norm(values.reshape(-1)))
    if values.ndim == 2:
        return Sketch(norm, _projected(values), _projected(values.T))
    rows = len(values) if values.ndim > 2 else 1
    return Sketch(norm, _projected(values.reshape(rows, -1)))


def sketch_flat(array: Array) -> Sketch:
    """Sketch values in their order, whatever their shape: outputs, which are never transposed."""
    values = np.asarray(array, np.float64).reshape(-1)
    width = max(1, min(len(values), _WIDTH))
    padded = np.zeros((-(-len(values) // width), width))
    padded.reshape(-1)[: len(values)] = values
    return Sketch(float(np.linalg.norm(values)), _projected(padded))


def sketch_parts(path: str, array: Array, parts: Parts) -> dict[str, Sketch]:
    """Sketch a tensor by its path, or each of its parts by its name.

    Args:
        path: The name of the tensor.
        array: Its values.
        parts: Of fused tensors, by path: an axis, and by name where along it each part lies.
    """
    if path not in parts:
        return {path: sketch(array)}
    axis, places = parts[path]
    return {name: sketch(np.take(array, rows, axis=axis)) for name, rows in places.items()}


def sketch_table(array: Array) -> Sketch:
    """Sketch a table of rows, which is never transposed; zero rows at its end change nothing."""
    values = np.asarray(array, np.float64)
    if 1 in values.shape:
        return sketch(values)
    return Sketch(float(np.linalg.norm(values.reshape(-1))), _projected(values))


def _projected(matrix: Array) -> tuple[float, ...]:
    rows, columns = matrix.shape
    left = np.stack([numbers(rows, 1, k) for k in range(PROJECTIONS)])
    right = np.stack([numbers(columns, 2, k) for k in range(PROJECTIONS)])
    return tuple(float(n) for n in np.sum((left @ matrix) * right, axis=1))
