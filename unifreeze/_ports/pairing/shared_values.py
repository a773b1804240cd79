"""Values to run two models on before anything is paired: they depend on a tensor's shape alone.

With them two ports of one network compute the same function, whatever their tensors are called, in
whatever order they stand, and whichever way round their matrices are stored.
"""

from __future__ import annotations

from math import prod, sqrt

import numpy as np

from unifreeze._numerics.projections import Array, factors, numbers, scrambled, squeezed

_TILE = 512
"""Rows and columns after which a large matrix repeats itself, but for a factor."""


def shared_values(shape: tuple[int, ...], *, scale: float, role: str) -> Array:
    """Return the values of every tensor of a shape, in whichever layout it is stored.

    A matrix takes the upper left corner of one symmetric matrix: so it is the same stored either
    way round, and a longer table begins as a shorter one does. Axes of length 1 change nothing.

    Args:
        shape: As stored.
        scale: Of a matrix; see `scale_of`.
        role: "var" for a variance, which is positive; "mean"; anything else.
    """
    plain = squeezed(shape)
    if role == "var":
        return (1.0 + 0.5 * numbers(prod(shape), 5)).reshape(shape)
    if role == "mean":
        return (0.3 * numbers(prod(shape), 6)).reshape(shape)
    if len(plain) < 2:
        return (0.4 + 0.6 * numbers(prod(plain), 3)).reshape(shape)
    if len(plain) == 2:
        return _symmetric(*plain, scale).reshape(shape)
    fan = prod(plain[1:])
    return (numbers(prod(plain), 4, *plain) * (1.7 / sqrt(fan))).reshape(shape)


def scale_of(shape: tuple[int, ...], *, table: bool) -> float:
    """Return how large a matrix's values are.

    Args:
        shape: As stored; a kernel of one point is a matrix, too, and larger.
        table: It is looked up, not multiplied with; its scale must not depend on its length.
    """
    plain = squeezed(shape)
    if len(plain) != 2:
        return 1.0
    if table:
        return 0.8
    return 1.7 / sqrt(plain[1]) if len(shape) > 2 else 0.9 / sqrt(min(plain))


def _symmetric(rows: int, columns: int, scale: float) -> Array:
    """Return a corner of one endless symmetric matrix, made of one tile times a factor each."""
    index = np.arange(min(max(rows, columns), _TILE), dtype=np.uint64)
    low, high = np.minimum.outer(index, index), np.maximum.outer(index, index)
    tile = scrambled(low + (high << np.uint64(24)), 7)
    factor = factors(-(-max(rows, columns) // _TILE), 9)
    made = np.empty((rows, columns))
    for down in range(0, rows, _TILE):
        for across in range(0, columns, _TILE):
            part = made[down : down + _TILE, across : across + _TILE]
            size = scale * factor[down // _TILE] * factor[across // _TILE]
            np.multiply(tile[: part.shape[0], : part.shape[1]], size, out=part)
    return made


def own_values(shape: tuple[int, ...], key: int, *, table: bool, role: str) -> Array:
    """Return values that no other tensor has, for the certificate.

    Args:
        shape: As stored on the side whose values these are.
        key: Says whose they are.
        table: As for `scale_of`.
        role: As for `shared_values`; or "bias", for one that may be below zero.
    """
    drawn = numbers(prod(shape), 8, key).reshape(shape)
    if role == "var":
        return np.asarray(1.0 + 0.5 * drawn)
    if role == "mean":
        return np.asarray(0.3 * drawn)
    plain = squeezed(shape)
    if role == "bias":
        # Large ones, one after another, would make a deep network treat every input alike.
        return np.asarray(0.15 + 0.3 * drawn)
    if len(plain) < 2:
        return np.asarray(0.5 + 0.5 * drawn)
    if len(plain) == 2:
        drawn *= scale_of(shape, table=table)
    else:
        drawn *= 1.7 / sqrt(prod(plain[1:]))
    return drawn
