"""Live objects compared by `is`: weak dictionaries and sets, and long rows of objects.

Two different models, modules or optimizers may be equal (dataclasses compare their fields), or have
no hash at all. So a live object is never used as an ordinary key.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item")
Value = TypeVar("Value")
Live: TypeAlias = Any
"""A model, module, optimizer or tensor of some framework, of which nothing is known here."""


def identities(objects: Iterable[Any]) -> bytes:
    """Return bytes that are equal for the same objects in the same order, while these live.

    It is called with thousands of objects before each step, so all of it runs without a Python
    frame: the bytes of an array of objects are their addresses.

    >>> one, other = [1], [1]
    >>> identities([one, 2]) == identities([one, 2]), identities([one]) == identities([other])
    (True, False)
    """
    return np.fromiter(objects, np.object_).tobytes()


def coded(row: Sequence[Item]) -> tuple[list[Item], NDArray[np.intp]]:
    """Return the different objects of a row, and for each of its places which of them is there.

    What depends on such an object alone is then derived once, and not for each of 10^5 places.

    >>> [str(item) for item in coded([int, str, int])[0]]
    ["<class 'int'>", "<class 'str'>"]
    >>> coded([int, str, int])[1].tolist()
    [0, 1, 0]
    """
    addresses = np.frombuffer(identities(row), np.intp)
    known = np.unique(addresses)
    codes = np.searchsorted(known, addresses)
    first = np.empty(len(known), np.intp)
    # Of a repeated index NumPy keeps the last value: backwards, that is the first place.
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
    places = np.argsort(first)
    renumbered = np.empty(len(known), np.intp)
    renumbered[places] = np.arange(len(known))
    return [row[place] for place in first[places].tolist()], renumbered[codes]


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

    def __len__(self) -> int:
        return len(self._entries)
