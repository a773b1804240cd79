"""Weak dictionaries and sets of live objects, compared by `is`.

Two different models, modules or optimizers may be equal (dataclasses compare their fields), or have
no hash at all. So a live object is never used as an ordinary key.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, MutableMapping
from typing import Any, Generic, TypeAlias, TypeVar

Value = TypeVar("Value")
Live: TypeAlias = Any
"""A model, module, optimizer or tensor of some framework, of which nothing is known here."""


class WeakIdentityDict(MutableMapping[Live, Value], Generic[Value]):
    """A dictionary with live objects as keys; an entry disappears with its object.

    >>> class Model:
    ...     def __eq__(self, other): return True
    >>> student, teacher = Model(), Model()
    >>> names = WeakIdentityDict()
    >>> names[student] = "student"
    >>> teacher in names, len(names)
    (False, 1)
    """

    def __init__(self) -> None:
        self._entries: dict[int, tuple[weakref.ref[Live], Value]] = {}

    def __getitem__(self, key: Live) -> Value:
        return self._entries[id(key)][1]

    def __setitem__(self, key: Live, value: Value) -> None:
        number, entries = id(key), self._entries
        entries[number] = (weakref.ref(key, lambda _: entries.pop(number, None)), value)

    def __delitem__(self, key: Live) -> None:
        del self._entries[id(key)]

    def __contains__(self, key: object) -> bool:
        return id(key) in self._entries

    def __iter__(self) -> Iterator[Live]:
        entries = list(self._entries.values())  # at once: an object may die at any time
        alive = [ref() for ref, _ in entries]
        return iter([key for key in alive if key is not None])

    def __len__(self) -> int:
        return len(self._entries)


class WeakIdentitySet:
    """A set of live objects; an object disappears when nothing else holds it."""

    def __init__(self) -> None:
        self._entries: WeakIdentityDict[None] = WeakIdentityDict()

    def add(self, item: Live) -> None:
        """Add an object."""
        self._entries[item] = None

    def discard(self, item: Live) -> None:
        """Remove an object, if it is there."""
        self._entries.pop(item, None)

    def __contains__(self, item: object) -> bool:
        return item in self._entries

    def __iter__(self) -> Iterator[Live]:
        return iter(self._entries)
