"""From an index in brackets to positions: as in Python, but past the end is an error."""

from __future__ import annotations

from unifreeze._plan.selectors.expression import Bound, Index
from unifreeze.errors import SelectorRangeError


def positions(index: Index, length: int, have: str) -> range:
    """Return the positions an index stands for.

    A share in percent is a share of the length, rounded down. A negative share counts from the end;
    the last 10% of 5 units are none of them.

    Args:
        index: The index in brackets.
        length: How many units there are.
        have: The part of a message that says how many there are: `the model has 12 blocks`.

    Raises:
        SelectorRangeError: A bound lies past the end.
    """
    if index.single:
        assert index.start is not None
        at = _at(index.start, length)
        if not -length <= at < length:
            raise _past(index, have, length)
        return range(at % length, at % length + 1)
    start = 0 if index.start is None else _at(index.start, length)
    stop = length if index.stop is None else _at(index.stop, length)
    if not (-length <= start <= length and -length <= stop <= length):
        raise _past(index, have, length)
    return range(*slice(start, stop).indices(length))


def _at(bound: Bound, length: int) -> int:
    if not bound.percent:
        return int(bound.value)
    share = int(abs(bound.value) * length / 100) if abs(bound.value) <= 100 else length + 1
    if bound.value < 0:
        # Counted from the start, because -0 would be the first position and not the end.
        return length - share if share <= length else -share
    return share


def _past(index: Index, have: str, length: int) -> SelectorRangeError:
    last = length - 1
    hint = f"positions run from 0 to {last}, or from -{length} to -1"
    hint = hint if length else "leave the brackets out, or take the layers that are numbered"
    return SelectorRangeError(f"{index} goes past the end: {have}", hint=hint)
