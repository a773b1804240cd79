"""What guarded Paddle layers do differently: hold still, and help kernels that need it."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import paddle
from paddle import nn
from paddle.jit.sot import psdb
from paddle.jit.sot.opcode_translator.executor.executor_cache import OpcodeExecutorCache
from paddle.nn.layer.rnn import RNNBase
from paddle.nn.utils.spectral_norm_hook import SpectralNorm

from unifreeze.backend import Guard
from unifreeze_paddle._half_frozen_layers import GuardedForward
from unifreeze_paddle._layers import BATCH_NORMS, MARK

# Tracing a whole program rewrites what it calls, and would rewrite the swapping of tensors wrongly.
paddle.jit.ignore_module([sys.modules[__name__]])

_HOOK, _BREAK = "unifreeze", "unifreeze_break"


class _On:
    """A guard that is on a layer, with what taking it off puts back.

    Attributes:
        guard: The guard.
        global_stats: What a norm was told about global statistics.
        frozen: On a copy, names of what was frozen when it was copied.
        measured: On a copy, whether the norm had gathered statistics then.
    """

    def __init__(self, layer: Any, guard: Guard) -> None:
        self.layer, self.guard = layer, guard
        self.global_stats = layer.__dict__.get("_use_global_stats")
        self.frozen = _frozen_in(layer) if guard.copied else ()
        self.measured = guard.copied and not _is_reset(layer)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of: what is frozen now, if this is the original."""
        state = dict(self.__dict__)
        if not self.guard.copied:
            state["frozen"], state["measured"] = _frozen_in(self.layer), not _is_reset(self.layer)
        return {**state, "guard": self.guard._replace(copied=True)}

    def lets_go(self) -> bool:
        """Tell of a copy whether something that was frozen trains, or its statistics are reset."""
        if not (self.guard.copied and self.guard.still):
            return False
        parameters = dict(self.layer.named_parameters())
        if any(not parameters[n].stop_gradient for n in self.frozen if n in parameters):
            return True
        return self.measured and self.layer.training and _is_reset(self.layer)


def _frozen_in(layer: Any) -> tuple[str, ...]:
    named = layer.named_parameters()
    return tuple(name for name, p in named if p.stop_gradient and not _is_statistic(name))


def _is_statistic(name: str) -> bool:
    return name.rpartition(".")[2] in ("_mean", "_variance")


def _is_reset(layer: Any) -> bool:
    """Tell whether a norm's statistics are those of one that has seen nothing."""
    mean, variance = (layer._parameters.get(name) for name in ("_mean", "_variance"))
    if mean is None or variance is None or not mean._is_initialized():
        return False
    return not bool(mean.any()) and bool((variance == 1).all())


def put_on(layer: Any, guard: Guard) -> None:
    """Put a guard on a layer."""
    take_off(layer)
    own = layer.__dict__
    own[MARK] = _On(layer, guard)
    if guard.still:
        if _has_global_stats(layer):
            layer._use_global_stats = True
        if _has_global_stats(layer) and not _looks_at_mode(layer):
            layer._forward_pre_hooks[_HOOK] = _ON_COPIES
            layer._forward_pre_hooks.move_to_end(_HOOK, last=False)
        else:
            _put_still_hooks(layer)
    if guard.lend or guard.attach:
        own["forward"] = GuardedForward(layer, own.get("forward"))
        layer._forward_pre_hooks[_BREAK] = _break_graph


def take_off(layer: Any) -> None:
    """Take a layer's guard off and put everything back."""
    own = layer.__dict__
    on: _On | None = own.pop(MARK, None)
    if on is None:
        return
    if on.guard.still and _has_global_stats(layer):
        layer._use_global_stats = on.global_stats
    _take_still_hooks(layer)
    layer._forward_pre_hooks.pop(_BREAK, None)
    forward = own.get("forward")
    if isinstance(forward, GuardedForward):
        del own["forward"]
        if forward.inner is not None:
            own["forward"] = forward.inner


def forget_traces() -> None:
    """Make to_static look again: what it has captured does not notice that a layer holds still."""
    OpcodeExecutorCache().clear()


def _has_global_stats(layer: Any) -> bool:
    """Tell whether a norm can be told to use its statistics; the synchronised one ignores it."""
    return isinstance(layer, BATCH_NORMS) and not isinstance(layer, nn.SyncBatchNorm)


def _looks_at_mode(layer: Any) -> bool:
    """Tell whether a norm computes by a forward that is not Paddle's, which may use its mode."""
    own = type(layer).forward
    forwards = (own, layer.__dict__.get("forward", own))
    return not all(getattr(f, "__module__", "").startswith("paddle.") for f in forwards)


class _OnCopies:
    """A hook before a held norm's forward pass: a copy of it may have been freed since."""

    def __call__(self, layer: Any, _inputs: Any) -> None:
        # Not through `__dict__`: what to_static traces cannot read that.
        on: _On | None = getattr(layer, MARK, None)
        if on is not None and on.lets_go():
            _release(layer)


_ON_COPIES = _OnCopies()


def _release(layer: Any) -> None:
    """Let a copy's layer follow its mode again, and what is in it without parameters.

    Its hooks stay: this happens while they are being called.
    """
    for one in [layer, *layer.sublayers()]:
        on: _On | None = one.__dict__.get(MARK)
        bare = one is layer or not any(True for _ in one.named_parameters())
        if on is not None and on.guard.still and bare:
            on.guard = on.guard._replace(still=False)
            if _has_global_stats(one):
                one._use_global_stats = on.global_stats


class _Still:
    """A pair of hooks around a layer's forward pass that keep it in inference mode.

    Hooks come before those the layer has itself: spectral norm updates its vectors in one. A
    recurrent network passes no gradient in inference mode, so its dropout alone is turned off, and
    a spectral norm on it makes no steps.
    """

    def __init__(self, layer: Any) -> None:
        recurrent = isinstance(layer, RNNBase)
        hooks = layer._forward_pre_hooks.values() if recurrent else ()
        self.norms = [(h, h.n_power_iterations) for h in hooks if isinstance(h, SpectralNorm)]
        self.name = "dropout" if recurrent else "training"
        self.value: Any = 0.0 if recurrent else False
        self.kept: Any = None

    def before(self, layer: Any) -> None:
        """Remember what was asked for, and be still."""
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

    def after(self, layer: Any) -> None:
        """Put back what was asked for."""
        if self.kept is not None:
            setattr(layer, self.name, self.kept)
            self.kept = None
            for norm, steps in self.norms:
                norm.n_power_iterations = steps


class _Before(NamedTuple):
    still: _Still

    def __call__(self, layer: Any, _inputs: Any) -> None:
        self.still.before(layer)


class _After(NamedTuple):
    still: _Still

    def __call__(self, layer: Any, _inputs: Any, _outputs: Any) -> None:
        self.still.after(layer)


def _put_still_hooks(layer: Any) -> None:
    # Under a name of our own: Paddle numbers hooks per process, and a number that came with a
    # pickled layer could be given out again.
    still = _Still(layer)
    layer._forward_pre_hooks[_HOOK] = _Before(still)
    layer._forward_pre_hooks.move_to_end(_HOOK, last=False)
    layer._forward_post_hooks[_HOOK] = _After(still)
    layer._forward_post_hooks_always_called[_HOOK] = True


def _take_still_hooks(layer: Any) -> None:
    before = layer._forward_pre_hooks.pop(_HOOK, None)
    layer._forward_post_hooks.pop(_HOOK, None)
    layer._forward_post_hooks_always_called.pop(_HOOK, None)
    if isinstance(before, _Before):
        before.still.after(layer)


def _break_graph(_layer: Any, _inputs: Any) -> None:
    """Keep to_static from taking the layer for one of Paddle's own, whose forward it knows."""
    psdb.breakgraph()
