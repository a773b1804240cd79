"""Holding a PyTorch module in inference mode, however often the training loop calls `train()`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]
from torch.nn.utils.spectral_norm import SpectralNorm

_RESET = "reset_running_stats"


class PinnedTrain:
    """Stands in for a module's `train`: it runs as ever, then the module is in inference mode.

    It sits in the module's own dictionary, so it is found by attribute on copies and survives
    deepcopy and pickle; names, classes and state dicts are as they were.

    A recurrent network is the exception: in inference mode no gradient passes it on a GPU, so its
    dropout alone is turned off, and a spectral norm on it makes no steps.

    On a copy of the module it lets go once somebody thaws what was frozen, or resets the
    statistics: the copy is then meant to live a life of its own.

    Attributes:
        module: The module.
        own: The `train` that a user had put on the module itself, if any.
        requested: The mode the training loop last brought about; what unpinning puts back.
        dropout: What a recurrent network's dropout was, None for other modules.
        steps: What a recurrent network's spectral norms did in each pass, each with how often.
        copied: Whether this is on a copy.
    """

    def __init__(self, module: nn.Module, *, copied: bool = False) -> None:
        self.module, self.copied = module, copied
        self.own: Callable[[bool], Any] | None = module.__dict__.get("train")
        self.requested = module.training
        self.dropout: float | None = module.dropout if isinstance(module, nn.RNNBase) else None
        self.steps = [] if self.dropout is None else _spectral_steps(module)
        self._frozen = _frozen_in(module) if copied else ()
        self._measured = copied and not _is_reset(module)
        self._quieten()

    def __call__(self, mode: bool = True) -> nn.Module:
        """Do what the module's own `train` does, take note of the mode, stay in inference mode."""
        if self.copied and self._free():
            release(self.module)
            return self.module.train(mode)
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
            for hook, _ in self.steps:
                hook.n_power_iterations = 0

    def _free(self) -> bool:
        """Tell whether something that was frozen trains, or the statistics are as at first."""
        parameters = dict(self.module.named_parameters())
        thawed = any(parameters[n].requires_grad for n in self._frozen if n in parameters)
        return thawed or (self._measured and _is_reset(self.module))

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of: what is frozen now, if this is the original."""
        state = dict(self.__dict__)
        if not self.copied:
            state["_frozen"], state["_measured"] = (
                _frozen_in(self.module),
                not _is_reset(self.module),
            )
        return {**state, "copied": True}


class PinnedReset:
    """Stands in for a pinned norm's `reset_running_stats`: on a copy, the pin then lets go."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self) -> None:
        """Reset the statistics."""
        type(self.module).reset_running_stats(self.module)
        pin = pin_of(self.module)
        if pin is not None and pin.copied:
            release(self.module)


def pin(module: nn.Module, *, copied: bool = False) -> None:
    """Hold a module in inference mode; does nothing if it is held already."""
    if pin_of(module) is None:
        module.__dict__["train"] = PinnedTrain(module, copied=copied)
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.__dict__.setdefault(_RESET, PinnedReset(module))


def unpin(module: nn.Module) -> None:
    """Give a module its own `train` back, and the mode that was last asked for."""
    held = pin_of(module)
    if held is None:
        return
    del module.__dict__["train"]
    if isinstance(module.__dict__.get(_RESET), PinnedReset):
        del module.__dict__[_RESET]
    if held.own is not None:
        module.__dict__["train"] = held.own
    if held.dropout is None:
        module.training = held.requested
    else:
        module.dropout = held.dropout
        for hook, steps in held.steps:
            hook.n_power_iterations = steps


def release(module: nn.Module) -> None:
    """Unpin a module, and what is in it and has no parameters to be thawed by."""
    unpin(module)
    for inner in module.children():
        if next(inner.parameters(), None) is None:
            release(inner)


def pin_of(module: Any) -> PinnedTrain | None:
    """Return what holds a module; None if nothing does."""
    pin = module.__dict__.get("train")
    return pin if isinstance(pin, PinnedTrain) else None


def _spectral_steps(module: nn.Module) -> list[tuple[Any, int]]:
    """Return the spectral norms that hang on a module as hooks, each with its steps in a pass."""
    hooks = module._forward_pre_hooks.values()
    return [(h, h.n_power_iterations) for h in hooks if isinstance(h, SpectralNorm)]


def _frozen_in(module: nn.Module) -> tuple[str, ...]:
    return tuple(name for name, p in module.named_parameters() if not p.requires_grad)


def _is_reset(module: nn.Module) -> bool:
    """Tell whether a norm's statistics are those of one that has seen nothing."""
    mean, variance = module._buffers.get("running_mean"), module._buffers.get("running_var")
    if mean is None or mean.is_meta or isinstance(mean, UninitializedTensorMixin):
        return False
    return not mean.any() and variance is not None and bool((variance == 1).all())


def remember(root: nn.Module) -> Callable[[], None]:
    """Take down the modes asked for of what is held under a module; returns what puts them back.

    For loops that call `eval()` and put modes back by setting `training` instead of by `train()`.
    """
    held = [(pin, pin.requested) for pin in map(pin_of, root.modules()) if pin is not None]

    def put_back() -> None:
        for pin, requested in held:
            pin.requested = requested

    return put_back


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
