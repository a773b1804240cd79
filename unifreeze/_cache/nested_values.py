"""Nested values around tensors: taken apart into tensors and a form, and put together again."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, NamedTuple

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type, slice, type(...))


class Place(NamedTuple):
    """Stands in a form for the tensor of a number."""

    number: int


class Form(NamedTuple):
    """A nested value with its tensors taken out.

    Attributes:
        value: The value, with a `Place` instead of each tensor.
        text: The same as text, equal for values of the same form.
        opaque: Descriptions of objects in it that can be neither compared nor put together again.
    """

    value: Any
    text: str
    opaque: tuple[str, ...]


def take_apart(
    value: Any, is_tensor: Callable[[Any], bool], *, once: bool = False
) -> tuple[list[Any], Form]:
    """Return the tensors of a nested value, and its form.

    Args:
        value: The value.
        is_tensor: Returns whether an object is a tensor.
        once: Return a tensor once that stands in several places; the form says which.
    """
    tensors: list[Any] = []
    opaque: list[str] = []
    rest, text = _apart(value, is_tensor, tensors, opaque, {} if once else None)
    return tensors, Form(rest, text, tuple(opaque))


def put_together(form: Form, tensors: Sequence[Any]) -> Any:
    """Return the nested value of a form with other tensors."""
    return _together(form.value, tensors)


def _apart(
    value: Any,
    is_tensor: Callable[[Any], bool],
    tensors: list[Any],
    opaque: list[str],
    places: dict[int, Place] | None,
) -> tuple[Any, str]:
    if is_tensor(value):
        if places is not None and id(value) in places:
            return places[id(value)], f"*{places[id(value)].number}"
        tensors.append(value)
        if places is not None:
            places[id(value)] = Place(len(tensors) - 1)
        return Place(len(tensors) - 1), "*"
    if isinstance(value, _PLAIN):
        return value, repr(value)
    items = contents(value)
    if items is None:
        name = f"{type(value).__module__}.{type(value).__qualname__}"
        if type(value).__module__ in ("torch", "paddle.base.libpaddle"):  # a dtype or a device
            return value, repr(value)
        opaque.append(name)
        return value, f"<{name}>"
    parts = [(key, *_apart(item, is_tensor, tensors, opaque, places)) for key, item in items]
    text = ", ".join(f"{key!r}: {written}" for key, _, written in parts)
    return _rebuilt(value, [(key, part) for key, part, _ in parts]), f"{type(value)}({text})"


def _together(value: Any, tensors: Sequence[Any]) -> Any:
    if isinstance(value, Place):
        return tensors[value.number]
    if isinstance(value, _PLAIN):
        return value
    items = contents(value)
    if items is None:
        return value
    return _rebuilt(value, [(key, _together(item, tensors)) for key, item in items])


def contents(value: Any) -> list[tuple[Any, Any]] | None:
    """Return what a container holds; None for anything else."""
    if "Cache" in type(value).__name__:
        return None
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, tuple | list):
        return list(enumerate(value))
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    return None


def _blank(value: Mapping[Any, Any]) -> Any:
    """Return a copy of a mapping whose items are given later.

    Results of models are ordered dictionaries with attributes, which `copy` takes apart and builds
    again with all checks: in each step that takes longer than the rest of a replay.
    """
    if not isinstance(value, OrderedDict):
        return copy.copy(value)
    same = type(value).__new__(type(value))
    vars(same).update(vars(value))
    return same


def _rebuilt(value: Any, items: list[tuple[Any, Any]]) -> Any:
    """Return a container like another one that holds other items."""
    if isinstance(value, Mapping):
        if type(value) is dict:
            return dict(items)
        same = _blank(value)
        for key, item in items:
            same[key] = item
        return same
    parts = [item for _, item in items]
    if isinstance(value, tuple | list):
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return replace(value, **dict(items))


def tensors_inside(value: Any, is_tensor: Callable[[Any], bool], depth: int = 4) -> Iterator[Any]:
    """Yield the tensors that any object holds, also in its attributes."""
    if is_tensor(value):
        yield value
    elif depth and not isinstance(value, _PLAIN):
        items = contents(value)
        if items is not None:
            inside: list[Any] = [item for _, item in items]
        else:
            inside = list(getattr(value, "__dict__", {}).values())
        for item in inside:
            yield from tensors_inside(item, is_tensor, depth - 1)
