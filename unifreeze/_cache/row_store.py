"""Where kept rows are: in memory, up to a budget."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from unifreeze._cache.output_rows import Row
from unifreeze._protocol.batches import Array
from unifreeze._tables import human_bytes
from unifreeze.errors import ArgumentError, UnifreezeWarning

Kept: TypeAlias = tuple[Row, ...]
"""What is kept of one row of data: for each kept call its pieces."""
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class RowStore(Protocol):
    """Keeps rows under the name of a group and a key.

    Attributes:
        nbytes: How many bytes it keeps.
        full: Why nothing more is kept; "" while there is room.
    """

    nbytes: int
    full: str

    def open(self, group: str, about: Mapping[str, Any]) -> int:
        """Make ready to read and write the rows of a group.

        Args:
            group: Its name.
            about: What people want to know of it.

        Returns:
            How many rows earlier runs have left.
        """

    def describe(self, group: str, about: Mapping[str, Any]) -> None:
        """Say anew what people want to know of the rows of a group."""

    def get(self, group: str, keys: Sequence[str]) -> list[Kept] | None:
        """Return the rows of some keys; None unless all are there."""

    def put(self, group: str, key: str, kept: Kept) -> None:
        """Keep a row, if there is room."""

    def count(self, group: str = "") -> int:
        """Return the number of rows: of a group, or of all of them."""

    def close(self) -> None:
        """Write what is not written yet."""


class MemoryStore:
    """Keeps rows in memory.

    Attributes:
        budget: The most bytes that are kept.
        nbytes: How many bytes it keeps.
        full: Why nothing more is kept; "" while there is room.
    """

    def __init__(self, budget: int) -> None:
        self.budget, self.nbytes, self.full = budget, 0, ""
        self._groups: dict[str, dict[str, Kept]] = {}

    def open(self, group: str, about: Mapping[str, Any]) -> int:
        """Make ready to read and write the rows of a group; return how many earlier runs left."""
        self._groups.setdefault(group, {})
        return 0  # all rows are of this run

    def describe(self, group: str, about: Mapping[str, Any]) -> None:
        """Do nothing."""

    def get(self, group: str, keys: Sequence[str]) -> list[Kept] | None:
        """Return the rows of some keys; None unless all are there."""
        rows = self._groups[group]
        found = [rows.get(key) for key in keys]
        whole = [row for row in found if row is not None]
        return whole if len(whole) == len(found) else None

    def put(self, group: str, key: str, kept: Kept) -> None:
        """Keep a row, if there is room."""
        rows = self._groups[group]
        size = sum(array.nbytes for row in kept for array in row)
        if self.full or key in rows:
            return
        if self.nbytes + size > self.budget:
            self.full = f"the budget of {human_bytes(self.budget)} is used up"
            warnings.warn(
                f"no more rows are kept: {self.full}; training goes on without",
                UnifreezeWarning,
                stacklevel=2,
            )
            return
        rows[key] = kept
        self.nbytes += size

    def count(self, group: str = "") -> int:
        """Return the number of rows: of a group, or of all of them."""
        return sum(len(rows) for name, rows in self._groups.items() if group in ("", name))

    def close(self) -> None:
        """Do nothing."""


def read_budget(budget: str | float) -> int:
    """Return a number of bytes.

    Raises:
        ArgumentError: It is neither a number nor text like "20GB".

    >>> read_budget("1.5GB"), read_budget(1000)
    (1500000000, 1000)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B?)\s*", str(budget), re.IGNORECASE)
    if match is None or isinstance(budget, bool):
        raise ArgumentError(
            f"budget={budget!r} is not a number of bytes", hint='for example budget="20GB"'
        )
    unit = match[2].upper()
    return int(float(match[1]) * _UNITS["" if unit in ("", "B") else unit[0] + "B"])


def narrowed(array: Array, dtype: str) -> Array:
    """Return floating values in the type in which they are stored."""
    if dtype == "float16" and array.dtype == np.float32:
        return array.astype(np.float16)
    if dtype == "bfloat16" and array.dtype == np.float32:
        words = np.ascontiguousarray(array).view(np.uint32).reshape(array.shape)
        rounded = words + 0x7FFF + ((words >> 16) & 1)
        return np.asarray(np.where(np.isnan(array), words | 0x400000, rounded) >> 16, np.uint16)
    return array


def widened(array: Array, dtype: str) -> Array:
    """Return what `narrowed` was given, rounded."""
    if dtype == "float16" and array.dtype == np.float16:
        return array.astype(np.float32)
    if dtype == "bfloat16" and array.dtype == np.uint16:
        return np.asarray((array.astype(np.uint32) << 16).view(np.float32).reshape(array.shape))
    return array
