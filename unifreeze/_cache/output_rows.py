"""The outputs of a call, cut into rows of the batch, and put together again for another batch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from unifreeze._cache.nested_values import Form
from unifreeze._cache.operations import CacheOperations
from unifreeze._protocol.batches import Array
from unifreeze._protocol.live import LiveTensor

Row: TypeAlias = tuple[Array, ...]
"""What is kept of one row of one call: a piece of each tensor that has rows and is read."""

ROUNDING = 1e-4
"""How much a row may differ between batches of other sizes, relative to the largest value.

Kernels round differently for other shapes; measured differences are below 1e-5.
"""


class Slot(NamedTuple):
    """One tensor of a call's result.

    Attributes:
        axis: The axis along which rows lie; None if the tensor is the same for all batches.
        shape: Its shape without that axis.
        entries: How many entries of the axis belong to one row.
        order: Its axes as they lie in memory, outermost first.
        like: A tensor of one element, of the same type and place.
        constant: Its values, if it has no rows.
        kept: True if its rows are kept; else values that nobody reads stand for them.
    """

    axis: int | None
    shape: tuple[int, ...]
    entries: int
    order: tuple[int, ...]
    like: LiveTensor
    constant: Array | None = None
    kept: bool = True

    def whole(self, rows: int) -> tuple[int, ...]:
        """Return the shape of the tensor for a number of rows."""
        if self.axis is None:
            return self.shape
        return (*self.shape[: self.axis], self.entries * rows, *self.shape[self.axis :])


class Layout(NamedTuple):
    """What one call returns for inputs of one signature."""

    form: Form
    slots: tuple[Slot, ...]

    def fits(self, form: Form, arrays: Sequence[Array], rows: int) -> bool:
        """Return whether a result is what this layout gives for so many rows, but for its rows."""
        return (
            form.text == self.form.text
            and len(arrays) == len(self.slots)
            and all(
                array.shape == slot.whole(rows)
                and (slot.constant is None or slot.constant.tobytes() == array.tobytes())
                for slot, array in zip(self.slots, arrays, strict=True)
            )
        )

    def keeping(self, numbers: Collection[int]) -> Layout:
        """Return this layout with the rows of the tensors of some numbers kept, and no others."""
        slots = [slot._replace(kept=n in numbers) for n, slot in enumerate(self.slots)]
        return self._replace(slots=tuple(slots))

    def cut(self, arrays: Sequence[Array], rows: int) -> list[Row]:
        """Return for each row its piece of each tensor whose rows are kept."""
        pieces = []
        for slot, array in zip(self.slots, arrays, strict=True):
            if slot.axis is not None and slot.kept:
                moved = np.moveaxis(array, slot.axis, 0)
                pieces.append(moved.reshape(rows, slot.entries, *moved.shape[1:]))
        return [tuple(piece[row] for piece in pieces) for row in range(rows)]

    def join(
        self, backend: CacheOperations, kept: Sequence[Row], rows: int, filler: float
    ) -> list[LiveTensor]:
        """Return the tensors of the call's result for a batch of rows.

        Args:
            backend: The model's backend.
            kept: What is kept of each row; empty if nothing of this call is kept.
            rows: The number of rows.
            filler: What tensors are filled with that are not kept.
        """
        tensors = []
        number = 0
        for slot in self.slots:
            if slot.axis is None:
                assert slot.constant is not None
                array = slot.constant
            elif slot.kept:
                array = _joined(slot, [row[number] for row in kept])
                number += 1
            else:
                tensors.append(backend.placeholder(slot.whole(rows), slot.like, filler))
                continue
            tensors.append(backend.from_rows(array, slot.like))
        return tensors


def _joined(slot: Slot, pieces: Sequence[Array]) -> Array:
    assert slot.axis is not None
    if slot.axis == 0 and slot.order == tuple(range(len(slot.order))):
        return np.concatenate(pieces)
    # Memory in the same order, because kernels round differently for other orders.
    whole = slot.whole(len(pieces))
    inner = np.empty([whole[n] for n in slot.order], pieces[0].dtype)
    joined = inner.transpose(np.argsort(slot.order))
    np.concatenate(pieces, out=np.moveaxis(joined, slot.axis, 0))
    return joined


def layout_of(
    form: Form,
    likes: Sequence[LiveTensor],
    arrays: Sequence[Array],
    axes: Sequence[int | None],
    rows: int,
) -> Layout:
    """Return the layout of a call's result for a batch of some rows.

    Args:
        form: What is around its tensors.
        likes: For each tensor one of the same type and place.
        arrays: Their values.
        axes: The axes along which their rows lie.
        rows: The number of rows.
    """
    slots = []
    for like, array, axis in zip(likes, arrays, axes, strict=True):
        order = tuple(int(n) for n in np.argsort([-s for s in array.strides], kind="stable"))
        shape = tuple(n for number, n in enumerate(array.shape) if number != axis)
        entries = 0 if axis is None else array.shape[axis] // rows
        constant = array if axis is None else None
        slots.append(Slot(axis, shape, entries, order, like, constant))
    return Layout(form, tuple(slots))


def row_axes(
    whole: Sequence[Array], part: Sequence[Array], rows: int, fewer: int
) -> list[int | None] | None:
    """Return the axis of each tensor along which the rows of a batch lie.

    Args:
        whole: The tensors for a batch.
        part: The tensors for its first rows alone.
        rows: The number of rows of the batch.
        fewer: The number of its first rows.

    Returns:
        None for a tensor that is the same for both; None for all if a tensor fits neither.
    """
    axes: list[int | None] = []
    if len(whole) != len(part):
        return None
    for a, b in zip(whole, part, strict=True):
        differ = [n for n, (s, t) in enumerate(zip(a.shape, b.shape, strict=False)) if s != t]
        if a.ndim != b.ndim or len(differ) > 1:
            return None
        axis = differ[0] if differ else None
        if axis is not None and (a.shape[axis] * fewer != b.shape[axis] * rows
                                 or a.shape[axis] % rows):  # fmt: skip
            return None
        axes.append(axis)
    return axes


def same_rows(
    whole: Sequence[Array],
    part: Sequence[Array],
    axes: Sequence[int | None],
    rows: int,
    these: Sequence[int],
    those: Sequence[int],
) -> bool:
    """Return whether some rows of a batch are the same in another batch, up to rounding.

    Args:
        whole: The tensors for a batch.
        part: The tensors for another batch.
        axes: The axes along which rows lie.
        rows: The number of rows of the first batch.
        these: The numbers of rows of the first batch.
        those: The numbers of the same rows in the other batch.
    """
    for a, b, axis in zip(whole, part, axes, strict=True):
        first, second = a, b
        if axis is not None:
            entries = a.shape[axis] // rows
            if b.shape[axis] < entries * (max(those) + 1):
                return False
            first, second = (
                array.take([n * entries + k for n in numbers for k in range(entries)], axis)
                for array, numbers in ((a, these), (b, those))
            )
        limit = ROUNDING if a.itemsize > 2 else 30 * ROUNDING
        if first.shape == second.shape and relative_gap(first, second) > limit:
            return False
    return True


def relative_gap(first: Array, second: Array) -> float:
    """Return the largest difference of two arrays, over the largest value of the first."""
    if first.shape != second.shape:
        return float("inf")
    if first.dtype.kind not in "fc":
        return 0.0 if np.array_equal(first, second) else float("inf")
    if not first.size:
        return 0.0
    a, b = first.astype(np.complex128 if first.dtype.kind == "c" else np.float64), second
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    finite = np.where(same, 0, a - b)
    scale = np.abs(np.where(np.isfinite(a), a, 0)).max() or 1.0
    gap = float(np.abs(finite).max() / scale)
    return gap if np.isfinite(gap) else float("inf")
