"""Sketches of tensors: a norm and a few fixed projections, the same wherever they are computed.

Two frameworks, two processes or two machines give one tensor the same sketch, so that equal tensors
can be told from records of a few bytes each. Everything here depends on indices alone: the sketch
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

PROJECTIONS = 8
_MILLION = 2**20
_GOLDEN = 0x9E3779B97F4A7C15


class Sketch(NamedTuple):
    """What is kept of one tensor.

    Attributes:
        norm: Euclidean norm.
        along: Its projections, matrices with the longer axis first.
        across: Projections of the transposed matrix, of square ones only.
    """

    norm: float
    along: tuple[float, ...]
    across: tuple[float, ...] = ()

    def distance(self, other: Sketch, *, transposed: bool = False) -> float:
        """Return the largest difference of a projection or norm, relative to the larger norm."""
        there = other.across if transposed else other.along
        largest = max(self.norm, other.norm)
        if not largest or len(self.along) != len(there):
            return float("inf")
        pairs = [(self.norm, other.norm), *zip(self.along, there, strict=True)]
        return max(abs(a - b) for a, b in pairs) / largest

    def gap(self, other: Sketch) -> float:
        """Return their distance: 0 where both are zero, infinite where one is not finite."""
        if not self.norm and not other.norm:
            return 0.0
        gap = self.distance(other)
        return gap if isfinite(gap) else float("inf")


def plain_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape as comparisons see it: matrices longer axis first, a row or column a vector.

    >>> plain_shape((3, 5)), plain_shape((1, 7)), plain_shape((4, 2, 3, 3))
    ((5, 3), (7,), (4, 2, 3, 3))
    """
    if len(shape) != 2:
        return shape
    if 1 in shape:
        return (max(shape),)
    return (max(shape), min(shape))


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


def sketch(array: Array, *, as_stored: bool = False) -> Sketch:
    """Sketch a tensor.

    Args:
        array: Its values.
        as_stored: Take the axes as they are: for outputs, which no framework transposes.
    """
    values = np.asarray(array, np.float64)
    norm = float(np.linalg.norm(values.reshape(-1)))
    if as_stored or values.ndim != 2 or 1 in values.shape:
        return Sketch(norm, _projected(values.reshape(len(values) if values.ndim > 2 else 1, -1)))
    if values.shape[0] == values.shape[1]:
        return Sketch(norm, _projected(values), _projected(values.T))
    return Sketch(norm, _projected(values if values.shape[0] > values.shape[1] else values.T))


def sketch_parts(path: str, array: Array, parts: Parts) -> dict[str, Sketch]:
    """Sketch a tensor by its path, or each of its parts by its name.

    Args:
        path: What the tensor is called.
        array: Its values.
        parts: Of fused tensors, by path: an axis, and by name where along it each part lies.
    """
    if path not in parts:
        return {path: sketch(array)}
    axis, places = parts[path]
    return {name: sketch(np.take(array, rows, axis=axis)) for name, rows in places.items()}


def sketch_table(array: Array) -> Sketch:
    """Sketch a table of rows, which none transposes; zero rows at its end change nothing."""
    values = np.asarray(array, np.float64)
    return Sketch(float(np.linalg.norm(values.reshape(-1))), _projected(values))


def _projected(matrix: Array) -> tuple[float, ...]:
    rows, columns = matrix.shape
    left = np.stack([numbers(rows, 1, k) for k in range(PROJECTIONS)])
    right = np.stack([numbers(columns, 2, k) for k in range(PROJECTIONS)])
    return tuple(float(n) for n in np.sum((left @ matrix) * right, axis=1))
