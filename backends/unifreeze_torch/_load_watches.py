"""Watching a PyTorch module for state dicts that are loaded into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from unifreeze.backend import Undo


def on_load(root: nn.Module, loaded: Callable[[], None]) -> Undo:
    """Call back after `load_state_dict` on a module; return the function that stops it."""
    if isinstance(root, torch.jit.ScriptModule):
        return lambda: None  # it takes no hooks, so verify() reports a load as a change
    watch = _LoadWatch(loaded)
    try:
        handle = root.register_load_state_dict_post_hook(watch)
        watch.remove = handle.remove
        return watch.stop
    except BaseException:
        for key, hook in [*root._load_state_dict_post_hooks.items()]:
            if hook is watch:
                del root._load_state_dict_post_hooks[key]
        raise


class _LoadWatch:
    """A hook that calls back after a load; on a copy of the module it calls nobody."""

    def __init__(self, loaded: Callable[[], None] | None = None) -> None:
        self.loaded = loaded
        self.remove: Callable[[], None] | None = None

    def __call__(self, _module: Any, _keys: Any) -> None:
        if self.loaded:
            self.loaded()

    def stop(self) -> None:
        if self.remove:
            self.remove()

    def __reduce__(self) -> tuple[type[_LoadWatch], tuple[()]]:
        return _LoadWatch, ()
