"""Results that a backend returns: findings, digests, its capabilities, a function to undo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from unifreeze._protocol.batches import Array

Undo = Callable[[], None]
"""A function that puts flags, modes and hooks back as before a write; values stay."""


@dataclass(frozen=True)
class Finding:
    """Something that does not hold, or that the user should know.

    Attributes:
        subject: The parameter, layer or rule it is about.
        message: What is wrong, or what the user should know.
        hint: What to write instead.
        severity: An `error` makes a check fail; a `note` does not.
    """

    subject: str
    message: str
    hint: str = ""
    severity: Literal["error", "note"] = "error"

    def __str__(self) -> str:
        return f"{self.subject}: {self.message}" + (f" ({self.hint})" if self.hint else "")


@dataclass(frozen=True)
class Capabilities:
    """Facts about a framework, as data.

    Attributes:
        devices: Kinds of device it can compute on here, "cpu" first.
    """

    devices: tuple[str, ...] = ("cpu",)


@dataclass(frozen=True, eq=False)
class Digest:
    """A name for a tensor's exact bits.

    Attributes:
        bits: 128-bit XXH3 over dtype, shape and bytes as hex; "" where there are no values.
        dtype: Neutral dtype name.
        sums: Interleaved sums of the values, where they were asked for.
        count: Number of values.
        shape: As stored.
    """

    bits: str
    dtype: str
    count: int = 0
    sums: Array | None = None
    shape: tuple[int, ...] = ()
