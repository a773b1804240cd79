"""Guards on PyTorch modules: they hold one in inference mode, whenever the loop calls `train()`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]
from torch.nn.utils.spectral_norm import SpectralNorm

from unifreeze.backend import CopiedGuard

_RESET = "reset_running_stats"


class PinnedTrain(CopiedGuard):
    """Stands in for a module's `train`, and puts the module back into inference mode after it.

    It is in the module's `__dict__`, so that deepcopy and pickle keep it, and no name, class or
    state dict changes.

    A recurrent network is an exception: in inference mode no gradient passes through it on a GPU.
    So only its dropout is turned off, and a spectral norm on it makes no steps.

    Attributes:
        replaced: The `train` that a user had put into the module's `__dict__`, if any.
        requested: The mode that the training loop asked for last; unpinning restores it.
        dropout: The dropout that a recurrent network had, None for other modules.
        steps: A recurrent network's spectral norms, each with the steps that it made in a pass.
    """

    def __init__(self, module: nn.Module, *, copied: bool = False) -> None:
        super().__init__(module, copied=copied)
        self.replaced: Callable[[bool], Any] | None = module.__dict__.get("train")
        self.requested = module.training
        self.dropout: float | None = module.dropout if isinstance(module, nn.RNNBase) else None
        self.steps = [] if self.dropout is None else _spectral_steps(module)

    def __call__(self, mode: bool = True) -> nn.Module:
        """Call the module's own `train`, remember the mode, stay in inference mode."""
        if self.copied and (self.is_thawed() or (self.measured and self.is_reset())):
            release(self.module)
            return self.module.train(mode)
        if self.replaced is None:
            type(self.module).train(self.module, mode)
        else:
            self.replaced(mode)
        self.requested = self.module.training
        self.quieten()
        return self.module

    def quieten(self) -> None:
        """Put the module into inference mode, or turn a recurrent network's dropout off."""
        if self.dropout is None:
            self.module.training = False
        else:
            self.module.dropout = 0.0
            for hook, _ in self.steps:
                hook.n_power_iterations = 0

    def is_quiet(self) -> bool:
        """Return whether nothing has changed what `quieten` does."""
        if self.dropout is None:
            return not self.module.training
        still = all(hook.n_power_iterations == 0 for hook, _ in self.steps)
        return self.module.dropout == 0.0 and still

    def trains(self, parameter: nn.Parameter) -> bool:
        """Return whether a parameter is trainable now."""
        return bool(parameter.requires_grad)

    def is_reset(self) -> bool:
        """Return whether the module is a norm whose statistics have seen nothing yet."""
        mean, variance = map(self.module._buffers.get, ("running_mean", "running_var"))
        if mean is None or mean.is_meta or isinstance(mean, UninitializedTensorMixin):
            return False
        return not mean.any() and variance is not None and bool((variance == 1).all())


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
    """Hold a module in inference mode, once more if somebody has set its mode meanwhile."""
    before = pin_of(module)
    if before is not None:
        before.quieten()
    else:
        held = PinnedTrain(module, copied=copied)
        module.__dict__["train"] = held  # first: whoever undoes an interrupted write looks here
        held.quieten()
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.__dict__.setdefault(_RESET, PinnedReset(module))


def unpin(module: nn.Module) -> None:
    """Restore a module's own `train`, and the mode that the training loop asked for last."""
    pin = pin_of(module)
    if pin is None:
        return
    if isinstance(module.__dict__.get(_RESET), PinnedReset):
        del module.__dict__[_RESET]
    if pin.dropout is None:
        module.training = pin.requested
    else:
        module.dropout = pin.dropout
        for hook, steps in pin.steps:
            hook.n_power_iterations = steps
    # Last: an interrupt before it leaves the module held, and not without its mode.
    if pin.replaced is None:
        del module.__dict__["train"]
    else:
        module.__dict__["train"] = pin.replaced


def release(module: nn.Module) -> None:
    """Unpin a module, and the modules in it without parameters: nobody can thaw those."""
    unpin(module)
    for inner in module.children():
        if next(inner.parameters(), None) is None:
            release(inner)


def pin_of(module: Any) -> PinnedTrain | None:
    """Return the stand-in that holds a module; None if it is not held."""
    pin = module.__dict__.get("train")
    return pin if isinstance(pin, PinnedTrain) else None


def _spectral_steps(module: nn.Module) -> list[tuple[Any, int]]:
    """Return the spectral norms that are hooks of a module, each with its steps in a pass."""
    hooks = module._forward_pre_hooks.values()
    return [(h, h.n_power_iterations) for h in hooks if isinstance(h, SpectralNorm)]


def remember(root: nn.Module) -> Callable[[], None]:
    """Remember the modes asked for of held modules; return the function that puts them back.

    For loops that call `eval()` and put modes back by setting `training` instead of by `train()`.
    """
    pins = [(pin, pin.requested) for pin in map(pin_of, root.modules()) if pin is not None]

    def put_back() -> None:
        for pin, requested in pins:
            pin.requested = requested

    return put_back
