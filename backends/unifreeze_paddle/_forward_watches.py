"""Watching a Paddle layer's forward passes, also when to_static has taken the layer over."""

from __future__ import annotations

import sys

import paddle
from paddle import nn

from unifreeze.backend import ForwardWatch, Hooks, Undo, Way, tell_followed, watch_module

# The code that to_static captures stays when a hook is taken off, so it must not contain hooks.
paddle.jit.ignore_module([sys.modules[__name__], sys.modules[Way.__module__]])


def on_forward(module: nn.Layer, watch: ForwardWatch) -> Undo:
    """Call back around a layer's forward passes; return the function that stops it."""
    return watch_module(module, watch, _WAY)


def _hooks(layer: nn.Layer) -> Hooks:
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
