"""Arrays of every dtype and shape, as weight files hold them."""

from __future__ import annotations

import numpy as np

from unifreeze._ports.weights import Named


def named(name, array, *, dtype=None, alias_of=None):
    return Named(name, array.shape, dtype or str(array.dtype), lambda: array, alias_of)


def tied_rows():
    weight, bias = np.arange(6, dtype="float32").reshape(2, 3), np.ones(2, "float32")
    return [
        named("first", weight),
        named("bias", bias),
        named("second", weight, alias_of="first"),
    ]


ONES = np.ones(2, "float32")
