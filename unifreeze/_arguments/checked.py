"""Checking the arguments of a public function when it is called.

`checked` reads the annotations of a function, so a new function needs nothing but that decorator.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, wraps
from typing import Any, ParamSpec, TypeVar

from unifreeze._arguments.calls import named, other_name, owner_form
from unifreeze._arguments.cures import cure, example, in_words, path_problem
from unifreeze._arguments.fitting import Misfit, fits, misfit, plain_types
from unifreeze.errors import ArgumentError, brief

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)
_NOTHING: frozenset[type] = frozenset()


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Refuse arguments that do not fit a function's annotations, and say what to write.

    Raises:
        ArgumentError: From the function that is returned.

    >>> @checked
    ... def freeze(model: object, what: str) -> str: return what
    >>> freeze(None, 3)
    Traceback (most recent call last):
    unifreeze.errors.ArgumentError: freeze(): what is 3, and should be text
      it is called as: freeze(model, what)
      hint: for example what="backbone"
    """
    return _through(_Door(function), function)


def checked_methods(kind: C, public: str = "") -> C:
    """Make all public methods of a class, and its constructor, `checked`.

    Args:
        kind: The class.
        public: The name of the public class of which it is a part; its own by default.
    """
    for name, member in list(vars(kind).items()):
        if name.startswith("_") and name != "__init__":
            continue
        if isinstance(member, classmethod):
            setattr(kind, name, classmethod(checked(member.__func__)))
        elif inspect.isfunction(member):
            door = _Door(member, kind, f"{public}.{name}" if public else "")
            setattr(kind, name, _through(door, member))
    return kind


def _through(door: _Door, function: Callable[P, R]) -> Callable[P, R]:
    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not door.fits_at_a_glance(args, kwargs):
            door.on(args[0] if args else None).check(args, kwargs)
        return function(*args, **kwargs)

    return call


class _Door:
    """What one function takes."""

    def __init__(
        self, function: Callable[..., Any], owner: type | None = None, name: str = ""
    ) -> None:
        self._function, self._owner = function, owner
        own = function.__qualname__.removesuffix(".__init__").rpartition("<locals>.")[2]
        self.name = name or own

    def on(self, target: Any) -> _Door:
        """Return the same for a method that an object or a class has from another class."""
        kind = target if isinstance(target, type) else type(target)
        place, _, method = self._function.__qualname__.rpartition(".")
        known = {(base.__module__, base.__qualname__) for base in kind.__mro__}
        if (self._function.__module__, place) not in known:
            return self
        name = kind.__name__ if method == "__init__" else f"{kind.__name__}.{method}"
        return self if name == self.name else _Door(self._function, self._owner, name)

    @cached_property
    def signature(self) -> inspect.Signature:
        return inspect.signature(self._function)

    @cached_property
    def wanted(self) -> dict[str, Any]:
        """The annotation of each parameter; Any where only type checkers know it."""
        inner = inspect.unwrap(self._function)
        names = vars(sys.modules[inner.__module__])
        return {
            name: _evaluated(parameter.annotation, names)
            for name, parameter in self.signature.parameters.items()
        }

    @cached_property
    def form(self) -> str:
        """The function as it is called, without annotations."""
        rows = [
            row.replace(annotation=row.empty)
            for number, row in enumerate(self.signature.parameters.values())
            if number or row.name not in ("self", "cls") or row.annotation is not row.empty
        ]
        return f"{self.name}{inspect.Signature(rows)}"

    @cached_property
    def _by_position(self) -> set[str]:
        """Parameters that a user may give in the wrong order."""
        rows = list(self.signature.parameters.values())
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        return {row.name for row in rows if row.kind is kind and row.annotation is not row.empty}

    @cached_property
    def _glance(self) -> tuple[list[str], list[str], dict[str, frozenset[type] | None]]:
        """Positional parameters, required parameters, and for each parameter its plain types."""
        rows = self.signature.parameters.values()
        plain = [row for row in rows if row.kind not in (row.VAR_POSITIONAL, row.VAR_KEYWORD)]
        types = {row.name: plain_types(self.wanted[row.name]) for row in plain}
        if self._owner is not None:
            types[plain[0].name] = frozenset({self._owner})
        return (
            [row.name for row in plain if row.kind is not row.KEYWORD_ONLY],
            [row.name for row in plain if row.default is row.empty],
            types,
        )

    def fits_at_a_glance(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Return whether all arguments are given and have plain types, as in most calls.

        This is the fast way: no binding, and no look inside containers.
        """
        positional, needed, types = self._glance
        given = {**dict(zip(positional, args, strict=False)), **kwargs}
        if len(given) != len(args) + len(kwargs) or any(name not in given for name in needed):
            return False
        for name, value in given.items():
            wanted = types.get(name, _NOTHING)
            if wanted is not None and type(value) not in wanted:
                return False
        return True

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Refuse arguments that do not fit."""
        if self._owner is not None and not (args and isinstance(args[0], self._owner)):
            raise self._unowned()
        try:
            bound = self.signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise self._unbound(error, args, kwargs) from None
        for name, value in bound.items():
            kind = self.signature.parameters[name].kind
            values = value if kind is inspect.Parameter.VAR_POSITIONAL else [value]
            for item in value.values() if kind is inspect.Parameter.VAR_KEYWORD else values:
                if wrong := misfit(item, self.wanted[name]):
                    raise self._unfit(name, wrong, bound)
                fact, hint = path_problem(item, self.wanted[name])
                if fact:
                    message = f"{self.name}(): {name} is {brief(item)}, {fact}"
                    raise ArgumentError(message, hint=hint)

    def _unowned(self) -> ArgumentError:
        """Say that a method was called on its class."""
        owner, _, method = self.name.rpartition(".")
        return ArgumentError(
            f"{self.name}() is called on the class, and not on an object of it",
            context=f"it is called as: {self.form}",
            hint=f"{owner_form(owner, method)}.{method}(…)",
        )

    def _unbound(
        self, error: TypeError, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> ArgumentError:
        """Say which argument is missing, unknown or too many."""
        rows = self.signature.parameters
        unknown = [name for name in kwargs if name not in rows]
        selectors = [value for value in args if isinstance(value, str)]
        missing = re.search(r"missing a required argument: '(\w+)'", str(error))
        known = example(self.name, missing[1]) if missing else ""
        hint = f"for example {known}" if known else ""
        if unknown:
            hint = other_name(unknown[0], kwargs[unknown[0]], rows) or hint
        if "too many" in str(error):
            hint = self._named(args)
            if len(selectors) > 1 and "what" in rows:
                hint = f'several selectors are one: "{" | ".join(selectors)}"'
        return ArgumentError(
            f"{self.name}(): {error}",
            context=f"it is called as: {self.form}" if hint else "",
            hint=hint or f"it is called as {self.form}",
        )

    def _named(self, args: Sequence[Any]) -> str:
        """Return by which names positional arguments that are too many can be given."""
        rows = self.signature.parameters.values()
        places = sum(row.kind <= row.POSITIONAL_OR_KEYWORD for row in rows)
        wanted = {row.name: self.wanted[row.name] for row in rows if row.kind is row.KEYWORD_ONLY}
        return named(self.name.rpartition(".")[2], args[places:], wanted)

    def _unfit(self, name: str, wrong: Misfit, bound: Mapping[str, Any]) -> ArgumentError:
        place = f"{name}{wrong.place}"
        is_key = wrong.place.startswith("'s key")
        was = "" if is_key else f" is {brief(wrong.value)}, and"
        hint = "its keys are text" if is_key else self._cure(name, wrong, bound)
        return ArgumentError(
            f"{self.name}(): {place}{was} should be {in_words(wrong.wanted)}",
            context=f"it is called as: {self.form}",
            hint=hint,
        )

    def _cure(self, name: str, wrong: Misfit, bound: Mapping[str, Any]) -> str:
        if not wrong.place and self._are_swapped(name, bound):
            return f"the arguments stand in another order: {self.form}"
        place = f"{name}{wrong.place}"
        needed = self._is_needed(name)
        return cure(self.name, place, wrong.value, wrong.wanted, bound[name], needed=needed)

    def _is_needed(self, name: str) -> bool:
        row = self.signature.parameters[name]
        return row.default is row.empty and row.kind <= row.KEYWORD_ONLY

    def _are_swapped(self, name: str, bound: Mapping[str, Any]) -> bool:
        """Return whether an argument and another would both fit if they changed places."""
        return name in self._by_position and any(
            fits(value, self.wanted[name]) and fits(bound[name], self.wanted[rival])
            for rival, value in bound.items()
            if rival != name and rival in self._by_position
        )


def _evaluated(annotation: Any, names: dict[str, Any]) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, names)
    except NameError:
        return Any
