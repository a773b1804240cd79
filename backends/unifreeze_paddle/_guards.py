"""Guards on Paddle layers: they hold a layer in inference mode, and help kernels that need it."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import paddle
from paddle import nn
from paddle.jit.sot import psdb
from paddle.jit.sot.opcode_translator.executor.executor_cache import OpcodeExecutorCache
from paddle.nn.layer.rnn import RNNBase
from paddle.nn.utils.spectral_norm_hook import SpectralNorm

from unifreeze.backend import CopiedGuard, Guard
from unifreeze_paddle._half_frozen_layers import GuardedForward
from unifreeze_paddle._layers import BATCH_NORMS, MARK

# When a whole program is traced, Paddle rewrites the functions that it calls; these must stay.
paddle.jit.ignore_module([sys.modules[__name__], sys.modules[CopiedGuard.__module__]])

_HOOK, _BREAK = "unifreeze", "unifreeze_break"


class _On(CopiedGuard):
    """A guard that is on a layer, with what taking it off puts back.

    Attributes:
        guard: The guard.
        global_stats: What a norm was told about global statistics.
    """

    def __init__(self, layer: nn.Layer, guard: Guard) -> None:
        super().__init__(layer, copied=guard.copied)
        self.guard = guard
        self.global_stats = layer.__dict__.get("_use_global_stats")

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of."""
        return {**super().__getstate__(), "guard": self.guard._replace(copied=True)}

    def lets_go(self) -> bool:
        """Return whether this is on a copy that was thawed, or whose statistics were reset."""
        if not (self.copied and self.guard.still):
            return False
        return self.is_thawed() or (self.measured and self.module.training and self.is_reset())

    def trains(self, parameter: paddle.Tensor) -> bool:
        """Return whether a parameter is trainable now."""
        return not parameter.stop_gradient

    def parameters(self) -> list[tuple[str, paddle.Tensor]]:
        """Return the names and parameters in the layer; Paddle lists statistics among them."""
        named = self.module.named_parameters()
        return [row for row in named if row[0].rpartition(".")[2] not in _STATISTICS]

    def is_reset(self) -> bool:
        """Return whether the layer is a norm whose statistics have seen nothing yet."""
        mean, variance = map(self.module._parameters.get, _STATISTICS)
        if mean is None or variance is None or not mean._is_initialized():
            return False
        return not bool(mean.any()) and bool((variance == 1).all())


_STATISTICS = ("_mean", "_variance")


def put_on(layer: nn.Layer, guard: Guard) -> None:
    """Put a guard on a layer."""
    take_off(layer)
    attributes = layer.__dict__
    attributes[MARK] = _On(layer, guard)
    if guard.still:
        if _has_global_stats(layer):
            layer._use_global_stats = True
        if _has_global_stats(layer) and not _looks_at_mode(layer):
            layer._forward_pre_hooks[_HOOK] = _ON_COPIES
            layer._forward_pre_hooks.move_to_end(_HOOK, last=False)
        else:
            _put_still_hooks(layer)
    if guard.lend or guard.attach:
        attributes["forward"] = GuardedForward(layer, attributes.get("forward"))
        layer._forward_pre_hooks[_BREAK] = _break_graph


def take_off(layer: nn.Layer) -> None:
    """Take a layer's guard off and put everything back."""
    attributes = layer.__dict__
    on: _On | None = attributes.get(MARK)
    if on is None:
        return
    if on.guard.still and _has_global_stats(layer):
        layer._use_global_stats = on.global_stats
    _take_still_hooks(layer)
    layer._forward_pre_hooks.pop(_BREAK, None)
    forward = attributes.get("forward")
    if isinstance(forward, GuardedForward):
        del attributes["forward"]
        if forward.inner is not None:
            attributes["forward"] = forward.inner
    del attributes[MARK]  # last: whoever undoes an interrupted write looks here


def is_still(layer: nn.Layer) -> bool:
    """Return whether nothing has changed what holds a layer in inference mode."""
    if _has_global_stats(layer) and layer._use_global_stats is not True:
        return False
    return _HOOK in layer._forward_pre_hooks


def forget_traces() -> None:
    """Make to_static capture its code anew: what it has does not notice that a guard changed."""
    OpcodeExecutorCache().clear()


def _has_global_stats(layer: nn.Layer) -> bool:
    """Return whether a norm can be told to use its statistics; the synchronised one ignores it."""
    return isinstance(layer, BATCH_NORMS) and not isinstance(layer, nn.SyncBatchNorm)


def _looks_at_mode(layer: nn.Layer) -> bool:
    """Return whether a norm computes by a forward that is not Paddle's, which may use its mode."""
    of_class = type(layer).forward
    forwards = (of_class, layer.__dict__.get("forward", of_class))
    return not all(getattr(f, "__module__", "").startswith("paddle.") for f in forwards)


class _OnCopies:
    """A hook before a held norm's forward pass: it releases a copy that is trained for itself."""

    def __call__(self, layer: nn.Layer, _inputs: Any) -> None:
        # Not through `__dict__`: what to_static traces cannot read that.
        on: _On | None = getattr(layer, MARK, None)
        if on is not None and on.lets_go():
            _release(layer)


_ON_COPIES = _OnCopies()


def _release(layer: nn.Layer) -> None:
    """Let a layer of a copy follow its mode again, and layers without parameters inside it.

    Their hooks stay, because this happens while Paddle goes through them.
    """
    for inner in [layer, *layer.sublayers()]:
        on: _On | None = inner.__dict__.get(MARK)
        bare = inner is layer or not any(True for _ in inner.named_parameters())
        if on is not None and on.guard.still and bare:
            on.guard = on.guard._replace(still=False)
            if _has_global_stats(inner):
                inner._use_global_stats = on.global_stats


class _Still:
    """A pair of hooks around a layer's forward pass that keep it in inference mode.

    They come before the layer's own hooks, because a spectral norm updates its vectors in one of
    those. A recurrent network passes no gradient in inference mode; so only its dropout is turned
    off, and a spectral norm on it makes no steps.
    """

    def __init__(self, layer: nn.Layer) -> None:
        recurrent = isinstance(layer, RNNBase)
        hooks = layer._forward_pre_hooks.values() if recurrent else ()
        self.norms = [(h, h.n_power_iterations) for h in hooks if isinstance(h, SpectralNorm)]
        self.name = "dropout" if recurrent else "training"
        self.value: Any = 0.0 if recurrent else False
        self.kept: Any = None

    def before(self, layer: nn.Layer) -> None:
        """Remember the mode that the layer has, and put it into inference mode."""
        on: _On | None = getattr(layer, MARK, None)
        if on is not None and on.lets_go():
            _release(layer)
        if on is None or not on.guard.still:
            return
        now = getattr(layer, self.name)
        if self.kept is None or now != self.value:
            self.kept = now
        setattr(layer, self.name, self.value)
        for norm, _ in self.norms:
            norm.n_power_iterations = 0

    def after(self, layer: nn.Layer) -> None:
        """Put back the mode that the layer had."""
        if self.kept is not None:
            setattr(layer, self.name, self.kept)
            self.kept = None
            for norm, steps in self.norms:
                norm.n_power_iterations = steps


class _Before(NamedTuple):
    still: _Still

    def __call__(self, layer: nn.Layer, _inputs: Any) -> None:
        self.still.before(layer)


class _After(NamedTuple):
    still: _Still

    def __call__(self, layer: nn.Layer, _inputs: Any, _outputs: Any) -> None:
        self.still.after(layer)


def _put_still_hooks(layer: nn.Layer) -> None:
    # Under a name, and not a number as Paddle's hooks: it counts them per process, and would give
    # the number of a hook that came with a pickled layer to another hook.
    still = _Still(layer)
    layer._forward_pre_hooks[_HOOK] = _Before(still)
    layer._forward_pre_hooks.move_to_end(_HOOK, last=False)
    layer._forward_post_hooks[_HOOK] = _After(still)
    layer._forward_post_hooks_always_called[_HOOK] = True


def _take_still_hooks(layer: nn.Layer) -> None:
    before = layer._forward_pre_hooks.pop(_HOOK, None)
    layer._forward_post_hooks.pop(_HOOK, None)
    layer._forward_post_hooks_always_called.pop(_HOOK, None)
    if isinstance(before, _Before):
        before.still.after(layer)


def _break_graph(_layer: nn.Layer, _inputs: Any) -> None:
    """Keep to_static from treating the layer as one of Paddle's own, whose forward it knows."""
    psdb.breakgraph()
