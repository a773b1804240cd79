"""Laying one port's values out as the other stores them."""

from __future__ import annotations

import numpy as np

from unifreeze.backend.projections import Array


def reshaped(array: Array, shape: tuple[int, ...], *, transposed: bool) -> Array:
    """Lay a tensor's values out as its partner stores them.

    A table with more rows than its partner loses the last; one with fewer gets zeros.
    """
    if transposed:
        array = array.T
    if array.size == np.prod(shape, dtype=np.int64):
        return array.reshape(shape)
    fitted = np.zeros(shape, array.dtype)
    rows = min(len(array), len(fitted))
    fitted[:rows] = array[:rows]
    return fitted
