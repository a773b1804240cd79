"""Puts a model's modules in inference mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from unifreeze._modules.common_checks import modules_of
from unifreeze._modules.module_operations import ModuleOperations
from unifreeze._modules.walking import Walk


@contextmanager
def in_inference_mode(
    on: ModuleOperations, walk: Walk, tables: type | tuple[type, ...], max_norm: str
) -> Iterator[None]:
    """Switch every module's training flag off, and put the flags back after.

    Tables that shorten the rows they look up leave them as they are meanwhile: looking up would
    rewrite the table, in any mode.

    Args:
        on: The framework's operations.
        walk: The model as walked.
        tables: The framework's classes of lookup tables.
        max_norm: Their attribute for the length that a row may have; None where it may have any.
    """
    modes, found = on.modes(walk), [walk.module(number) for number in modules_of(walk, tables)]
    lengths = [(table, getattr(table, max_norm, None)) for table in found]
    shortening = [(table, length) for table, length in lengths if length is not None]
    on.set_modes(walk, [False] * len(modes))
    for table, _ in shortening:
        setattr(table, max_norm, None)
    try:
        yield
    finally:
        for table, length in shortening:
            setattr(table, max_norm, length)
        on.set_modes(walk, modes)
