"""Faster ways to run frozen modules in PyTorch: in bfloat16, or compiled."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch

from unifreeze.backend import Layer, LiveTensor
from unifreeze.errors import CacheError

_copies: dict[Hashable, FunctionType] = {}
"""Functions that are compiled, by the forward function and the shapes of weights."""


def check(prefix: str, tensors: Sequence[LiveTensor]) -> None:
    """Refuse a way that PyTorch does not have where some tensors are.

    Raises:
        CacheError: It does not.
    """
    if prefix == "inference":
        raise CacheError(
            'prefix="inference" exports frozen layers to paddle.inference, and this model is of '
            "PyTorch",
            hint='prefix="compile" or prefix="bfloat16"',
        )
    on_gpu = any(tensor.device.type == "cuda" for tensor in tensors)
    if prefix == "bfloat16" and on_gpu and not torch.cuda.is_bf16_supported():
        raise CacheError("this GPU does not compute in bfloat16", hint="leave prefix out")


def in_bfloat16(module: Layer, forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a module's forward function with its products and convolutions in bfloat16.

    Weights are cast each time, so that there is no copy of them that could be old.
    """
    device = next(module.parameters()).device.type

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device, dtype=torch.bfloat16):
            return forward(*args, **kwargs)

    return run


def compiled(module: Layer, forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a module's forward function, compiled; weights are inputs of what is compiled.

    What is compiled is kept with the code of a function, up to 8 versions of it. So modules that
    are alike share a function, and others have their own.
    """
    shapes = tuple(tuple(parameter.shape) for parameter in module.parameters())
    alike = getattr(forward, "__func__", forward), type(module), shapes
    if alike not in _copies:
        _copies[alike] = FunctionType(_call.__code__.replace(), globals())
    fast = torch.compile(_copies[alike])

    def run(*args: Any, **kwargs: Any) -> Any:
        with _unwatched(module):
            return fast(forward, args, kwargs)

    return run


def _call(forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    return forward(*args, **kwargs)


@contextmanager
def _unwatched(module: Layer) -> Iterator[None]:
    """Take off what watches a model's first pass: it would be compiled in, for each module anew."""
    modules = list(module.modules())
    hooks = [t for m in modules for t in (m._forward_hooks, m._forward_pre_hooks) if t]
    before = [(table, dict(table)) for table in hooks]
    tables = [(vars(m), name) for m in modules for name in ("_parameters", "_buffers")]
    watching = [(own, name, own[name]) for own, name in tables if _is_ours(type(own[name]))]
    try:
        for table, those in before:
            for key, hook in those.items():
                if _is_ours(hook):
                    del table[key]
        for own, name, table in watching:
            own[name] = dict(table)
        yield
    finally:
        for own, name, table in watching:
            own[name] = table
        for table, those in before:
            table.clear()
            table.update(those)


def _is_ours(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).startswith("unifreeze")
