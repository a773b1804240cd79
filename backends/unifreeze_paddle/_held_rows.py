"""Rows of Paddle's lookup tables that stay as they are under every optimizer's step."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from functools import partial, wraps
from typing import Any

import paddle
from paddle.distributed.fleet.meta_parallel.sharding.group_sharded_stage2 import GroupShardedStage2
from paddle.distributed.fleet.meta_parallel.sharding.group_sharded_stage3 import GroupShardedStage3
from paddle.incubate import LookAhead, ModelAverage
from paddle.optimizer import Optimizer

from unifreeze.backend import Array, HeldRows, Rows, WeakIdentitySet
from unifreeze.errors import OptimizerError
from unifreeze_paddle import _engines as engines
from unifreeze_paddle._wrapped_optimizers import rows_of, sharding_of

_ELEMENTWISE = [
    "ASGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax",
    "Momentum", "NAdam", "RAdam", "RMSProp", "Rprop", "SGD",
]  # fmt: skip
_UPDATE = "_apply_optimize"
"""What `step` and `minimize` both call, once for each group of parameters."""
_WATCHED = "_unifreeze_keeps_rows"


class PaddleRows(HeldRows):
    """Hooks on gradients, and around each update of any `paddle.optimizer.Optimizer`."""

    elementwise = frozenset(
        {getattr(paddle.optimizer, name) for name in _ELEMENTWISE} | {LookAhead, ModelAverage}
    )

    def __init__(self) -> None:
        super().__init__()
        self._watches = False

    def hook(self, tensor: paddle.Tensor, rows: Rows) -> Any:
        """Register the hook; wrappers that exchange gradients come after it."""
        # Not `register_hook`: what it returns keeps the tensor alive.
        return tensor._register_grad_hook(partial(_keep, rows))

    def unhook(self, tensor: paddle.Tensor, hook: Any) -> None:
        """Take a hook off."""
        tensor._remove_grad_hook(hook)

    def masked(self, gradient: paddle.Tensor, rows: Rows) -> paddle.Tensor:
        """Return a gradient in which only some rows are left."""
        with paddle.no_grad():
            return _keep(rows, gradient.detach())

    def stretch(self, tensor: paddle.Tensor, start: int, stop: int) -> paddle.Tensor:
        """Return rows over the same memory."""
        return tensor.detach()._slice(start, stop)

    def copy(self, source: paddle.Tensor, into: paddle.Tensor) -> None:
        """Write values in place."""
        with paddle.no_grad():
            into.copy_(source if source.dtype == into.dtype else source.astype(into.dtype), True)

    def clone(self, stretch: paddle.Tensor) -> paddle.Tensor:
        """Copy a stretch."""
        with paddle.no_grad():
            return stretch.clone()

    def masters(self, optimizer: Optimizer, tensor: paddle.Tensor) -> list[paddle.Tensor]:
        """Return the master weight of a tensor in half precision."""
        master = getattr(optimizer, "_master_weights", {}).get(tensor.name)
        return [] if master is None else [master]

    def trial(self, optimizer: Optimizer, values: Array, gradients: list[Array]) -> Array:
        """Train a small table with an optimizer of the same class and settings."""
        taken = inspect.signature(type(optimizer).__init__).parameters
        own = {name: vars(optimizer).get(f"_{name}", vars(optimizer).get(name)) for name in taken}
        plain = {name: v for name, v in own.items() if isinstance(v, bool | int | float)}
        plain["learning_rate"] = 0.1
        table = paddle.create_parameter(list(values.shape), "float32")
        with paddle.no_grad():
            table.set_value(values)
        cls: Any = type(optimizer)
        twin = cls(parameters=[table], **plain)
        for gradient in gradients:
            table.grad = paddle.to_tensor(gradient)
            with paddle.no_grad():
                twin.step()
        result: Array = table.numpy()
        return result

    def watch_steps(self) -> None:
        """Let every optimizer of the process call back; without tables that costs nothing."""
        if self._watches:
            return
        self._watches = True
        for cls in [Optimizer, *_below(Optimizer)]:
            self._watch(cls)
        engines.call_after(Optimizer, "__init__", self._watch_younger)

    def _watch_younger(self, optimizer: Optimizer) -> None:
        for cls in type(optimizer).__mro__:
            if issubclass(cls, Optimizer):
                self._watch(cls)

    def _watch(self, cls: type) -> None:
        """Call back around what a class itself says of an update, and of a step."""
        for name, around in ((_UPDATE, self._around_update), ("step", self._around_step)):
            own = vars(cls).get(name)
            if own is not None and not hasattr(own, _WATCHED):
                setattr(cls, name, around(own))
                setattr(vars(cls)[name], _WATCHED, True)

    def _step(self, optimizer: Optimizer, tensors: list[paddle.Tensor]) -> Any:
        if sharding_of(optimizer) is not None and any(t in self._tables for t in tensors):
            raise _sharded("fleet's sharding divides the tables")
        return self.around_step(optimizer, tensors)

    def _around_update(self, update: Any) -> Any:
        @wraps(update)
        def around(
            optimizer: Optimizer, loss: Any, startup_program: Any, params_grads: Any, *rest: Any,
            **named: Any,
        ) -> Any:  # fmt: skip
            if not self._tables or not paddle.in_dynamic_mode():
                return update(optimizer, loss, startup_program, params_grads, *rest, **named)
            mapping = isinstance(params_grads, Mapping)
            pairs = params_grads["params"] if mapping else params_grads
            with self._step(optimizer, [tensor for tensor, _ in pairs]):
                return update(optimizer, loss, startup_program, params_grads, *rest, **named)

        return around

    def _around_step(self, step: Any) -> Any:
        """Some move parameters in a step of their own, without the update that others share."""

        @wraps(step)
        def around(optimizer: Optimizer, *args: Any, **named: Any) -> Any:
            if not self._tables or not paddle.in_dynamic_mode():
                return step(optimizer, *args, **named)
            groups = [
                row if isinstance(row, dict) else {"params": [row]} for row in rows_of(optimizer)
            ]
            with self._step(optimizer, [t for group in groups for t in group["params"]]):
                return step(optimizer, *args, **named)

        return around


def _sharded(why: str) -> OptimizerError:
    return OptimizerError(
        f"rows of a table train, and {why} among processes",
        hint="train under paddle.DataParallel, or train the whole table",
    )


def _below(cls: type) -> Iterator[type]:
    derived: list[type] = cls.__subclasses__()
    for inner in derived:
        yield inner
        yield from _below(inner)


def _keep(rows: Rows, gradient: paddle.Tensor) -> paddle.Tensor:
    """Return a gradient, whole or sparse, in which only some rows are left."""
    start, stop = rows
    if not gradient.is_selected_rows():
        left = paddle.zeros_like(gradient)
        left[start:stop] = gradient[start:stop]
        return left
    outside = [n for n, row in enumerate(gradient.rows()) if not start <= row < stop]
    if outside:
        # The memory of these values is that of the gradient, which was computed just now.
        values = gradient._get_tensor_from_selected_rows()
        values[paddle.to_tensor(outside)] = 0.0
    return gradient


held = PaddleRows()
"""The tables of this process."""
_dividing = WeakIdentitySet()
"""Wrappers of sharding stages 2 and 3, which keep tables in buffers of their own."""


def reason_against(tensor: paddle.Tensor) -> str:
    """Return why no rows of a table can train while the others stay; "" if they can."""
    inside = (t for wrapper in _dividing for t in wrapper.parameters())
    return "a sharding stage divides it" if any(t is tensor for t in inside) else ""


def _refuse_dividing(wrapper: Any) -> None:
    _dividing.add(wrapper)
    if held.now(wrapper.parameters()):
        raise _sharded("a sharding stage divides the tables")


for _class in (GroupShardedStage2, GroupShardedStage3):
    engines.call_after(_class, "__init__", _refuse_dividing)
