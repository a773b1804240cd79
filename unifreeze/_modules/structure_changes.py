"""Check whether a model still has the structure that was walked, by its dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from itertools import chain, filterfalse
from operator import is_
from typing import Any, TypeAlias

Dicts: TypeAlias = tuple[
    MutableMapping[str, Any], MutableMapping[str, Any], MutableMapping[str, Any]
]
"""A module's children, parameters and buffers."""

_END = object()


def dictionaries_unchanged(walked: Sequence[Dicts]) -> Callable[[], bool]:
    """Return a function that compares a model's dictionaries with what they hold now.

    They must be the very dictionaries of the modules, not copies. It looks at every dictionary of
    a large model, so all of it runs without a Python frame.
    """
    of_children, of_parameters, of_buffers = zip(*walked, strict=True)
    filled: Any = [*filter(None, of_children), *filter(None, of_parameters)]
    buffers = [*filter(None, of_buffers)]
    empty = [*filterfalse(None, chain(of_children, of_parameters, of_buffers))]
    content = [*chain.from_iterable(map(dict.values, filled)), _END]
    sizes = list(map(len, buffers))

    def unchanged() -> bool:
        now = chain(chain.from_iterable(map(dict.values, filled)), (_END,))
        return not any(empty) and list(map(len, buffers)) == sizes and all(map(is_, now, content))

    return unchanged


def mappings_unchanged(walked: Sequence[Dicts]) -> Callable[[], bool]:
    """Return the same function for mappings that are not dictionaries, such as views of one."""
    content = [_items(part) for row in walked for part in row[:2]]
    sizes = [len(row[2]) for row in walked]

    def unchanged() -> bool:
        now = [_items(part) for row in walked for part in row[:2]]
        return now == content and [len(row[2]) for row in walked] == sizes

    return unchanged


def _items(part: Mapping[str, Any]) -> list[tuple[str, int]]:
    return [(name, id(value)) for name, value in part.items()]
