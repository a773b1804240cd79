"""Values that depend on a tensor's shape alone, on which two models are run before pairing.

On them two ports of one network compute the same function, whatever the names and the order of
their tensors are, and whichever way round their matrices are stored.
"""

from __future__ import annotations

from math import prod, sqrt

import numpy as np

from unifreeze._numerics.projections import Array, factors, numbers, scrambled, squeezed

_TILE = 512
"""Rows and columns after which a large matrix repeats, multiplied by a factor."""


def shared_values(shape: tuple[int, ...], *, scale: float, role: str) -> Array:
    """Return the values of every tensor of a shape.

    A matrix is the upper left corner of one symmetric matrix: it is the same stored either way
    round, and a longer table begins as a shorter table does. Axes of length 1 change nothing.

    Args:
        shape: As stored.
        scale: Scale of a matrix; see `scale_of`.
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
    """Return the scale of a matrix's values.

    Args:
        shape: As stored; a 1x1 kernel is a matrix, too, with a larger scale.
        table: It is an embedding table; its scale must not depend on its length.
    """
    plain = squeezed(shape)
    if len(plain) != 2:
        return 1.0
    if table:
        return 0.8
    return 1.7 / sqrt(plain[1]) if len(shape) > 2 else 0.9 / sqrt(min(plain))


def _symmetric(rows: int, columns: int, scale: float) -> Array:
    """Return a corner of an endless symmetric matrix of tiles, which differ by a factor."""
    index = np.arange(min(max(rows, columns), _TILE), dtype=np.uint64)
    low, high = np.minimum.outer(index, index), np.maximum.outer(index, index)
    tile = scrambled(low + (high << np.uint64(24)), 7)
    factor = factors(-(-max(rows, columns) // _TILE), 9)
    matrix = np.empty((rows, columns))
    for down in range(0, rows, _TILE):
        for across in range(0, columns, _TILE):
            part = matrix[down : down + _TILE, across : across + _TILE]
            size = scale * factor[down // _TILE] * factor[across // _TILE]
            np.multiply(tile[: part.shape[0], : part.shape[1]], size, out=part)
    return matrix


def own_values(shape: tuple[int, ...], key: int, *, table: bool, role: str) -> Array:
    """Return values that are different for every key, for the certificate.

    Args:
        shape: As stored in the model that the values are for.
        key: Identifies the tensor.
        table: As for `scale_of`.
        role: As for `shared_values`; or "bias" for values that may be below zero.
    """
    drawn = numbers(prod(shape), 8, key).reshape(shape)
    if role == "var":
        return np.asarray(1.0 + 0.5 * drawn)
    if role == "mean":
        return np.asarray(0.3 * drawn)
    plain = squeezed(shape)
    if role == "bias":
        # With large biases in every layer a deep network would return the same for every input.
        return np.asarray(0.15 + 0.3 * drawn)
    if len(plain) < 2:
        return np.asarray(0.5 + 0.5 * drawn)
    if len(plain) == 2:
        drawn *= scale_of(shape, table=table)
    else:
        drawn *= 1.7 / sqrt(prod(plain[1:]))
    return drawn
