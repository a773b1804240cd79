"""Watching a Paddle layer's forward passes, whatever to_static makes of the layer."""

from __future__ import annotations

import sys
from typing import Any

import paddle

from unifreeze.backend import ForwardWatch, Hooks, Undo, Way, tell_followed, watch_module

# The code that to_static captures must not contain a hook that will be taken off.
paddle.jit.ignore_module([sys.modules[__name__], sys.modules[Way.__module__]])


def on_forward(layer: Any, watch: ForwardWatch) -> Undo:
    """Call back around a layer's forward passes; return the function that stops it."""
    return watch_module(layer, watch, _WAY)


def _hooks(layer: Any) -> Hooks:
    return Hooks(
        layer._forward_pre_hooks, layer._forward_post_hooks, layer._forward_post_hooks_always_called
    )


def _follows(key: str) -> bool:
    """Return True while a whole program is traced."""
    if paddle.in_dynamic_mode():
        return False
    if key:
        tell_followed(key)
    return True


_WAY = Way(_hooks, _follows)
