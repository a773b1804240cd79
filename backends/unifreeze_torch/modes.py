"""Holding a PyTorch module in inference mode, however often the training loop calls `train()`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class PinnedTrain:
    """Stands in for a module's `train`: it runs as ever, then the module is in inference mode.

    It sits in the module's own dictionary, so it is found by attribute on copies and survives
    deepcopy and pickle; names, classes and state dicts are as they were.

    A recurrent network is the exception: in inference mode no gradient passes it on a GPU, so its
    dropout alone is turned off.

    Attributes:
        module: The module.
        own: The `train` that a user had put on the module itself, if any.
        requested: The mode the training loop last brought about; what unpinning puts back.
        dropout: What a recurrent network's dropout was, None for other modules.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.own: Callable[[bool], Any] | None = module.__dict__.get("train")
        self.requested = module.training
        self.dropout: float | None = module.dropout if isinstance(module, nn.RNNBase) else None
        self._quieten()

    def __call__(self, mode: bool = True) -> nn.Module:
        """Do what the module's own `train` does, take note of the mode, stay in inference mode."""
        if self.own is None:
            type(self.module).train(self.module, mode)
        else:
            self.own(mode)
        self.requested = self.module.training
        self._quieten()
        return self.module

    def _quieten(self) -> None:
        if self.dropout is None:
            self.module.training = False
        else:
            self.module.dropout = 0.0


def pin(module: nn.Module) -> None:
    """Hold a module in inference mode; does nothing if it is held already."""
    if not is_pinned(module):
        module.__dict__["train"] = PinnedTrain(module)


def unpin(module: nn.Module) -> None:
    """Give a module its own `train` back, and the mode that was last asked for."""
    held = module.__dict__.get("train")
    if isinstance(held, PinnedTrain):
        del module.__dict__["train"]
        if held.own is not None:
            module.__dict__["train"] = held.own
        if held.dropout is None:
            module.training = held.requested
        else:
            module.dropout = held.dropout


def is_pinned(module: Any) -> bool:
    """Tell whether a module is held."""
    return isinstance(module.__dict__.get("train"), PinnedTrain)


def remember(root: nn.Module) -> Callable[[], None]:
    """Take down the modes asked for of what is held under a module; returns what puts them back.

    For loops that call `eval()` and put modes back by setting `training` instead of by `train()`.
    """
    held = [(pin, pin.requested) for pin in map(_pin_of, root.modules()) if pin is not None]

    def put_back() -> None:
        for pin, requested in held:
            pin.requested = requested

    return put_back


def _pin_of(module: nn.Module) -> PinnedTrain | None:
    pin = module.__dict__.get("train")
    return pin if isinstance(pin, PinnedTrain) else None


def on_load(root: nn.Module, loaded: Callable[[], None]) -> Callable[[], None]:
    """Call back after `load_state_dict` on a module; returns what stops it."""
    if isinstance(root, torch.jit.ScriptModule):
        return lambda: None  # it takes no hooks; a load then shows as a move
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
