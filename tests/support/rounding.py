"""Whether two computations gave the same numbers, told alike on every processor.

In which order sums are added up, and with it their last digits, depends on the processor and on how
many threads there are. Hence no test compares single precision with a limit of its own. It computes
in double precision, where `LIMIT` is as far from rounding as from any mistake; or it computes once
more on inputs that are `nudged`, and allows a multiple of what that changes.
"""

from __future__ import annotations

import numpy as np

LIMIT = 1e-9
"""Largest difference in double precision, relative to the largest value of the tensor."""

SINGLE_PART = 1e-6
"""The same where a part, such as a momentum or an epsilon of Paddle, is in single precision."""

SMALL = 1e-4
"""A tensor whose values are smaller than this share of the largest is held to that share."""

NOISES, ROUNDINGS = 20, 100
"""How many times the change by a nudge, and how many roundings of the largest value, may differ."""


def check_same(found, expected, *, near=None, limit=LIMIT):
    """Check that two arrays, or two mappings of arrays, are equal but for rounding.

    Args:
        found: What was computed; None for what has no value.
        expected: What it should be.
        near: What is expected on nudged inputs; without it both must be in double precision.
        limit: Largest relative difference in double precision.
    """
    if not isinstance(expected, dict):
        found, expected = {"value": found}, {"value": expected}
        near = None if near is None else {"value": near}
    assert found.keys() == expected.keys()
    largest = max((_size(array) for array in expected.values()), default=0.0)
    for name, array in expected.items():
        if array is None:
            assert found[name] is None, f"{name} has a value"
            continue
        assert found[name] is not None, f"{name} has no value"
        one, other = np.asarray(found[name]), np.asarray(array)
        assert (one.dtype, one.shape) == (other.dtype, other.shape), name
        if near is None:
            assert other.dtype == np.float64, f"{name}: compare in double precision, or give `near`"
            allowed = limit * max(_size(other), SMALL * largest)
        else:
            rounding = float(np.finfo(other.dtype).eps) * largest
            allowed = max(ROUNDINGS * rounding, NOISES * _size(np.asarray(near[name]) - other))
        np.testing.assert_allclose(one, other, rtol=0, atol=allowed, err_msg=name)


def nudged(array, unit=None):
    """Return an array with each value moved up or down by a unit; whole numbers stay.

    The unit is relative, and that of the array's own precision unless another is given.
    """
    array = np.asarray(array)
    if array.dtype.kind != "f":
        return array
    unit = np.finfo(array.dtype).eps if unit is None else unit
    ways = 2 * np.random.default_rng(array.size).integers(0, 2, array.shape) - 1
    return (array * (1 + unit * ways)).astype(array.dtype)


def _size(array):
    return 0.0 if array is None else float(np.abs(np.asarray(array, np.float64)).max(initial=0.0))
