"""Notice that the code of frozen modules was changed, or what it reads by name.

A plain constant at the top of a file, a helper function, an attribute of a class: none of them is
in a module's own dictionary, and each can be bound to something else between two steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from operator import attrgetter
from types import CodeType, FunctionType, MethodType
from typing import Any, NamedTuple

from unifreeze._cache.python_state import PLAIN, Place, is_filled, is_of_a_library, is_settings
from unifreeze._identity import identities

_PARTS = ("__code__", "__defaults__", "__kwdefaults__")
_parts_of = attrgetter(*_PARTS)
_LEADS: dict[type, Callable[[Any], Any]] = {
    MethodType: attrgetter("__func__"), staticmethod: attrgetter("__func__"),
    classmethod: attrgetter("__func__"), partial: attrgetter("func"),
    property: attrgetter("fget"),
}  # fmt: skip
"""What leads to a function, and how."""
_MOST = 4096
"""So many names are looked at, and no more."""


class Names(NamedTuple):
    """Names in one namespace: of a file, a class, or an object of settings.

    Attributes:
        path: Native path of the module whose code reads them.
        held: The namespace.
        names: The names.
        by_code: False for attributes of the module's own class, which have no function's name.
        whole: All names of the namespace count, those that are new, too; not so for a file.
    """

    path: str
    held: Mapping[str, Any]
    names: tuple[str, ...]
    by_code: bool = True
    whole: bool = True

    def places(self) -> Iterator[Place]:
        """Yield how a message calls each of them."""
        for name in self.names:
            yield (self.path, f"forward's {name}" if self.by_code else name)


class CodeWatch:
    """What modules run: the functions that they reach, and all that these read by name."""

    def __init__(self, modules: Iterable[tuple[str, Any]], base: type) -> None:
        """Look around, and remember what is there.

        Args:
            modules: Native paths and modules.
            base: The framework's class of modules, whose own code is taken as it is.
        """
        self._seen: set[int] = set()
        self._taken = {id(base), id(object)}
        self._rows: list[Names] = []
        self._functions: list[tuple[str, FunctionType]] = []
        self._count = 0
        for path, module in modules:
            self._read_class(path, type(module))
            for value in list(vars(module).values()):
                self._read(path, type(module), value)
        self._gets = [row.held.get for row in self._rows]
        self._names = [row.names for row in self._rows]
        self._called = [function for _, function in self._functions]
        self._whole = [row.held for row in self._rows if row.whole]
        self._remember()

    def unchanged(self) -> bool:
        """Return whether all of it is as it was."""
        if list(map(len, self._whole)) != self._sizes:
            return False
        return identities(self._now()) == self._identities

    def take_in(self) -> tuple[list[Place], bool]:
        """Return what has changed, and take it as right from now on.

        Returns:
            What has changed; and whether other code may be reached now, so that a new look around
            is due.
        """
        places = [place for row in self._rows for place in row.places()]
        places += [(path, f"forward's {f.__name__}") for path, f in self._functions for _ in _PARTS]
        pairs = zip(places, self._values, self._now(), strict=True)
        found = {place: now for place, then, now in pairs if then is not now}
        for row in self._rows:
            new = tuple(name for name in row.held if name not in row.names) if row.whole else ()
            found |= dict.fromkeys(row._replace(names=new).places(), self)  # to be watched, too
        self._remember()
        return list(found), not all(issubclass(type(now), PLAIN) for now in found.values())

    def _remember(self) -> None:
        self._values = list(self._now())
        self._identities, self._sizes = identities(self._values), list(map(len, self._whole))

    def _now(self) -> Iterator[Any]:
        named = chain.from_iterable(map(map, self._gets, self._names))
        return chain(named, chain.from_iterable(map(_parts_of, self._called)))

    def _read_class(self, path: str, cls: type) -> None:
        if id(cls) in self._seen:
            return
        self._seen.add(id(cls))
        self._take_attributes(path, cls, by_code=False)
        self._read(path, cls, getattr(cls, "forward", None))

    def _read(self, path: str, cls: type, value: Any) -> None:
        """Follow a function to what it reads, and to the functions that it calls."""
        waiting = [value]
        while waiting and self._count < _MOST:
            function = _plain(waiting.pop())
            if function is None or id(function) in self._seen:
                continue
            self._seen.add(id(function))
            self._functions.append((path, function))
            cells = [c.cell_contents for c in function.__closure__ or () if is_filled(c)]
            waiting += cells
            read = _names_in(function.__code__)
            own = function.__globals__
            names = tuple(name for name in read if name in own)
            self._take(Names(path, own, names, whole=False))
            waiting += [_attribute(cls, name) for name in read]
            for held in map(own.get, names):
                waiting.append(held)
                if id(held) not in self._seen and is_settings(held):
                    self._seen.add(id(held))
                    self._take(Names(path, vars(held), tuple(vars(held))))
                    self._take_attributes(path, type(held), by_code=True)

    def _take_attributes(self, path: str, cls: type, *, by_code: bool) -> None:
        """Take what a class holds, and what those that it is derived from hold."""
        for owner in cls.__mro__:
            if id(owner) not in self._taken:
                self._taken.add(id(owner))
                self._take(Names(path, vars(owner), tuple(vars(owner)), by_code))

    def _take(self, row: Names) -> None:
        self._rows.append(row)
        self._count += len(row.names)


def _plain(value: Any) -> FunctionType | None:
    """Return the function that a value calls, if it is of the user's or of a library of models."""
    # `isinstance` would ask proxies, whose answers may run any code.
    while (leads := _LEADS.get(type(value))) is not None:
        value = leads(value)
    known = type(value) is FunctionType and not is_of_a_library(value)
    return value if known else None


def _attribute(cls: type, name: str) -> Any:
    """Return what a class holds under a name, as it is written there; None if nothing."""
    return next((vars(owner)[name] for owner in cls.__mro__ if name in vars(owner)), None)


def _names_in(code: CodeType) -> list[str]:
    """Return the names that code reads, that of functions inside it included."""
    inner = (names for part in code.co_consts if isinstance(part, CodeType)
             for names in _names_in(part))  # fmt: skip
    return list(dict.fromkeys([*code.co_names, *inner]))
