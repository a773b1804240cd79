"""Giving a Paddle optimizer the learning rate and weight decay of a phase, at each of its steps.

At each step Paddle asks the optimizer's scheduler for the rate, or takes a number. So, for the time
of a step, our scheduler stands before that and multiplies the rate. Between steps the optimizer has
its own scheduler again: Paddle's callbacks read it, and states are saved with it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import paddle
from paddle.optimizer import Optimizer
from paddle.optimizer.lr import (
    CyclicLR,
    LinearWarmup,
    LRScheduler,
    OneCycleLR,
    PiecewiseDecay,
)

from unifreeze.backend import Control, Undo, refuse_lbfgs
from unifreeze.errors import OptimizerError
from unifreeze_paddle import _optimizers as optimizers
from unifreeze_paddle._optimizer_moments import load_pending_moments
from unifreeze_paddle._phase_decay import set_decay
from unifreeze_paddle._wrapped_optimizers import about_to_step, refuse_fused

_STEPS = ("step", "minimize")
"""The two ways to take a step; Paddle's high-level Model and its loss scaler use the second."""


_UPDATE = "_apply_optimize"
"""What both ways call, and what fleet's shards call in place of them."""
_CALLS = "_unifreeze_calls"
"""What is called after updates."""


class Scaled(LRScheduler):  # type: ignore[misc]
    """A scheduler that multiplies the rate of another one, or a number, by the phase's factor."""

    def __init__(self, control: Control) -> None:
        # Paddle keeps the last scheduler for good; a strong reference here would keep the model.
        self.inner: LRScheduler | float = 0.0
        self.control = weakref.ref(control)
        super().__init__(learning_rate=0.0)

    def __call__(self) -> float:
        """Return the rate for the step."""
        rate = self.inner() if isinstance(self.inner, LRScheduler) else self.inner
        control = self.control()
        return float(rate if control is None else rate * control.rate().factor)

    def get_lr(self) -> float:
        """Return the rate for the step."""
        return self()


def base_rate(optimizer: Optimizer) -> float | None:
    """Return the learning rate an optimizer was built with."""
    return _base(optimizer._learning_rate)


def rates(optimizer: Optimizer, tensors: Sequence[paddle.Tensor]) -> list[float]:
    """Return the optimizer's present rate times each tensor's own factor."""
    now = float(optimizer.get_lr())
    return [now * float(tensor.optimize_attr["learning_rate"]) for tensor in tensors]


def _base(rate: LRScheduler | float) -> float:
    """Return the rate that a scheduler shapes; in some, `base_lr` is another number."""
    if isinstance(rate, LinearWarmup):  # where the warm-up begins
        return _base(rate.learning_rate)
    if isinstance(rate, PiecewiseDecay):  # Paddle's default, which it never uses
        return float(rate.values[0])
    if isinstance(rate, OneCycleLR):  # where the cycle begins
        return float(rate._lr_config[1])
    if isinstance(rate, CyclicLR):
        return float(rate.max_lr)
    return float(rate.base_lr if isinstance(rate, LRScheduler) else rate)


def steer(optimizer: Optimizer, control: Control) -> Undo:
    """Multiply an optimizer's rate, and set its weight decay, for the time of each step.

    Raises:
        OptimizerError: It is not a Paddle optimizer, or it breaks when flags change.
    """
    _check(optimizer)
    scaled = Scaled(control)
    undos: list[Undo] = []

    def put_back() -> None:
        while undos:
            undos.pop()()

    def before_step() -> None:
        put_back()  # a step that failed did not
        refuse_fused(optimizer)
        with about_to_step(optimizer):
            control.begin_step()
        _, decay, fresh, factor = control.rate()
        load_pending_moments(optimizer)
        undos.append(_put_before(optimizer, scaled))
        if decay is not None:
            undos.append(set_decay(optimizer, decay))
        if fresh:
            undos.append(_scale(optimizer, fresh, factor))

    for name in _STEPS:
        setattr(optimizer, name, _around(before_step, getattr(optimizer, name), put_back))
    _steer_updates(optimizer, undos, before_step, put_back)
    _take_new_schedulers(optimizer, control)

    def undo() -> None:
        put_back()
        for name in (*_STEPS, _UPDATE, "set_lr_scheduler"):
            vars(optimizer).pop(name, None)
        if not isinstance(optimizer._learning_rate, LRScheduler):
            optimizer.set_lr(optimizer._learning_rate)  # also in the tensor that steps read

    return undo


def _steer_updates(
    optimizer: Optimizer, undos: list[Undo], before: Callable[[], None], after: Callable[[], None]
) -> None:
    """Steer the updates that a wrapper asks for without a step of the optimizer, as shards do."""
    own = vars(optimizer).get(_UPDATE)

    def update(*args: Any, **kwargs: Any) -> Any:
        method = own or partial(getattr(type(optimizer), _UPDATE), optimizer)
        return method(*args, **kwargs)

    steered = _around(before, update, after)

    def apply_optimize(*args: Any, **kwargs: Any) -> Any:
        return (update if undos else steered)(*args, **kwargs)  # a step of its own is under way

    setattr(optimizer, _UPDATE, apply_optimize)


def on_step(optimizer: Optimizer, call: Callable[[Any], bool]) -> None:
    """Call a function with an optimizer after its updates, until it returns True.

    Shards that fleet fuses are refused before.
    """
    if not isinstance(optimizer, Optimizer):
        return  # it wraps an optimizer
    attributes = vars(optimizer)
    if _CALLS in attributes:
        attributes[_CALLS].append(call)
        return
    if _UPDATE in attributes:
        return  # it is steered
    calls = attributes[_CALLS] = [call]

    def after() -> None:
        calls[:] = [each for each in calls if not each(optimizer)]
        if not calls and attributes.pop(_CALLS, None) and attributes.get(_UPDATE) is stand_in:
            del attributes[_UPDATE]

    def update(*args: Any, **kwargs: Any) -> Any:
        return getattr(type(optimizer), _UPDATE)(optimizer, *args, **kwargs)  # as it is by then

    stand_in = _around(partial(refuse_fused, optimizer), update, after)
    setattr(optimizer, _UPDATE, stand_in)


def _put_before(optimizer: Optimizer, scaled: Scaled) -> Undo:
    """Let a scheduler that multiplies stand before an optimizer's own."""
    inner = scaled.inner = optimizer._learning_rate
    optimizer._learning_rate = scaled

    def undo() -> None:
        optimizer._learning_rate = inner

    return undo


def _take_new_schedulers(optimizer: Optimizer, control: Control) -> None:
    """Compare the rates of phases with that of a new scheduler, once the optimizer gets one."""
    set_scheduler = optimizer.set_lr_scheduler

    def set_lr_scheduler(scheduler: LRScheduler) -> None:
        set_scheduler(scheduler)
        control.rebase(_base(scheduler))

    optimizer.set_lr_scheduler = set_lr_scheduler


def _scale(optimizer: Optimizer, fresh: frozenset[int], factor: float) -> Undo:
    """Multiply the rates of some parameters; in Paddle each parameter has a factor."""
    warmed = [tensor for tensor in optimizers.parameters_of(optimizer) if id(tensor) in fresh]
    rates = [tensor.optimize_attr["learning_rate"] for tensor in warmed]
    for tensor, rate in zip(warmed, rates, strict=True):
        tensor.optimize_attr["learning_rate"] = rate * factor

    def undo() -> None:
        for tensor, rate in zip(warmed, rates, strict=True):
            tensor.optimize_attr["learning_rate"] = rate

    return undo


def _around(
    before: Callable[[], None], method: Callable[..., Any], after: Callable[[], None]
) -> Callable[..., Any]:
    def steered(*args: Any, **kwargs: Any) -> Any:
        before()
        try:
            return method(*args, **kwargs)
        finally:
            after()

    return steered


def _check(optimizer: Optimizer) -> None:
    if not isinstance(optimizer, Optimizer):
        raise OptimizerError(f"{type(optimizer).__name__} is not a Paddle optimizer")
    refuse_lbfgs(type(optimizer), paddle.optimizer.LBFGS)
    if getattr(optimizer, "_use_multi_tensor", False):
        raise OptimizerError(
            f"{type(optimizer).__name__} with use_multi_tensor=True fails once a flag changes",
            hint="leave use_multi_tensor out",
        )
