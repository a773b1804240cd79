"""Watching a Paddle layer for state dicts that are loaded into it; Paddle has no hook for that."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from paddle import nn

from unifreeze.backend import Undo

_METHODS = ("set_state_dict", "set_dict", "load_dict")


class _WatchedLoad:
    """Stands in for one of a layer's loading methods; on a copy of the layer it calls nobody."""

    def __init__(
        self, layer: nn.Layer, name: str, inner: Any, loaded: Callable[[], None] | None = None
    ) -> None:
        self.layer, self.name, self.inner, self.loaded = layer, name, inner, loaded

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        method = self.inner or getattr(type(self.layer), self.name).__get__(self.layer)
        result = method(*args, **kwargs)
        if self.loaded:
            self.loaded()
        return result

    def __reduce__(self) -> tuple[type[_WatchedLoad], tuple[Any, str, Any]]:
        return _WatchedLoad, (self.layer, self.name, self.inner)


def on_load(layer: nn.Layer, loaded: Callable[[], None]) -> Undo:
    """Call back after a layer has loaded a state dict; return the function that stops it."""
    layer_now = weakref.ref(layer)  # the function that stops the watch must not keep it alive

    def stop() -> None:
        live = layer_now()
        attributes = {} if live is None else live.__dict__
        for name in _METHODS:
            watch = attributes.get(name)
            if isinstance(watch, _WatchedLoad) and watch.loaded is loaded:
                del attributes[name]
                if watch.inner is not None:
                    attributes[name] = watch.inner

    attributes = layer.__dict__
    try:
        for name in _METHODS:
            inner = attributes.get(name)
            if isinstance(inner, _WatchedLoad):
                inner = inner.inner
            attributes[name] = _WatchedLoad(layer, name, inner, loaded)
        return stop
    except BaseException:
        stop()
        raise
