"""Watching a Paddle layer for state dicts being loaded; Paddle has no hook for it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

_METHODS = ("set_state_dict", "set_dict", "load_dict")


class _WatchedLoad:
    """Stands in for one of a layer's loading methods; on a copy of the layer it is deaf."""

    def __init__(
        self, layer: Any, name: str, inner: Any, loaded: Callable[[], None] | None = None
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


def on_load(layer: Any, loaded: Callable[[], None]) -> Callable[[], None]:
    """Call back after a state dict has been loaded into a layer; returns what stops it."""
    own = layer.__dict__
    for name in _METHODS:
        inner = own.get(name)
        if isinstance(inner, _WatchedLoad):
            inner = inner.inner
        own[name] = _WatchedLoad(layer, name, inner, loaded)
    watched = weakref.ref(layer)  # what stops the watch must not keep the layer alive

    def stop() -> None:
        live = watched()
        own = {} if live is None else live.__dict__
        for name in _METHODS:
            watch = own.get(name)
            if isinstance(watch, _WatchedLoad) and watch.loaded is loaded:
                del own[name]
                if watch.inner is not None:
                    own[name] = watch.inner

    return stop
