"""Fingerprints: a name for a tensor's exact bits, and for how far they have moved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xxhash

from unifreeze._protocol.batches import Array
from unifreeze._protocol.results import Digest


@dataclass(frozen=True)
class Payload:
    """A tensor's bits as the digest sees them.

    Attributes:
        dtype: Neutral dtype name.
        shape: As stored.
        data: The bytes, in C order, as a flat uint8 array; no copy where the framework allows.
    """

    dtype: str
    shape: tuple[int, ...]
    data: Array


def digest(payload: Payload | None, *, with_sums: bool = False) -> Digest:
    """Return the name of a tensor's exact bits, and its sums where asked for.

    The bits are xxHash's XXH3 with 128 bits over dtype, shape and bytes. It is not a
    cryptographic hash: it detects accidents, not forgeries.
    """
    if payload is None:
        return Digest("", "")
    hasher = xxhash.xxh3_128(f"{payload.dtype}{payload.shape}".encode())
    hasher.update(payload.data.data)
    values = _values(payload) if with_sums else None
    sums = None if values is None else interleaved_sums(values)
    count = int(np.prod(payload.shape))
    return Digest(hasher.hexdigest(), payload.dtype, count, sums, payload.shape)


def _values(payload: Payload) -> Array | None:
    """Read a payload's bytes as numbers, where NumPy has or can emulate the format."""
    if payload.dtype == "bfloat16":
        wide = payload.data.view(np.uint16).astype(np.uint32) << 16
        return np.asarray(wide.view(np.float32))
    try:
        dtype = np.dtype(payload.dtype)
    except TypeError:
        return None
    if dtype.itemsize * int(np.prod(payload.shape)) != payload.data.size:
        return None
    return payload.data.view(dtype)


SUMS = 64
"""Number of interleaved sums kept per tensor to bound from below how far it moved."""


def interleaved_sums(array: Array) -> Array:
    """Return the sums of every 64th value, from each of the 64 starting points.

    Sum k is over values k, k + 64, …; the difference of two such sums, over their number of
    values, is a lower bound on the largest change of a value.
    """
    flat = np.asarray(array).reshape(-1)
    if flat.dtype.kind not in "fiub":
        flat = np.abs(flat)
    whole = len(flat) // SUMS * SUMS
    totals = flat[:whole].reshape(-1, SUMS).sum(axis=0, dtype=np.float64)
    totals[: len(flat) - whole] += flat[whole:]
    return np.asarray(totals)


def change_at_least(before: Array, after: Array, count: int) -> float:
    """Return a lower bound on the largest change of any of `count` values, from their sums."""
    width = -(-count // SUMS) or 1
    return float(np.max(np.abs(after - before), initial=0.0)) / width
