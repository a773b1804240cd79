"""Watching a PyTorch module's forward passes, also if it is compiled, exported or scripted."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from unifreeze.backend import ForwardWatch, Hooks, Undo, Way, forget, tell_followed, watch_module

_PREPARE = "__prepare_scriptable__"
"""The method that `torch.jit.script` calls first; it cannot compile hooks like ours."""


def on_forward(module: nn.Module, watch: ForwardWatch) -> Undo:
    """Call back around a module's forward passes; return the function that stops it."""
    if isinstance(module, torch.jit.ScriptModule):
        return lambda: None  # it takes no hooks
    if _PREPARE not in module.__dict__:
        module.__dict__[_PREPARE] = _Unwatched(module)
    return watch_module(module, watch, _WAY)


class _Unwatched:
    """Takes the hooks of watches off a module, or off a copy of it, before it is scripted."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self) -> Any:
        forget(self.module, _WAY)
        of_class = getattr(type(self.module), _PREPARE, None)
        return of_class(self.module) if of_class else self.module


def _after_last_watch(module: nn.Module) -> None:
    if isinstance(module.__dict__.get(_PREPARE), _Unwatched):
        del module.__dict__[_PREPARE]


def _hooks(module: nn.Module) -> Hooks:
    return Hooks(
        module._forward_pre_hooks, module._forward_hooks, module._forward_hooks_always_called
    )


def _follows(key: str) -> bool:
    """Return True while the module is compiled, exported or traced."""
    if torch.compiler.is_compiling():
        if key:
            _tell(key)
        return True
    return bool(torch.jit.is_tracing())


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _tell(key: str) -> int:
    """Tell the watch while the module is compiled; the compiled code does not call this."""
    if not getattr(torch.compiler, "is_exporting", lambda: False)():
        tell_followed(key)
    return 0


_WAY = Way(_hooks, _follows, _after_last_watch)
