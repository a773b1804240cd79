"""The public functions and methods, found from the public names, so that new ones are found too."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import unifreeze
import unifreeze.testing
from examples.torchvision_on_cpu import import_torchvision

import_torchvision()  # which lightning imports

DOORS = (unifreeze, unifreeze.testing)
BACKENDS = Path(__file__).parents[2] / "backends"


@dataclass(frozen=True)
class Public:
    """A public function, method or constructor.

    Attributes:
        name: As messages call it.
        function: What is called, with an instance first if it is a method.
        owner: The class whose method or constructor it is.
        is_method: It takes an instance.
    """

    name: str
    function: Callable[..., Any]
    owner: type | None = None
    is_method: bool = False

    @property
    def parameters(self) -> list[inspect.Parameter]:
        rows = list(inspect.signature(self.function).parameters.values())
        return rows[1:] if self.is_method else rows

    def annotation(self, name: str) -> Any:
        """Return what a parameter is annotated with, looked up where the function is written."""
        inner = inspect.unwrap(
            self.function.__init__ if inspect.isclass(self.function) else self.function
        )
        names = {**vars(typing), **vars(sys.modules[inner.__module__])}
        parameter = next(row for row in self.parameters if row.name == name)
        written = parameter.annotation
        return eval(written, names) if isinstance(written, str) else written

    def __str__(self) -> str:
        return self.name


def public_callables() -> list[Public]:
    """Return everything public that can be called with something."""
    classes, functions = _reached()
    doors = [getattr(door, name) for door in DOORS for name in door.__all__]
    found = [Public(function.__qualname__, function) for function in functions]
    for kind in classes:
        if kind in doors and _is_made_by_users(kind, functions):
            found.append(Public(kind.__name__, kind, kind))
        found += _methods(kind)
    return sorted(found, key=lambda one: one.name)


def _is_made_by_users(kind: type, functions: set[Callable[..., Any]]) -> bool:
    """Tell whether users call a class themselves; results and saved files come from elsewhere."""
    made = {one for function in functions for one in _returned(function)}
    return kind not in made and not issubclass(kind, Exception | BaseModel)


def trainer_callbacks(framework: str) -> list[Public]:
    """Return the adapters of a framework's trainers, one in each file."""
    folder = BACKENDS / f"unifreeze_{framework}" / "trainers"
    found = []
    for file in sorted(folder.glob("*.py")):
        module = import_module(f"unifreeze_{framework}.trainers.{file.stem}")
        if kind := vars(module).get("FreezeCallback"):
            found.append(Public(f"{file.stem}.FreezeCallback", kind, kind))
    assert found
    return found


def public_classes() -> list[type]:
    """Return every class that a user of the public names can get an instance of."""
    return sorted(_reached()[0], key=lambda kind: kind.__name__)


def _reached() -> tuple[set[type], set[Callable[..., Any]]]:
    """Follow what public functions and methods return."""
    waiting = [getattr(door, name) for door in DOORS for name in door.__all__]
    classes: set[type] = set()
    functions: set[Callable[..., Any]] = set()
    while waiting:
        one = waiting.pop()
        if one in (*classes, *functions) or not _is_ours(one):
            continue
        if inspect.isclass(one):
            classes.add(one)
            waiting += _returned_by_methods(one)
        elif inspect.isfunction(one):
            functions.add(one)
            waiting += _returned(one)
    return classes, functions


def _is_ours(one: Any) -> bool:
    return str(getattr(one, "__module__", "")).startswith("unifreeze")


def _methods(kind: type) -> Iterator[Public]:
    for name, member in inspect.getmembers_static(kind):
        function = getattr(kind, name) if isinstance(member, classmethod) else member
        if name.startswith("_") or not callable(function) or not _is_ours(function):
            continue
        is_method = inspect.isfunction(member)
        yield Public(f"{kind.__name__}.{name}", function, kind, is_method)


def _returned_by_methods(kind: type) -> set[type]:
    members = [member for name, member in inspect.getmembers_static(kind) if name[:1] != "_"]
    functions = [getattr(one, "fget", None) or getattr(one, "__func__", one) for one in members]
    return {found for one in functions if _is_ours(one) for found in _returned(one)}


def _returned(function: Any) -> set[type]:
    """Return our classes in the annotation of what a function returns."""
    inner = inspect.unwrap(function)
    written = getattr(inner, "__annotations__", {}).get("return")
    if not isinstance(written, str):
        return set()
    names = {**_late_names(), **vars(sys.modules[inner.__module__])}
    return {one for one in _flat(eval(written, names)) if inspect.isclass(one) and _is_ours(one)}


def _late_names() -> dict[str, Any]:
    """What modules know to type checkers alone, because of the order of imports."""
    names = {name: getattr(unifreeze, name) for name in ("Handle", "Resolution")}
    drawn = import_module("unifreeze._drawing")
    names |= {name: getattr(drawn, name) for name in ("Picture", "Timeline")}
    return {**names, "Self": None}


def _flat(annotation: Any) -> Iterator[Any]:
    yield annotation
    for one in typing.get_args(annotation):
        yield from _flat(one)
