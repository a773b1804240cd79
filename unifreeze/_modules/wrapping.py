"""Seeing through wrappers: modules that stand around others and are not part of the network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from unifreeze._modules.reader import Dicts, Reader


def wrappers(reader: Reader, model: Any) -> Iterator[tuple[Any, str]]:
    """Give the wrappers around a model, the outermost first, each with the path to the inner."""
    while inner := reader.inner(model):
        yield model, inner
        model = below(reader, model, inner)


def unwrapped(reader: Reader, model: Any) -> Any:
    """Return the model itself, seen through its wrappers."""
    while inner := reader.inner(model):
        model = below(reader, model, inner)
    return model


def below(reader: Reader, module: Any, path: str) -> Any:
    """Return the module at a path below another."""
    for name in path.split("."):
        children = reader.dicts(module)[0]
        module = children[name] if name in children else getattr(module, name)
    return module


def beside(reader: Reader, wrapper: Any, inner: str) -> Iterator[tuple[str, Any, Dicts]]:
    """Give a wrapper and every module under it, but what it wraps: path, module, dictionaries."""
    stack: list[tuple[str, Any]] = [("", wrapper)]
    while stack:
        path, module = stack.pop()
        dicts = reader.dicts(module)
        yield path, module, dicts
        kids = [(join(path, name), kid) for name, kid in dicts[0].items() if kid is not None]
        stack += [(place, kid) for place, kid in reversed(kids) if place != inner]


def adapter_role(relative: str) -> str:
    """Shorten an adapter parameter's path to what both frameworks' ports call it.

    >>> adapter_role("lora_A.default.weight"), adapter_role("lora_B.other.weight")
    ('lora_A', 'lora_B.other')
    """
    pieces = [piece for piece in relative.split(".") if piece != "default"]
    if len(pieces) > 1 and pieces[-1] == "weight" and pieces[0].startswith("lora_"):
        pieces.pop()
    return ".".join(pieces)


def join(path: str, leaf: str) -> str:
    """Join two pieces of a path, either of which may be empty."""
    return f"{path}.{leaf}" if path and leaf else path or leaf
