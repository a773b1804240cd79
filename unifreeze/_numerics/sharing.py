"""Different tensors over the same memory: writing to one writes to the others."""

from __future__ import annotations

from collections.abc import Iterable


def overlapping(spans: Iterable[tuple[int, int, int]]) -> list[tuple[int, ...]]:
    """Find tensors whose bytes overlap.

    Args:
        spans: For each tensor its number, first address and number of bytes.

    Returns:
        Groups of numbers that share bytes.
    """
    groups: list[list[int]] = []
    reach = -1
    for number, start, size in sorted(spans, key=lambda span: span[1]):
        if size and start < reach:
            groups[-1].append(number)
        else:
            groups.append([number])
        reach = max(reach, start + size)
    return [tuple(group) for group in groups if len(group) > 1]
