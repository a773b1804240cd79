"""Taking learning rate and weight decay from a phase, at each step of an optimizer.

Paddle asks the optimizer's scheduler for the rate at each step, or takes a number; so a scheduler
is put before the one there is for the time of each step, which multiplies what that says. Between
steps an optimizer has its own: Paddle's callbacks ask what it is, and its states are saved with it.
"""

from __future__ import annotations

import weakref
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

from unifreeze.backend import Control, Undo, refuse_lbfgs
from unifreeze.errors import OptimizerError
from unifreeze_paddle import _optimizers as optimizers
from unifreeze_paddle._optimizer_moments import settle_loaded
from unifreeze_paddle._phase_decay import set_decay

_STEPS = ("step", "minimize")
"""The two ways to take a step; Paddle's high-level Model and its loss scaler use the second."""


class Scaled(LRScheduler):  # type: ignore[misc]
    """What a scheduler or a fixed rate says, times a factor."""

    def __init__(self, control: Control) -> None:
        # Paddle keeps the last scheduler for good; through this one it would keep the model.
        self.inner: LRScheduler | float = 0.0
        self.control = weakref.ref(control)
        super().__init__(learning_rate=0.0)

    def __call__(self) -> float:
        """Return the rate for the step."""
        own = self.inner() if isinstance(self.inner, LRScheduler) else self.inner
        control = self.control()
        return float(own if control is None else own * control.rate().factor)

    def get_lr(self) -> float:
        """Return the rate for the step."""
        return self()


def base_rate(optimizer: Any) -> float | None:
    """Return the rate an optimizer was built with."""
    return _base(optimizer._learning_rate)


def rates(optimizer: Any, tensors: Sequence[Any]) -> list[float]:
    """Return the optimizer's rate of now times the factor that stands on each tensor."""
    now = float(optimizer.get_lr())
    return [now * float(tensor.optimize_attr["learning_rate"]) for tensor in tensors]


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
    """Put a scheduler that multiplies before an optimizer's own at each step, and settle its decay.

    Raises:
        OptimizerError: It is not an optimizer of Paddle, or breaks when flags change.
    """
    _check(optimizer)
    scaled = Scaled(control)
    undos: list[Undo] = []

    def put_back() -> None:
        while undos:
            undos.pop()()

    def settle() -> None:
        put_back()  # a step that failed left them
        control.begin_step()
        _, decay, fresh, factor = control.rate()
        settle_loaded(optimizer)
        undos.append(_put_before(optimizer, scaled))
        if decay is not None:
            undos.append(set_decay(optimizer, decay))
        if fresh:
            undos.append(_scale(optimizer, fresh, factor))

    for name in _STEPS:
        setattr(optimizer, name, _around(settle, getattr(optimizer, name), put_back))
    _take_new_schedulers(optimizer, control)

    def undo() -> None:
        put_back()
        for name in (*_STEPS, "set_lr_scheduler"):
            vars(optimizer).pop(name, None)
        if not isinstance(optimizer._learning_rate, LRScheduler):
            optimizer.set_lr(optimizer._learning_rate)  # in the tensor that the last step has left

    return undo


def on_step(optimizer: Any, call: Callable[[Any], bool]) -> None:
    """Call a function with an optimizer after its steps, until it returns True."""
    if not isinstance(optimizer, paddle.optimizer.Optimizer):
        return  # it wraps one
    ours: dict[str, Any] = {}

    def after() -> None:
        if ours and call(optimizer):
            own = vars(optimizer)
            for name in [name for name, stand_in in ours.items() if own.get(name) is stand_in]:
                del own[name]
            ours.clear()

    for name in _STEPS:
        if name not in vars(optimizer):
            ours[name] = _around(_nothing, getattr(optimizer, name), after)
            setattr(optimizer, name, ours[name])


def _nothing() -> None:
    pass


def _put_before(optimizer: Any, scaled: Scaled) -> Undo:
    """Let a scheduler that multiplies stand before an optimizer's own."""
    own = scaled.inner = optimizer._learning_rate
    optimizer._learning_rate = scaled

    def undo() -> None:
        optimizer._learning_rate = own

    return undo


def _take_new_schedulers(optimizer: Any, control: Control) -> None:
    """Let rates of phases be compared with that of a scheduler that is new."""
    set_scheduler = optimizer.set_lr_scheduler

    def set_lr_scheduler(scheduler: LRScheduler) -> None:
        set_scheduler(scheduler)
        control.rebase(_base(scheduler))

    optimizer.set_lr_scheduler = set_lr_scheduler


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
        raise OptimizerError(f"{type(optimizer).__name__} is not a Paddle optimizer")
    refuse_lbfgs(type(optimizer), paddle.optimizer.LBFGS)
    if getattr(optimizer, "_use_multi_tensor", False):
        raise OptimizerError(
            f"{type(optimizer).__name__} with use_multi_tensor=True fails once a flag changes",
            hint="leave use_multi_tensor out",
        )


def processes() -> int:
    """Return how many processes train together."""
    return int(paddle.distributed.get_world_size())
