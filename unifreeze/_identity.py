"""Weak dictionaries and sets of live objects, told apart by `is`.

Models, modules and optimizers may compare equal (a dataclass does by its fields) or have no hash at
all, so nothing about a live object is ever kept under its `==`.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, MutableMapping
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class WeakIdentityDict(MutableMapping[Any, Value], Generic[Value]):
    """A dictionary with live objects as keys; an entry goes when its object does.

    >>> class Model:
    ...     def __eq__(self, other): return True
    >>> one, other = Model(), Model()
    >>> found = WeakIdentityDict()
    >>> found[one] = "student"
    >>> other in found, len(found)
    (False, 1)
    """

    def __init__(self) -> None:
        self._entries: dict[int, tuple[weakref.ref[Any], Value]] = {}

    def __getitem__(self, key: Any) -> Value:
        return self._entries[id(key)][1]

    def __setitem__(self, key: Any, value: Value) -> None:
        number, entries = id(key), self._entries
        entries[number] = (weakref.ref(key, lambda _: entries.pop(number, None)), value)

    def __delitem__(self, key: Any) -> None:
        del self._entries[id(key)]

    def __contains__(self, key: object) -> bool:
        return id(key) in self._entries

    def __iter__(self) -> Iterator[Any]:
        alive = [ref() for ref, _ in self._entries.values()]
        return iter([key for key in alive if key is not None])

    def __len__(self) -> int:
        return len(self._entries)


class WeakIdentitySet:
    """A set of live objects; each goes when nothing else holds it."""

    def __init__(self) -> None:
        self._entries: WeakIdentityDict[None] = WeakIdentityDict()

    def add(self, item: Any) -> None:
        """Take in an object."""
        self._entries[item] = None

    def discard(self, item: Any) -> None:
        """Leave out an object, if it is there."""
        self._entries.pop(item, None)

    def __contains__(self, item: object) -> bool:
        return item in self._entries

    def __iter__(self) -> Iterator[Any]:
        return iter(self._entries)
