"""Faster ways to run frozen modules in PyTorch: in bfloat16, or compiled."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from types import FunctionType, MethodType
from typing import Any

import torch

from unifreeze.backend import Layer, LiveTensor
from unifreeze.errors import CacheError

_copies: dict[Hashable, FunctionType] = {}
"""Functions that are compiled, by what they are copies of."""


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


def compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a module's forward function, compiled; weights are inputs of what is compiled."""
    if not isinstance(forward, MethodType):
        return torch.compile(forward)
    function, module = forward.__func__, forward.__self__
    shapes = tuple(tuple(parameter.shape) for parameter in module.parameters())
    # What is compiled is kept with the code, up to 8 versions: layers that are alike share theirs,
    # and others get code of their own.
    place = function, type(module), shapes
    if place not in _copies:
        code, parts = function.__code__.replace(), (function.__defaults__, function.__closure__)
        copy = FunctionType(code, function.__globals__, function.__name__, *parts)
        copy.__kwdefaults__ = function.__kwdefaults__
        _copies[place] = copy
    return torch.compile(MethodType(_copies[place], module))
