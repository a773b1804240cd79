"""Taking learning rate and weight decay from a phase, at each step of an optimizer.

Paddle asks the optimizer's scheduler for the rate at each step, or takes a number; so a scheduler
is put before the one there is, which multiplies what that says and leaves all else to it.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import paddle
from paddle.optimizer.lr import (
    CyclicLR,
    LinearWarmup,
    LRScheduler,
    OneCycleLR,
    PiecewiseDecay,
)

from unifreeze.backend.protocol import Control, Undo
from unifreeze.errors import OptimizerError, listing
from unifreeze_paddle import optimizers
from unifreeze_paddle.decay import set_decay

_STEPS = ("step", "minimize")
"""The two ways to take a step; Paddle's high-level Model and its loss scaler use the second."""
_SETTERS = ("set_lr", "set_lr_scheduler")


class Scaled(LRScheduler):  # type: ignore[misc]
    """What a scheduler or a fixed rate says, times a factor; its state is the scheduler's own."""

    def __init__(self, inner: LRScheduler | float, control: Control) -> None:
        # Paddle keeps the last scheduler for good; through this one it would keep the model.
        self.inner, self.control, self.made = inner, weakref.ref(control), False
        first = inner.base_lr if isinstance(inner, LRScheduler) else inner
        super().__init__(learning_rate=first)

    def __call__(self) -> float:
        """Return the rate for the next step."""
        own = self.inner() if isinstance(self.inner, LRScheduler) else self.inner
        control = self.control()
        return float(own if control is None else own * control.rate().factor)

    def get_lr(self) -> float:
        """Return the rate for the next step."""
        return self()

    def step(self, epoch: int | None = None) -> None:
        """Step the scheduler behind this one; the base class steps once while this is made."""
        if self.made and isinstance(self.inner, LRScheduler):
            self.inner.step(epoch)
        self.made, self.last_lr = True, self()

    def state_dict(self) -> Any:
        """Return the state of the scheduler behind this one."""
        return self.inner.state_dict() if isinstance(self.inner, LRScheduler) else {}

    def set_state_dict(self, state_dict: Any) -> None:
        """Load the state of the scheduler behind this one."""
        if isinstance(self.inner, LRScheduler):
            self.inner.set_state_dict(state_dict)


def base_rate(optimizer: Any) -> float | None:
    """Return the rate an optimizer was built with."""
    rate = optimizer._learning_rate
    return _base(rate.inner if isinstance(rate, Scaled) else rate)


def _base(rate: LRScheduler | float) -> float:
    """Return the rate that a scheduler shapes; what some of them call their base is another."""
    if isinstance(rate, LinearWarmup):  # where the warm-up begins
        return _base(rate.learning_rate)
    if isinstance(rate, PiecewiseDecay):  # Paddle's default, which it never uses
        return float(rate.values[0])
    if isinstance(rate, OneCycleLR):  # where the cycle begins
        return float(rate._lr_config[1])
    if isinstance(rate, CyclicLR):
        return float(rate.max_lr)
    return float(rate.base_lr if isinstance(rate, LRScheduler) else rate)


def steer(optimizer: Any, control: Control) -> Undo:
    """Put a scheduler that multiplies before an optimizer's own, and settle its weight decay.

    Raises:
        OptimizerError: It is no optimizer of Paddle, or breaks when flags change.
    """
    _check(optimizer)
    scaled = Scaled(optimizer._learning_rate, control)
    undos: list[Undo] = []

    def put_back() -> None:
        while undos:
            undos.pop()()

    def settle() -> None:
        put_back()  # a step that failed left them
        control.begin_step()
        _, decay, fresh, factor = control.rate()
        _settle_loaded(optimizer)
        if decay is not None:
            undos.append(set_decay(optimizer, decay))
        if fresh:
            undos.append(_scale(optimizer, fresh, factor))

    for name in _STEPS:
        setattr(optimizer, name, _around(settle, getattr(optimizer, name), put_back))
    _take_new_rates(optimizer, scaled, control)
    optimizer._learning_rate = scaled

    def undo() -> None:
        put_back()
        for name in (*_STEPS, *_SETTERS):
            vars(optimizer).pop(name, None)
        optimizer._learning_rate = scaled.inner
        if not isinstance(scaled.inner, LRScheduler):
            optimizer.set_lr(scaled.inner)  # also in the tensor that the last step has left

    return undo


def _take_new_rates(optimizer: Any, scaled: Scaled, control: Control) -> None:
    """Let an optimizer's setters change what stands behind a scheduler that multiplies."""
    set_rate, set_scheduler = (getattr(optimizer, name) for name in _SETTERS)

    def set_lr(value: float) -> None:
        if isinstance(scaled.inner, LRScheduler) or not isinstance(value, int | float):
            set_rate(value)  # refuses it
        scaled.inner = float(value)

    def set_lr_scheduler(scheduler: LRScheduler) -> None:
        set_scheduler(scheduler)
        optimizer._learning_rate = scaled
        scaled.inner = scheduler
        control.rebase(_base(scheduler))

    optimizer.set_lr, optimizer.set_lr_scheduler = set_lr, set_lr_scheduler


def _scale(optimizer: Any, fresh: frozenset[int], factor: float) -> Undo:
    """Multiply the rates of some parameters; Paddle has one for each."""
    found = [tensor for tensor in optimizers.parameters_of(optimizer) if id(tensor) in fresh]
    own = [tensor.optimize_attr["learning_rate"] for tensor in found]
    for tensor, rate in zip(found, own, strict=True):
        tensor.optimize_attr["learning_rate"] = rate * factor

    def undo() -> None:
        for tensor, rate in zip(found, own, strict=True):
            tensor.optimize_attr["learning_rate"] = rate

    return undo


def _around(
    before: Callable[[], None], own: Callable[..., Any], after: Callable[[], None]
) -> Callable[..., Any]:
    def steered(*args: Any, **kwargs: Any) -> Any:
        before()
        try:
            return own(*args, **kwargs)
        finally:
            after()

    return steered


def _check(optimizer: Any) -> None:
    optimizer_class = paddle.optimizer.Optimizer
    if not isinstance(optimizer, optimizer_class):
        raise OptimizerError(f"{type(optimizer).__name__} is no Paddle optimizer")
    if isinstance(optimizer, paddle.optimizer.LBFGS):
        raise OptimizerError(
            "LBFGS keeps one direction over all parameters and moves frozen ones",
            hint="use a first-order optimizer",
        )
    if getattr(optimizer, "_use_multi_tensor", False):
        raise OptimizerError(
            f"{type(optimizer).__name__} with use_multi_tensor=True fails once a flag changes",
            hint="leave use_multi_tensor out",
        )


def _settle_loaded(optimizer: Any) -> None:
    """Take in a loaded state at once, also of what is frozen now.

    Paddle takes it in parameter by parameter, as each trains for the first time; what it finds no
    state for is then an error, and the state of what is still frozen is lost at the next save.
    """
    loaded = optimizer._accumulators_holder
    if not loaded:
        return
    found = [
        tensor
        for tensor in optimizers.parameters_of(optimizer)
        if any(name.startswith(f"{tensor.name}_") for name in loaded)
    ]
    if not found:
        raise OptimizerError(
            "the optimizer's state is of other parameters, or names them otherwise",
            context=f"it has {listing(loaded)}",
            hint="save states of optimizers that a handle has built or attached: "
            "they are matched by native paths",
        )
    created = optimizer._already_create_accumulator
    optimizers.create_moments(optimizer, [t for t in found if t.name not in created])
    optimizer._accumulators_holder = {}


def clear_moments(optimizer: Any, tensors: Sequence[Any]) -> None:
    """Set the moments of some parameters to what they are at first.

    They are not dropped: Paddle would number the new ones on, and saved states go by those names.
    """
    had = [tensor for tensor in tensors if tensor.name in optimizer._already_create_accumulator]
    own = optimizer._accumulators, optimizer._already_create_accumulator
    known = optimizer._accumulators_holder
    optimizer._accumulators, optimizer._already_create_accumulator = defaultdict(dict), set()
    optimizer._accumulators_holder = {}
    try:
        optimizers.create_moments(optimizer, had)
        first = optimizer._accumulators
    finally:
        optimizer._accumulators, optimizer._already_create_accumulator = own
        optimizer._accumulators_holder = known
    for name, moments in first.items():
        for tensor, value in moments.items():
            optimizer._accumulators[name][tensor].set_value(value)


def processes() -> int:
    """Return how many processes train together."""
    return int(paddle.distributed.get_world_size())
