"""Holding a PyTorch module in inference mode, however often the training loop calls `train()`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


class PinnedTrain:
    """Stands in for a module's `train`: children follow the mode asked for, the module does not.

    It sits in the module's own dictionary, so it is found by attribute on copies and survives
    deepcopy and pickle; names, classes and state dicts are as they were.

    Attributes:
        module: The module.
        requested: The mode the training loop last asked for; what unpinning puts back.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.requested = module.training

    def __call__(self, mode: bool = True) -> nn.Module:
        """Take note of the mode, pass it on to the children, stay in inference mode."""
        self.requested = mode
        for child in self.module.children():
            child.train(mode)
        self.module.training = False
        return self.module


def pin(module: nn.Module) -> None:
    """Hold a module in inference mode; does nothing if it is held already."""
    if not is_pinned(module):
        module.__dict__["train"] = PinnedTrain(module)
        module.training = False


def unpin(module: nn.Module) -> None:
    """Give a module its own `train` back, and the mode that was last asked for."""
    held = module.__dict__.get("train")
    if isinstance(held, PinnedTrain):
        del module.__dict__["train"]
        module.training = held.requested


def is_pinned(module: Any) -> bool:
    """Tell whether a module is held."""
    return isinstance(module.__dict__.get("train"), PinnedTrain)


def on_load(root: nn.Module, loaded: Callable[[], None]) -> Callable[[], None]:
    """Call back after `load_state_dict` on a module; returns what stops it."""
    watch = _LoadWatch(loaded)
    handle = root.register_load_state_dict_post_hook(watch)
    watch.remove = handle.remove
    return watch.stop


class _LoadWatch:
    """A hook that tells of loads; on a copy of the module it is deaf."""

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
