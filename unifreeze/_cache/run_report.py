"""The lines that a cached run prints of itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from unifreeze._cache.frozen_part import FrozenPart
from unifreeze._cache.row_store import RowStore
from unifreeze._cache.run_counts import Counts
from unifreeze._tables import human_bytes
from unifreeze.errors import counted, listing


def report_lines(
    counts: Counts,
    store: RowStore,
    parts: Sequence[FrozenPart],
    why_not: Iterable[str],
    dtype: str,
    outside: int,
) -> list[str]:
    """Return what a run has done so far, a line for each fact.

    Args:
        counts: Its counts.
        store: Its rows.
        parts: Its frozen parts.
        why_not: Why outputs are not kept in some contexts.
        dtype: The type in which floating values are stored.
        outside: How many calls of parts of the model ran without a cache.
    """
    total = counts.hits + counts.misses + counts.uncached
    lines = [
        f"{counted(total, 'row')}: {counts.hits:,} given back, {counts.misses:,} computed and "
        f"kept, {counts.uncached:,} computed without a cache",
        f"kept: {counted(store.count(), 'row')}, {human_bytes(store.nbytes)}, as {dtype}",
    ]
    if counts.extended:
        lines.append(f"{counted(counts.extended, 'row')} computed from rows of an earlier phase")
    if places := [place for part in parts for place in part.kept_at]:
        lines.append(f"outputs of: {listing(dict.fromkeys(places))}")
    if counts.hits and counts.misses:
        saved = counts.hits * counts.computed / counts.misses - counts.read
        lines.append(f"saved: {saved:.3g} s of frozen modules; reading took {counts.read:.3g} s")
    lines += [f"not cached: {why}" for why in dict.fromkeys(why_not)]
    lines += [f"stopped keeping rows: {store.full}"] if store.full else []
    if outside:
        lines.append(
            f"{counted(outside, 'call')} of parts of the model, outside of its own forward pass, "
            "ran without a cache"
        )
    return lines
