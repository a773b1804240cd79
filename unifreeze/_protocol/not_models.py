"""Hints for people who pass something else in place of a live model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from inspect import isroutine
from typing import Any

from unifreeze.errors import brief

_HOLDERS = ("model", "network", "module")
"""Attributes in which handles, trainers and pipelines hold their model."""


def cure(value: Any, is_model: Callable[[Any], bool]) -> str:
    """Return a hint what to pass instead of a value that is not a model.

    Args:
        value: What was passed.
        is_model: Returns True for a model.
    """
    if isinstance(value, Mapping) and any(map(is_model, value.values())):
        return "several models were given; give one of them"
    if isinstance(value, Mapping) and value:
        return "a state dict holds values only; pass the model that they belong to"
    if isinstance(value, list | tuple) and any(map(is_model, value)):
        return 'several models are given by name: {"student": …, "teacher": …}'
    if isinstance(value, type):
        return f"build one first: model = {value.__name__}(…)"
    if isroutine(value) or isinstance(value, partial):
        return "call it first, if it builds the model"
    held = _held(value, is_model)
    if held:
        return f"pass the model that it holds: its .{held}"
    if isinstance(value, str):
        return "build or load the model first, and pass that"
    return "pass a torch.nn.Module or a paddle.nn.Layer"


def _held(value: Any, is_model: Callable[[Any], bool]) -> str:
    """Return the attribute in which a value holds a model, "" if there is none."""
    attributes, of_class = getattr(value, "__dict__", {}), vars(type(value))
    held: Iterable[str] = (
        name for name in _HOLDERS if name in attributes or isinstance(of_class.get(name), property)
    )
    return next((name for name in held if is_model(getattr(value, name, None))), "")


def described(value: Any) -> str:
    """Describe what was passed: a built-in value as it is, others by class and module.

    >>> described("net"), described(3)
    ("'net'", '3')
    """
    kind = type(value)
    if kind.__module__ == "builtins" and kind.__name__ != "function":
        return brief(value)
    return f"a {kind.__module__}.{kind.__qualname__}"
