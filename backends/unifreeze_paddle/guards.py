"""What guarded Paddle layers do differently: hold still, lend frozen tensors, attach their input.

Paddle computes the gradients of a norm's weight and bias together and gives none if one of them is
frozen; it refuses to pass gradient through a recurrent network with a frozen weight, and through a
few layers whose input takes no part. A guarded layer shows its kernel, for the time of the forward
pass, a detached alias of the frozen tensor that lets gradient pass; the gradient of the alias goes
nowhere, and the parameter is back in its place when the forward pass ends, however it ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import paddle
from paddle import nn
from paddle.nn.layer.norm import _InstanceNormBase
from paddle.nn.layer.rnn import RNNBase

from unifreeze.backend.base import Guard
from unifreeze_paddle.layers import BATCH_NORMS

_MARK = "_unifreeze_guard"
_HOOK = "unifreeze"

PAIRED = (*BATCH_NORMS, _InstanceNormBase)
"""Layers whose kernel gives gradients for all of their parameters or for none."""
WHOLE = (RNNBase, nn.HSigmoidLoss)
"""Layers through which no gradient passes if any parameter is frozen."""
NEEDS_LIVE_INPUT = (nn.PReLU, _InstanceNormBase, nn.HSigmoidLoss)
"""Layers whose backward pass fails, or crashes, if the input takes no part in it."""


class _On(NamedTuple):
    """A guard that is on a layer, with what taking it off puts back."""

    guard: Guard
    global_stats: Any


def guard_of(layer: Any) -> Guard | None:
    """Return the guard that is on a layer, if any; copies of a layer keep theirs."""
    on: _On | None = layer.__dict__.get(_MARK)
    return on.guard if on else None


def needs(layer: Any, trainable: Mapping[int, bool]) -> tuple[tuple[str, ...], bool]:
    """Return what a layer must lend, and whether its input must be attached.

    Args:
        layer: The layer.
        trainable: By identity of a parameter, whether the plan trains it.
    """
    if not isinstance(layer, (*PAIRED, *WHOLE, *NEEDS_LIVE_INPUT)):
        return (), False
    own = {
        leaf: trainable[id(tensor)]
        for leaf, tensor in layer._parameters.items()
        if tensor is not None and id(tensor) in trainable
    }
    frozen = tuple(leaf for leaf, flag in own.items() if not flag)
    some_train = len(frozen) < len(own)
    lends = isinstance(layer, WHOLE) or (isinstance(layer, PAIRED) and some_train)
    return frozen if lends else (), isinstance(layer, NEEDS_LIVE_INPUT) and some_train


def put_on(layer: Any, guard: Guard) -> None:
    """Put a guard on a layer."""
    own = layer.__dict__
    own[_MARK] = _On(guard, own.get("_use_global_stats"))
    if guard.still:
        if _has_global_stats(layer):
            layer._use_global_stats = True
        else:
            _put_still_hooks(layer)
    if guard.lend or guard.attach:
        own["forward"] = GuardedForward(layer, guard, own.get("forward"))


def take_off(layer: Any) -> None:
    """Take a layer's guard off and put everything back."""
    own = layer.__dict__
    on: _On | None = own.pop(_MARK, None)
    if on is None:
        return
    if on.guard.still:
        if _has_global_stats(layer):
            layer._use_global_stats = on.global_stats
        else:
            _take_still_hooks(layer)
    forward = own.get("forward")
    if isinstance(forward, GuardedForward):
        del own["forward"]
        if forward.inner is not None:
            own["forward"] = forward.inner


def _has_global_stats(layer: Any) -> bool:
    """Tell whether a norm can be told to use its statistics; the synchronised one ignores it."""
    return isinstance(layer, BATCH_NORMS) and not isinstance(layer, nn.SyncBatchNorm)


class _Still:
    """A pair of hooks around a layer's forward pass that keep it in inference mode.

    Hooks come before those the layer has itself: spectral norm updates its vectors in one.
    """

    def __init__(self) -> None:
        self.mode: bool | None = None

    def before(self, layer: Any) -> None:
        """Remember the mode asked for, and run in inference mode."""
        if self.mode is None or layer.training:
            self.mode = layer.training
        layer.training = False

    def after(self, layer: Any) -> None:
        """Put the mode back."""
        if self.mode is not None:
            layer.training, self.mode = self.mode, None


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
    still = _Still()
    layer._forward_pre_hooks[_HOOK] = _Before(still)
    layer._forward_pre_hooks.move_to_end(_HOOK, last=False)
    layer._forward_post_hooks[_HOOK] = _After(still)
    layer._forward_post_hooks_always_called[_HOOK] = True


def _take_still_hooks(layer: Any) -> None:
    before = layer._forward_pre_hooks.pop(_HOOK, None)
    layer._forward_post_hooks.pop(_HOOK, None)
    layer._forward_post_hooks_always_called.pop(_HOOK, None)
    if before is not None:
        before.still.after(layer)


class GuardedForward:
    """A layer's forward pass with frozen tensors lent out and the input attached.

    It sits in the layer's own dictionary in place of the method, so copies keep it.

    Attributes:
        layer: The layer.
        guard: What to lend and attach.
        inner: A forward that stood there before, None for the class's own.
    """

    def __init__(self, layer: Any, guard: Guard, inner: Any) -> None:
        self.layer, self.guard, self.inner = layer, guard, inner

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Run the layer's forward pass."""
        if not paddle.is_grad_enabled():
            return self._forward(*inputs, **named)
        if self.guard.attach:
            inputs, named = _attached(inputs, named)
        if not self._worth_lending(inputs, named):
            return self._forward(*inputs, **named)
        with _lent(self.layer, self.guard.lend):
            return self._forward(*inputs, **named)

    def _forward(self, *inputs: Any, **named: Any) -> Any:
        if self.inner is not None:
            return self.inner(*inputs, **named)
        return type(self.layer).forward(self.layer, *inputs, **named)

    def _worth_lending(self, inputs: Any, named: Any) -> bool:
        """Tell whether any gradient comes this way; a frozen prefix should stay out of it."""
        own = (tensor for tensor in self.layer._parameters.values() if tensor is not None)
        trains = any(not tensor.stop_gradient for tensor in own)
        return trains or any(not tensor.stop_gradient for tensor in _tensors((inputs, named)))


def _tensors(values: Any) -> Iterator[Any]:
    if isinstance(values, paddle.Tensor):
        yield values
    elif isinstance(values, dict):
        yield from _tensors(tuple(values.values()))
    elif isinstance(values, tuple | list):
        for value in values:
            yield from _tensors(value)


def _attached(inputs: Any, named: Any) -> tuple[Any, Any]:
    """Let the first input take part in the gradient, if none does."""
    first = next(_tensors((inputs, named)), None)
    if first is None or any(not tensor.stop_gradient for tensor in _tensors((inputs, named))):
        return inputs, named
    live = first.detach()
    live.stop_gradient = False
    swapped = tuple(live if value is first else value for value in inputs)
    return swapped, {key: live if value is first else value for key, value in named.items()}


@contextmanager
def _lent(layer: Any, names: tuple[str, ...]) -> Iterator[None]:
    """Show a layer's kernel aliases of its frozen tensors that let gradient pass."""
    parameters = layer._parameters
    kept = {name: parameters[name] for name in names if parameters.get(name) is not None}
    aliases = {name: _alias(tensor) for name, tensor in kept.items()}
    swapped = {id(kept[name]): alias for name, alias in aliases.items()}
    weights = layer.__dict__.get("_all_weights")
    try:
        parameters.update(aliases)
        if weights is not None:
            layer._all_weights = [swapped.get(id(tensor), tensor) for tensor in weights]
        yield
    finally:
        parameters.update(kept)
        if weights is not None:
            layer._all_weights = weights


def _alias(tensor: Any) -> Any:
    alias = tensor.detach()
    alias.stop_gradient = False
    return alias
