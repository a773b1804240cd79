"""Check whether a model still has the structure that was walked, by its dictionaries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from functools import cached_property
from itertools import chain, filterfalse
from typing import Any, Protocol, TypeAlias

from unifreeze._identity import identities

Dicts: TypeAlias = tuple[
    MutableMapping[str, Any], MutableMapping[str, Any], MutableMapping[str, Any]
]
"""A module's children, parameters and buffers."""
DictColumns: TypeAlias = tuple[
    Sequence[MutableMapping[str, Any]],
    Sequence[MutableMapping[str, Any]],
    Sequence[MutableMapping[str, Any]],
]
"""The same of many modules: all children, all parameters, all buffers."""


class Structure(Protocol):
    """What the modules of a model held when they were walked.

    Attributes:
        content: Every child and parameter, None included.
    """

    content: Sequence[Any]

    def unchanged(self) -> bool:
        """Return whether the modules still hold the same parts; values of buffers may change.

        It is called before every use of a model, so it must be quick.
        """


class DictStructure:
    """The structure of modules that keep their parts in real dictionaries, not in copies.

    It looks at every dictionary of a large model, so all of it runs without a Python frame.
    """

    def __init__(self, walked: DictColumns) -> None:
        of_children, of_parameters, of_buffers = walked
        self._filled: Any = [*filter(None, of_children), *filter(None, of_parameters)]
        self._buffers = [*filter(None, of_buffers)]
        self._empty = [*filterfalse(None, chain(of_children, of_parameters, of_buffers))]
        self._sizes = list(map(len, self._buffers))
        self.content: Sequence[Any] = [*self._now()]

    def unchanged(self) -> bool:
        """Return whether the modules still hold the same parts."""
        return (
            not any(self._empty)
            and list(map(len, self._buffers)) == self._sizes
            and identities(self._now()) == self._identities
        )

    @cached_property
    def _identities(self) -> bytes:
        return identities(self.content)

    def _now(self) -> Iterable[Any]:
        return chain.from_iterable(map(dict.values, self._filled))


class MappingStructure:
    """The structure of modules whose parts are in mappings of other kinds, such as views."""

    def __init__(self, walked: DictColumns) -> None:
        self._walked = [*zip(*walked, strict=True)]
        self._then = self._now()
        self.content: Sequence[Any] = [
            part for row in self._walked for held in row[:2] for part in held.values()
        ]

    def unchanged(self) -> bool:
        """Return whether the modules still hold the same parts."""
        return self._now() == self._then

    def _now(self) -> list[tuple[list[tuple[str, int]], list[tuple[str, int]], int]]:
        return [(_items(row[0]), _items(row[1]), len(row[2])) for row in self._walked]


def _items(part: Mapping[str, Any]) -> list[tuple[str, int]]:
    return [(name, id(value)) for name, value in part.items()]
