"""What two ports do differently although this batch may not show it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from unifreeze._ports.pairing.layer_settings import UNSEEN, SettingDifference, compare_settings
from unifreeze._ports.pairing.model_sketch import ModelSketch
from unifreeze._ports.pairing.pairing import PairRow, ZerosRow

_PADDING = "padding row"


def differing_settings(
    one: ModelSketch, other: ModelSketch, layers: Iterable[tuple[str, str]]
) -> tuple[SettingDifference, ...]:
    """Return the settings of paired layers whose difference a batch may not show.

    Args:
        one: The first model.
        other: The second.
        layers: Native paths of paired layers.
    """
    rows = compare_settings(one.settings, other.settings, layers)
    return tuple(row for row in rows if row.setting in UNSEEN and row.setting != _PADDING)


def read_as_zeros(
    one: ModelSketch, other: ModelSketch, pairs: Iterable[PairRow]
) -> Iterator[ZerosRow]:
    """Yield the rows of paired tables that only one port reads as zeros."""
    for pair in pairs:
        sides = (one, (pair.one, *pair.one_aliases)), (other, (pair.other, *pair.other_aliases))
        rows = [
            {row for name in names if (row := _padding(sketch, name)) is not None}
            for sketch, names in sides
        ]
        for side in (0, 1):
            for row in sorted(rows[side] - rows[1 - side]):
                yield ZerosRow(one=pair.one, other=pair.other, row=row, side=side)


def zeros_in_batch(one: ModelSketch, other: ModelSketch) -> str:
    """Say which tables that ran have a row that only one port reads as zeros; or ""."""
    lines = []
    for sketch, there in ((one, other), (other, one)):
        known = {(row, shape) for _, row, shape in _zero_rows(there)}
        lines += [
            f"{sketch.framework} reads row {row} of {path} as zeros, whatever it holds, and "
            f"{there.framework} as it is: a batch without {row} shows whether that is all"
            for path, row, shape in _zero_rows(sketch)
            if (row, shape) not in known
        ]
    return "\n".join(lines)


def _zero_rows(sketch: ModelSketch) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """Yield path, row and shape of tables that ran and read a row as zeros."""
    for tensor in sketch.tensors:
        row = _padding(sketch, tensor.path) if tensor.reached else None
        if row is not None:
            yield tensor.path, row, tensor.shape


def _padding(sketch: ModelSketch, path: str) -> int | None:
    """Return the number of the row that a table reads as zeros; None if there is none."""
    layer = path.rpartition(".")[0]
    settings = next((row.settings for row in sketch.settings if row.path == layer), {})
    row = settings.get("padding_idx")
    return row if settings.get(_PADDING) == "zeros" and isinstance(row, int) else None
