"""Functions that undo something: one for nothing, and one for several."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def nothing() -> None:
    """Undo nothing."""


def undo_all(undos: Iterable[Callable[[], None]]) -> None:
    """Call several functions that undo something, in their order."""
    for undo in undos:
        undo()
