"""Rows of tables that stay while others train: how they were, and which of them have changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import xxhash

from unifreeze._protocol import Array, Backend, Digest
from unifreeze._resolution import TrainedRows

_AT_ONCE = 4096
_NAMED = 8
"""How many rows a message names."""


class KeptRows(NamedTuple):
    """How the rows of a table were that stay.

    Attributes:
        rows: The rows that train.
        table: Digest of the whole table when they were first held, for its dtype and shape.
        bits: Digest of the others, which decides whether any has changed.
        marks: A number for each of the others, which says which.
    """

    rows: TrainedRows
    table: Digest
    bits: str
    marks: Array


def keep_rows(
    backend: Backend,
    model: Any,
    wanted: Iterable[TrainedRows],
    known: Mapping[str, KeptRows],
) -> dict[str, KeptRows]:
    """Return how the rows that stay are now; those that are known keep what is known of them."""
    kept: dict[str, KeptRows] = {}
    for rows in wanted:
        before = known.get(rows.path)
        if before is not None and before.rows.same(rows):
            kept[rows.path] = before
        elif (now := _now(backend, model, rows)) is not None:
            kept[rows.path] = now
    return kept


def changed_rows(backend: Backend, model: Any, kept: KeptRows) -> str:
    """Say which rows have changed that should stay; "" if none has."""
    now = _now(backend, model, kept.rows)
    if now is None:
        return "the table has no values any more"
    if now.bits == kept.bits:
        return ""
    numbers = np.flatnonzero(now.marks != kept.marks)
    numbers[numbers >= kept.rows.start] += kept.rows.stop - kept.rows.start
    shown = ", ".join(map(str, numbers[:_NAMED]))
    more = f" and {len(numbers) - _NAMED:,} more" if len(numbers) > _NAMED else ""
    which = f"row{'s' if len(numbers) > 1 else ''} {shown}{more}" if len(numbers) else "rows"
    return f"{which}, of the {kept.rows.kept:,} that stay"


def _now(backend: Backend, model: Any, rows: TrainedRows) -> KeptRows | None:
    """Return how the rows that stay are; None if the table has no values here."""
    digest = backend.fingerprint(model, [rows.path])[rows.path]
    if not digest.bits:
        return None
    table = backend.tensor(model, rows.path)
    hasher, marks = xxhash.xxh3_128(f"{table.dtype}{table.shape}".encode()), list[Array]()
    for part in (table[: rows.start], table[rows.stop :]):
        for low in range(0, len(part), _AT_ONCE):
            some = np.ascontiguousarray(part[low : low + _AT_ONCE])
            hasher.update(some.view(np.uint8).data)
            marks.append(_marks(some))
    return KeptRows(rows, digest, hasher.hexdigest(), np.concatenate(marks))


def _marks(rows: Array) -> Array:
    """Return a number for each row, from all of its bits."""
    bits = rows.view(f"u{rows.dtype.itemsize}").astype(np.uint64)
    odd = np.random.default_rng(0).integers(0, 2**63, bits.shape[1], np.uint64) * 2 + 1
    return np.asarray(bits @ odd)
