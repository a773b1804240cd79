"""See through wrappers: modules around other modules, which are not part of the network."""

from __future__ import annotations

from collections.abc import Iterator

from unifreeze._modules.reader import Dicts, Reader
from unifreeze._protocol.live import Layer, Model


def wrappers(reader: Reader, model: Model) -> Iterator[tuple[Layer, str]]:
    """Yield the wrappers around a model, outermost first, with the path to what each wraps."""
    while inner := reader.inner(model):
        yield model, inner
        model = below(reader, model, inner)


def unwrapped(reader: Reader, model: Model) -> Layer:
    """Return the model itself, seen through its wrappers."""
    while inner := reader.inner(model):
        model = below(reader, model, inner)
    return model


def below(reader: Reader, module: Layer, path: str) -> Layer:
    """Return the module at a path below another."""
    for name in path.split("."):
        children = reader.dicts(module)[0]
        module = children[name] if name in children else getattr(module, name)
    return module


def beside(reader: Reader, wrapper: Layer, inner: str) -> Iterator[tuple[str, Layer, Dicts]]:
    """Yield path, module and dictionaries of a wrapper and all below it, except what it wraps."""
    stack: list[tuple[str, Layer]] = [("", wrapper)]
    while stack:
        path, module = stack.pop()
        dicts = reader.dicts(module)
        yield path, module, dicts
        children = [(join(path, n), child) for n, child in dicts[0].items() if child is not None]
        stack += [(place, child) for place, child in reversed(children) if place != inner]


def adapter_role(relative: str) -> str:
    """Shorten an adapter parameter's path to the name that both frameworks' ports use.

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
