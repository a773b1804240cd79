"""What a model's code can reach in Python besides its weights: put back after a pass, and compared.

Modules keep counters, lists and tables under attributes of their own; hooks and functions keep
them in closures and globals.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import partial
from operator import is_
from types import CellType, FunctionType, MethodType
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from unifreeze._cache.observing import bits_of
from unifreeze._cache.operations import CacheOperations
from unifreeze._modules.walking import Walk
from unifreeze._protocol.live import LiveTensor

Place: TypeAlias = tuple[str, str]
"""The native path of a module, and the name of an attribute of it."""
PLAIN = (bool, int, float, complex, str, bytes, type(None), type)
_LIBRARIES = frozenset(
    ("torch", "paddle", "numpy", "builtins",
     "logging", "threading", "weakref", "_thread", "re", "abc", "io", "inspect", "enum")
)  # fmt: skip
_DEPTH = 6
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_forward_post_hooks")
"""The tables in which a hook lies that runs in a forward pass; other tables say more of these."""
_LOOKED_INTO = 256
"""Longer lists and dictionaries are put back, but what lies in them is not looked at."""


class Holder(NamedTuple):
    """A list, dictionary, set, or cell of a closure, and where it was met first."""

    place: Place
    value: Any

    def contents(self) -> Any:
        """Return a copy of what it holds now, in a dictionary, a list or a tuple."""
        value = self.value
        if isinstance(value, dict):
            return dict(dict.items(value))
        if isinstance(value, CellType):
            return (value.cell_contents,)
        return list(value)

    def holds(self, contents: Any) -> bool:
        """Return whether it holds the same objects in the same order."""
        direct = type(self.value) in (dict, list)
        return same_objects(self.value if direct else self.contents(), contents)

    def put_back(self, contents: Any) -> None:
        """Let it hold what it held before."""
        value = self.value
        if isinstance(value, CellType):
            value.cell_contents = contents[0]
        elif isinstance(value, list):
            value[:] = contents
        else:
            value.clear()
            value.extend(contents) if isinstance(value, deque) else value.update(contents)


class PythonState:
    """The lists, dictionaries, closures and plain tensors that some modules can reach.

    Attributes:
        holders: The lists, dictionaries, sets and closures.
        tensors: Tensors that are neither parameters nor state of a module, by place.
    """

    def __init__(
        self,
        backend: CacheOperations,
        walk: Walk,
        modules: Iterable[int] | None = None,
        *,
        hooks: bool = False,
    ) -> None:
        """Look around.

        Args:
            backend: The model's backend.
            walk: The model as walked.
            modules: The numbers of the modules; None for all.
            hooks: Look at tables of hooks around a forward pass, too, if they are empty.
        """
        self._hooks = hooks
        of_all = backend.hooks_around_all() if hooks else ()
        self.holders = [Holder(("", "hooks around every module"), table) for table in of_all]
        self.tensors: list[tuple[Place, LiveTensor]] = []
        self._arrays: list[tuple[Place, Any]] = []
        self._backend = backend
        self._known = {id(module) for module in walk.modules}
        self._known.update(map(id, walk.tensors))
        self._known.update(id(tensor) for _, tensor in walk.states())
        numbers = range(len(walk.modules)) if modules is None else modules
        for number in numbers:
            self._look_at_module(walk.tree.paths[number], walk.module(number))

    def _look_at_module(self, path: str, module: Any) -> None:
        own = vars(module)
        registered = list(map(id, self._backend.reader.dicts(module)))
        if id(own) in self._known:
            return
        self._known.update([id(own), *registered])
        self.holders.append(Holder((path, ""), own))
        for name, value in list(own.items()):
            empty = "hook" in name and not value
            if name != "forward" and (not empty or (self._hooks and name in _HOOKS)):
                self._look(value, (path, name), 0)
        self._look(type(module).forward, (path, "forward"), 0)

    def _look(self, value: Any, place: Place, depth: int) -> None:
        kind = type(value)  # `isinstance` would ask a proxy what it stands for
        if issubclass(kind, PLAIN) or id(value) in self._known or depth > _DEPTH:
            return
        self._known.add(id(value))
        try:
            is_tensor = self._backend.is_tensor(value)
        except Exception:  # a proxy that stands for nothing yet
            return
        if is_tensor:
            self.tensors.append((place, value))
        elif isinstance(value, np.ndarray):
            self._arrays.append((place, value))
        elif isinstance(value, dict | list | set | deque):
            self.holders.append(Holder(place, value))
            self._look_into(value, place, depth)
        elif isinstance(value, tuple):
            self._look_into(value, place, depth)
        elif isinstance(value, FunctionType | MethodType | partial):
            self._look_at_function(value, place, depth)
        elif is_settings(value):
            self._look(vars(value), place, depth + 1)

    def _look_into(self, value: Any, place: Place, depth: int) -> None:
        if len(value) <= _LOOKED_INTO:
            for item in list(dict.values(value)) if isinstance(value, dict) else list(value):
                self._look(item, place, depth + 1)

    def _look_at_function(self, value: Any, place: Place, depth: int) -> None:
        if isinstance(value, partial):
            for part in (value.func, value.args, value.keywords):
                self._look(part, place, depth + 1)
        elif isinstance(value, MethodType):
            self._look(value.__self__, place, depth + 1)
            self._look(value.__func__, place, depth + 1)
        elif not is_of_a_library(value):
            for cell in value.__closure__ or ():
                if id(cell) not in self._known and is_filled(cell):
                    self._known.add(id(cell))
                    self.holders.append(Holder(place, cell))
                    self._look(cell.cell_contents, place, depth + 1)
            for name in value.__code__.co_names:
                held = value.__globals__.get(name)
                if issubclass(type(held), dict | list | set | deque):
                    self._look(held, place, depth + 1)

    def remember(self) -> Remembered:
        """Return what all of it holds now."""
        backend = self._backend
        return Remembered(
            [holder.contents() for holder in self.holders],
            [(backend.clone(t), bits_of(backend, [t])) for _, t in self.tensors],
            [array.copy() for _, array in self._arrays],
        )

    def put_back(self, before: Remembered) -> None:
        """Let all of it hold what it held before."""
        for holder, contents in zip(self.holders, before.contents, strict=True):
            if not holder.holds(contents):
                holder.put_back(contents)
        for (_, tensor), (clone, bits) in zip(self.tensors, before.tensors, strict=True):
            if bits_of(self._backend, [tensor]) != bits:
                self._backend.copy_into(tensor, clone)
        for (_, array), copy in zip(self._arrays, before.arrays, strict=True):
            if array.tobytes() != copy.tobytes():
                array[...] = copy

    def changes(self, before: Remembered) -> dict[Place, str]:
        """Return what has changed: by place, as text that is equal for equal values."""
        found: dict[Place, str] = {}
        for holder, old in zip(self.holders, before.contents, strict=True):
            if not holder.holds(old):
                found.update(self._differences(holder, old, holder.contents()))
        for (place, tensor), (_, bits) in zip(self.tensors, before.tensors, strict=True):
            new = bits_of(self._backend, [tensor])
            found.update({place: new} if new != bits else {})
        for (place, array), copy in zip(self._arrays, before.arrays, strict=True):
            found.update({place: repr(array)} if array.tobytes() != copy.tobytes() else {})
        return found

    def _differences(self, holder: Holder, old: Any, now: Any) -> dict[Place, str]:
        path, name = holder.place
        if name or not isinstance(now, dict):
            before, after = self._text(old), self._text(now)
            return {holder.place: after} if before != after else {}
        texts = {
            key: (self._text(old.get(key, NOTHING)), self._text(now.get(key, NOTHING)))
            for key in {**old, **now}
            if old.get(key, NOTHING) is not now.get(key, NOTHING)
        }
        return {(path, str(key)): b for key, (a, b) in texts.items() if a != b}

    def _text(self, value: Any, depth: int = 4) -> str:
        if isinstance(value, PLAIN):
            return repr(value)
        if self._backend.is_tensor(value):
            return bits_of(self._backend, [value])
        if isinstance(value, dict) and depth:
            items = (f"{k!r}: {self._text(v, depth - 1)}" for k, v in dict.items(value))
            return "{" + ", ".join(items) + "}"
        if isinstance(value, list | tuple | set | deque) and depth:
            return "[" + ", ".join(self._text(item, depth - 1) for item in value) + "]"
        if isinstance(value, np.ndarray):
            return value.tobytes().hex()
        return f"{type(value).__name__} {getattr(value, '__qualname__', '')}"


class Remembered(NamedTuple):
    """What a `PythonState` held at one moment."""

    contents: list[Any]
    tensors: list[tuple[LiveTensor, str]]
    arrays: list[Any]


class _Nothing:
    """Stands for an attribute that is not there."""


NOTHING = _Nothing()


def same_objects(first: Any, second: Any) -> bool:
    """Return whether two copies hold the same objects in the same order."""
    if len(first) != len(second):
        return False
    a, b = first, second
    if isinstance(first, dict):
        if list(first) != list(second):
            return False
        a, b = first.values(), second.values()
    return all(map(is_, a, b))


def is_filled(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def is_settings(value: Any) -> bool:
    """Return whether a value is an object of the user's, or of a library of models."""
    if is_of_a_library(type(value)):
        return False
    try:
        return type(getattr(value, "__dict__", None)) is dict
    except Exception:  # a proxy, which asks what it stands for
        return False


def is_of_a_library(value: Any) -> bool:
    """Return whether a class or a function is the framework's, Python's, NumPy's, or our own."""
    root = str(getattr(value, "__module__", None)).partition(".")[0]
    return root in _LIBRARIES or root.startswith("unifreeze")
