"""Finds programs that `to_static(full_graph=True)` has traced around a model, with its flags.

A function or a larger layer may be traced that calls the model; neither is part of the model.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from paddle.jit.dy2static.program_translator import ASTStaticFunction

from unifreeze.backend import LiveTensor, WeakIdentitySet
from unifreeze_paddle import _engines as engines

_functions = WeakIdentitySet()
"""Every function that is traced whole when it first runs."""


def traced_with(tensors: Iterable[LiveTensor]) -> Iterator[Any]:
    """Yield the traced functions that use any of some parameters."""
    functions = [f for f in _functions if len(f.program_cache) and not _is_of_default_mode(f)]
    wanted = set(map(id, tensors)) if functions else set()
    for function in functions:
        if any(id(tensor) in wanted for tensor in _parameters(function)):
            yield function


def forget(function: Any) -> None:
    """Leave a traced function out: it was only traced to be saved, and never runs in a loop."""
    _functions.discard(function)


def name_of(function: Any) -> str:
    """Return what a traced function is called in a message."""
    layer = getattr(function, "_class_instance", None)
    layer = layer() if isinstance(layer, weakref.ref) else layer
    if layer is not None:
        return f"{type(layer).__name__}.forward"
    return f"the function {getattr(function.dygraph_function, '__name__', '')}"


def _is_of_default_mode(function: Any) -> bool:
    """Return whether `to_static` has made a piece itself, which it makes anew for other flags."""
    module = getattr(function.dygraph_function, "__module__", None) or ""
    return module.startswith("paddle.jit.sot")


def _parameters(function: Any) -> Iterator[LiveTensor]:
    for program, _ in function.program_cache._caches.values():
        parameters = program.parameters
        # Paddle keeps tensors alone, or tensors and their places in the program.
        yield from parameters[0] if isinstance(parameters, tuple) else parameters


engines.call_after(ASTStaticFunction, "__init__", _functions.add)
for _older in gc.get_objects():
    if issubclass(type(_older), ASTStaticFunction):
        _functions.add(_older)
