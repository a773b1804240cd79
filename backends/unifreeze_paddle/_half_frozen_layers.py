"""Helping Paddle's kernels with half-frozen layers: lend them aliases, attach their input.

- A norm: Paddle computes the gradients of its weight and bias together, and computes neither if
  either of the two is frozen.
- A recurrent network: no gradient passes through it if any of its weights is frozen.
- A layer norm on the CPU: gradient passes through it as if a frozen weight were 1.
- A few other layers: their backward pass fails if their input takes no part in the gradient.

For the time of its forward pass, a guarded layer shows its kernel a detached alias of the frozen
tensor that lets gradient pass. The gradient of the alias goes nowhere. When the forward pass ends,
also by an error, the parameter is back in its place.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from functools import cache
from types import CodeType, FunctionType
from typing import Any

import paddle
from paddle import nn
from paddle.nn.layer.norm import _InstanceNormBase
from paddle.nn.layer.rnn import RNNBase
from paddle.nn.quant.quant_layers import MovingAverageAbsMaxScale

from unifreeze.backend import Guard
from unifreeze.errors import UnsupportedPlanError
from unifreeze_paddle import _recurrent_cells as recurrent_cells
from unifreeze_paddle._layers import BATCH_NORMS, MARK, is_floating

# When a whole program is traced, Paddle rewrites the functions that it calls; it would break the
# swapping of tensors.
paddle.jit.ignore_module([sys.modules[__name__]])

PAIRED = (*BATCH_NORMS, _InstanceNormBase)
"""Layers whose kernel gives gradients for all of their parameters or for none."""
WHOLE = (RNNBase, nn.HSigmoidLoss)
"""Layers through which no gradient passes if any parameter is frozen."""
IGNORES_FROZEN_WEIGHT = (nn.LayerNorm,)
"""Layers whose CPU kernel passes gradient on as if a frozen weight were 1."""
NEEDS_LIVE_INPUT = (nn.PReLU, _InstanceNormBase, nn.HSigmoidLoss)
"""Layers whose backward pass fails, or crashes, if their input takes no part in the gradient."""

CLAIMS_GRADIENT = (MovingAverageAbsMaxScale,)
"""Layers that ask for gradient even if nothing in or below them trains, and then fail, too."""

_KNOWN = (*PAIRED, *WHOLE, *IGNORES_FROZEN_WEIGHT, *NEEDS_LIVE_INPUT, *CLAIMS_GRADIENT)
_PARAMETERS_BORROWED = (nn.ParameterList, nn.LayerNorm, nn.GroupNorm, nn.PReLU, *PAIRED)
"""Layers whose parameters a user's layer may give to a kernel itself, without calling the layer."""
# Kernels that a user's layer may call with its own parameters, or with those of a layer inside it.
_LENDING_CALLS = frozenset({"batch_norm", "instance_norm", "layer_norm", "hsigmoid_loss"})
_ATTACHING_CALLS = frozenset({"prelu", "instance_norm", "hsigmoid_loss"})


def guard_of(layer: nn.Layer) -> Guard | None:
    """Return the guard that is on a layer, or on a copy of one; None if there is none."""
    on = layer.__dict__.get(MARK)
    guard: Guard | None = on.guard if on else None
    return guard


def may_need(cls: Any) -> bool:
    """Return whether a layer of a class needs help under some plan."""
    return _is_known(cls) or bool(_calls_of(cls))


def needs(
    layer: nn.Layer, numbers: Mapping[int, int], trainable: Sequence[bool]
) -> tuple[tuple[str, ...], bool]:
    """Return what a layer must lend, and whether its input must be attached.

    Args:
        layer: The layer.
        numbers: Number of each parameter by its identity.
        trainable: For each parameter, whether the plan trains it.
    """
    tensors = kernel_tensors(layer)
    known = [numbers.get(id(tensor)) for tensor in tensors.values()]
    flags = tuple([None if number is None else trainable[number] for number in known])
    return needs_of(layer.__class__, tuple(tensors), flags)


def kernel_tensors(layer: nn.Layer) -> dict[str, Any]:
    """Return by name the tensors that a layer's kernel computes with.

    A recurrent network registers only some of them; a user's layer may borrow them from others.
    """
    parameters: dict[str, Any] = layer.__dict__.get("_parameters", {})
    if isinstance(layer, RNNBase):
        return {**parameters, **recurrent_cells.weights(layer)}
    if not _calls_of(layer.__class__):
        return parameters
    return {leaf: holder[key] for leaf, (holder, key) in _places(layer).items()}


def _places(layer: nn.Layer) -> dict[str, tuple[dict[str, Any], str]]:
    """Return the dictionary and key of each parameter, also in layers inside: norm.weight."""
    places = {leaf: (layer._parameters, leaf) for leaf in layer.__dict__.get("_parameters", ())}
    if _calls_of(layer.__class__):
        for name, child in layer._sub_layers.items():
            if isinstance(child, _PARAMETERS_BORROWED):
                inside = child._parameters
                places.update({f"{name}.{leaf}": (inside, leaf) for leaf in inside})
    return places


@cache
def needs_of(
    cls: Any, leaves: tuple[str, ...], flags: tuple[bool | None, ...]
) -> tuple[tuple[str, ...], bool]:
    """Return what `needs` does, for a class, its tensors' names, and which train.

    A flag is None for a tensor that is not a parameter of the plan's.
    """
    frozen = tuple(leaf for leaf, flag in zip(leaves, flags, strict=True) if flag is False)
    some_train = True in flags
    calls = _calls_of(cls) if leaves else frozenset()
    live = issubclass(cls, NEEDS_LIVE_INPUT) or bool(calls & _ATTACHING_CALLS)
    attach = (live and some_train) or issubclass(cls, CLAIMS_GRADIENT)
    return _to_lend(cls, frozen, calls, some_train=some_train), attach


def _to_lend(
    cls: type, frozen: tuple[str, ...], calls: Set[str], *, some_train: bool
) -> tuple[str, ...]:
    if issubclass(cls, WHOLE) or calls & _LENDING_CALLS:
        return frozen
    if issubclass(cls, PAIRED) and some_train:
        return frozen
    if issubclass(cls, IGNORES_FROZEN_WEIGHT):
        return tuple(leaf for leaf in frozen if leaf == "weight")
    return ()


@cache
def _is_known(cls: Any) -> bool:
    return issubclass(cls, _KNOWN)


@cache
def _calls_of(cls: Any) -> Set[str]:
    """Return which of the kernels that need help a user's layer calls in its methods."""
    if _is_known(cls):
        return frozenset()
    bases = [b for b in cls.__mro__ if not b.__module__.startswith(("paddle.", "builtins"))]
    functions = [f for base in bases for f in vars(base).values() if isinstance(f, FunctionType)]
    return (_LENDING_CALLS | _ATTACHING_CALLS).intersection(_names_used(functions))


def _names_used(functions: list[FunctionType]) -> set[str]:
    """Return the names that functions use, and the plain functions that they call in turn."""
    names: set[str] = set()
    waiting, seen = list(functions), set[int]()
    while waiting:
        function = waiting.pop()
        if id(function) in seen:
            continue
        seen.add(id(function))
        in_code = set(_names_in(function.__code__))
        called = [function.__globals__.get(name) for name in in_code]
        waiting += [f for f in called if isinstance(f, FunctionType) and not _is_paddles(f)]
        names |= in_code
    return names


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names_in(inner)


def _is_paddles(function: FunctionType) -> bool:
    return function.__module__ is None or function.__module__.partition(".")[0] == "paddle"


class GuardedForward:
    """A layer's forward pass with frozen tensors lent out and the input attached.

    It is in the layer's `__dict__` in place of the method, so copies keep it. A wrapper around it,
    such as that of to_static, may stay when the guard is taken off; so each call asks the layer
    whether it is guarded now.

    Attributes:
        layer: The layer.
        inner: The forward that was in the layer's `__dict__` before, None for that of its class.
    """

    def __init__(self, layer: nn.Layer, inner: Any) -> None:
        self.layer, self.inner = layer, inner

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Run the layer's forward pass, outside of what to_static captures."""
        callback = paddle.framework.core.set_eval_frame(None)
        try:
            return self._guarded(*inputs, **named)
        finally:
            paddle.framework.core.set_eval_frame(callback)

    def _guarded(self, *inputs: Any, **named: Any) -> Any:
        guard = guard_of(self.layer)
        if guard is None or not paddle.is_grad_enabled():
            return self.own_forward()(*inputs, **named)
        if guard.attach and not _any_live((inputs, named)):
            inputs, named = _attached(self.layer, inputs, named)
        if not self._worth_lending(inputs, named):
            return self.own_forward()(*inputs, **named)
        with _lent(self.layer, guard.lend):
            return self.own_forward()(*inputs, **named)

    def own_forward(self) -> Callable[..., Any]:
        """Return the forward pass that is guarded."""
        cls = type(self.layer)
        forward: Callable[..., Any] = self.inner or cls.forward.__get__(self.layer, cls)
        return forward

    def _worth_lending(self, inputs: Any, named: Any) -> bool:
        """Return whether gradient passes through here anyway.

        It does not in a frozen prefix of the network, and an alias would make it compute gradients
        that nobody needs.
        """
        tensors = [t for t in kernel_tensors(self.layer).values() if t is not None]
        if isinstance(self.layer, IGNORES_FROZEN_WEIGHT) and not _on_cpu(tensors[0]):
            return False
        return _any_live(tensors) or _any_live((inputs, named))


def _on_cpu(tensor: Any) -> bool:
    """Return whether a tensor is on the CPU; a program that is being traced may run there later."""
    return not paddle.in_dynamic_mode() or tensor.place.is_cpu_place()


def _tensors(values: Any) -> Iterator[Any]:
    if isinstance(values, paddle.Tensor | paddle.pir.Value):
        yield values
    elif isinstance(values, dict):
        yield from _tensors(tuple(values.values()))
    elif isinstance(values, tuple | list):
        for value in values:
            yield from _tensors(value)


def _any_live(values: Any) -> bool:
    """Return whether any tensor takes part in the gradient."""
    return any(not tensor.stop_gradient for tensor in _tensors(values))


def _attached(layer: nn.Layer, inputs: Any, named: Any) -> tuple[Any, Any]:
    """Let the first floating input take part in the gradient."""
    first = next(filter(is_floating, _tensors((inputs, named))), None)
    if first is None:
        return inputs, named
    if not paddle.in_dynamic_mode() and layer.training:
        # A program traced whole drops the input's gradient again, and then crashes.
        raise UnsupportedPlanError(
            f"{type(layer).__name__} right above what is frozen cannot be traced whole",
            context="in a whole program its backward pass fails or crashes the process",
            hint="call to_static without full_graph, or eval() to export",
        )
    live = first.detach()
    live.stop_gradient = False
    swapped = tuple(live if value is first else value for value in inputs)
    return swapped, {key: live if value is first else value for key, value in named.items()}


@contextmanager
def _lent(layer: nn.Layer, names: tuple[str, ...]) -> Iterator[None]:
    """Show a layer's kernel aliases of its frozen tensors that let gradient pass."""
    places, tensors = _places(layer), kernel_tensors(layer)
    named = {name: tensors.get(name) for name in names}
    # What somebody has thawed since the plan was applied needs no alias.
    kept = {name: t for name, t in named.items() if t is not None and t.stop_gradient}
    aliases = {name: _alias(tensor) for name, tensor in kept.items()}
    swapped = {id(kept[name]): alias for name, alias in aliases.items()}
    weights = layer.__dict__.get("_all_weights")
    try:
        _put(places, aliases)
        if weights is not None:
            layer._all_weights = [swapped.get(id(tensor), tensor) for tensor in weights]
        yield
    finally:
        _put(places, kept)
        if weights is not None:
            layer._all_weights = weights


def _put(places: Mapping[str, tuple[dict[str, Any], str]], tensors: Mapping[str, Any]) -> None:
    for name, tensor in tensors.items():
        if name in places:
            holder, leaf = places[name]
            holder[leaf] = tensor


def _alias(tensor: Any) -> Any:
    if not paddle.in_dynamic_mode():
        tensor = paddle.pir.core._convert_into_value(tensor)
    alias = tensor.detach()
    alias.stop_gradient = False
    return alias
