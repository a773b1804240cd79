"""Whether a value fits the annotation of a parameter, and which part of it does not."""

from __future__ import annotations

import inspect
import os
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, NamedTuple, SupportsFloat, Union, cast, get_args, get_origin

import numpy as np

from unifreeze.errors import brief


class Misfit(NamedTuple):
    """A value that is not of the type wanted where it stands.

    Attributes:
        place: Where it stands in the argument: "", or as in `['a'][0]`.
        value: The value.
        wanted: The type.
    """

    place: str
    value: object
    wanted: Any


def fits(value: object, wanted: Any) -> bool:
    """Return whether a value is of an annotated type."""
    return misfit(value, wanted) is None


def misfit(value: object, wanted: Any) -> Misfit | None:
    """Return the part of a value that does not fit an annotation; iterators are not consumed."""
    origin: Any = get_origin(wanted) or wanted
    args = get_args(wanted)
    if origin in (Union, types.UnionType):
        return _misfit_of_all(value, wanted)
    if origin is Literal:
        return None if isinstance(value, str) and value in args else Misfit("", value, wanted)
    if wanted is Any or wanted is object or not isinstance(origin, type):
        return None
    if not _is_of(value, origin):
        return Misfit("", value, wanted)
    if origin is Callable:
        return None if _takes(value, args) else Misfit("", value, wanted)
    if issubclass(origin, Mapping):
        return _misfit_in_mapping(cast(Mapping[Any, Any], value), *(args or (Any, Any)))
    plain = isinstance(value, list | tuple | set | frozenset)
    return _misfit_in_list(cast(Collection[Any], value), args) if plain and args else None


def _takes(function: object, args: tuple[Any, ...]) -> bool:
    """Return whether a function can be called with the annotated number of arguments."""
    if not args or not isinstance(args[0], list):
        return True
    try:
        inspect.signature(cast(Callable[..., Any], function)).bind(*args[0])
    except TypeError:
        return False
    except ValueError:
        # Some functions that are not written in Python do not tell their arguments.
        return True
    return True


def plain_types(wanted: Any) -> frozenset[type] | None:
    """Return types whose values fit without a further look; None where every value does."""
    members = get_args(wanted) if get_origin(wanted) in (Union, types.UnionType) else (wanted,)
    if any(member is Any or member is object for member in members):
        return None
    plain = {member for member in members if isinstance(member, type) and not get_args(member)}
    plain -= {str} if Path in plain else set()  # not every text is a path
    return frozenset(plain | ({int} if float in plain else set()))


def _is_of(value: object, origin: Any) -> bool:
    """Return whether a value is of a class, whatever it holds."""
    if origin in _PLAIN:
        return _PLAIN[origin](value)
    if origin is Callable:
        return callable(value)
    if origin in (Iterable, Sequence) and isinstance(value, str | bytes | Mapping):
        return False
    return isinstance(value, origin)


def _misfit_of_all(value: object, wanted: Any) -> Misfit | None:
    """Return what is wrong with a value that may be of several types."""
    misfits = [misfit(value, alternative) for alternative in get_args(wanted)]
    if None in misfits:
        return None
    # A wrong element in the right container says more than that the whole value is wrong.
    inside = [wrong for wrong in misfits if wrong is not None and wrong.place]
    return inside[0] if inside else Misfit("", value, wanted)


def _misfit_in_mapping(value: Mapping[Any, Any], keys: Any, values: Any) -> Misfit | None:
    for key, item in value.items():
        if not fits(key, keys):
            return Misfit(f"'s key {brief(key)}", key, keys)
        if wrong := misfit(item, values):
            return wrong._replace(place=f"[{brief(key)}]{wrong.place}")
    return None


def _misfit_in_list(value: Collection[Any], args: tuple[Any, ...]) -> Misfit | None:
    for number, item in enumerate(value):
        if wrong := misfit(item, args[0]):
            return wrong._replace(place=f"[{number}]{wrong.place}")
    return None


def _is_number(value: object) -> bool:
    """Return whether a value is a number, or an array or tensor of one."""
    if isinstance(value, bool | np.bool_ | str) or not isinstance(value, Real | SupportsFloat):
        return False
    return all(length == 1 for length in tuple(getattr(value, "shape", ())))


_PLAIN: dict[Any, Callable[[object], bool]] = {
    types.NoneType: lambda value: value is None,
    bool: lambda value: isinstance(value, bool | np.bool_),
    int: lambda value: isinstance(value, Integral) and not isinstance(value, bool),
    float: _is_number,
    Path: lambda value: isinstance(value, os.PathLike),
}
