"""Rows of PyTorch's lookup tables that stay as they are under every optimizer's step."""

from __future__ import annotations

import gc
import inspect
import weakref
from collections.abc import Iterator
from functools import partial, wraps
from typing import Any

import torch

from unifreeze.backend import Array, HeldRows, Rows

_ELEMENTWISE = [
    "ASGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax",
    "NAdam", "RAdam", "RMSprop", "Rprop", "SGD", "SparseAdam",
]  # fmt: skip
_WATCHED = "_unifreeze_keeps_rows"


class TorchRows(HeldRows):
    """Hooks on gradients, and around each step of any `torch.optim.Optimizer`."""

    elementwise = frozenset(getattr(torch.optim, name) for name in _ELEMENTWISE)

    def __init__(self) -> None:
        super().__init__()
        self._watches = False

    def hook(self, tensor: torch.Tensor, rows: Rows) -> Any:
        """Register the hook; wrappers that exchange gradients come after it."""
        change = partial(_keep, rows)
        return tensor.register_hook(change)

    def unhook(self, tensor: torch.Tensor, hook: Any) -> None:
        """Take a hook off."""
        hook.remove()

    def masked(self, gradient: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Return a gradient in which only some rows are left."""
        return _keep(rows, gradient)

    def stretch(self, tensor: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Return rows over the same memory."""
        return tensor.detach()[start:stop]

    def copy(self, source: torch.Tensor, into: torch.Tensor) -> None:
        """Write values in place."""
        with torch.no_grad():
            into.copy_(source)

    def clone(self, stretch: torch.Tensor) -> torch.Tensor:
        """Copy a stretch."""
        return stretch.clone()

    def trial(
        self, optimizer: torch.optim.Optimizer, values: Array, gradients: list[Array]
    ) -> Array:
        """Train a small table with an optimizer of the same class and settings."""
        taken = inspect.signature(type(optimizer).__init__).parameters
        settings = {k: v for k, v in optimizer.defaults.items() if k in taken and k != "lr"}
        table = torch.nn.Parameter(torch.tensor(values))
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(0)
            twin: Any = type(optimizer)
            twin = twin([table], lr=0.1, **settings) if "lr" in taken else twin([table], **settings)
            for gradient in gradients:
                table.grad = torch.tensor(gradient)
                twin.step()
        result: Array = table.detach().numpy()
        return result

    def watch_steps(self) -> None:
        """Let every optimizer of the process call back; without tables that costs nothing."""
        if self._watches:
            return
        self._watches = True
        for cls in [torch.optim.Optimizer, *_below(torch.optim.Optimizer)]:
            self._watch(cls)
        for value in gc.get_objects():
            # `isinstance` would ask proxies, whose answers may run any code.
            if issubclass(type(value), torch.optim.Optimizer):
                self._watch(value)  # a scheduler has wrapped its step, and holds the one it had
        base: Any = torch.optim.Optimizer
        begin = base.__init__

        @wraps(begin)
        def with_watch(optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> None:
            begin(optimizer, *args, **kwargs)
            for cls in type(optimizer).__mro__:
                if issubclass(cls, torch.optim.Optimizer):
                    self._watch(cls)

        base.__init__ = with_watch

    def _watch(self, owner: Any) -> None:
        """Keep rows around the step that a class, or one optimizer, has of its own."""
        step = vars(owner).get("step")
        if step is None or hasattr(step, _WATCHED):
            return
        alone: Any = weakref.ref(owner) if isinstance(owner, torch.optim.Optimizer) else None

        @wraps(step)
        def around(*args: Any, **kwargs: Any) -> Any:
            if not self._tables:
                return step(*args, **kwargs)
            optimizer = args[0] if alone is None else alone()
            groups = optimizer.param_groups
            with self.around_step(optimizer, (t for group in groups for t in group["params"])):
                return step(*args, **kwargs)

        setattr(around, _WATCHED, True)
        owner.step = around


def _below(cls: type) -> Iterator[type]:
    derived: list[type] = cls.__subclasses__()
    for inner in derived:
        yield inner
        yield from _below(inner)


def _keep(rows: Rows, gradient: torch.Tensor) -> torch.Tensor:
    """Return a gradient, whole or sparse, in which only some rows are left."""
    start, stop = rows
    if not gradient.is_sparse:
        left = torch.zeros_like(gradient)
        left[start:stop] = gradient[start:stop]
        return left
    indices, values = gradient._indices(), gradient._values()
    inside = (indices[0] >= start) & (indices[0] < stop)
    return torch.sparse_coo_tensor(
        indices[:, inside], values[inside], gradient.shape, is_coalesced=gradient.is_coalesced()
    )


held = TorchRows()
"""The tables of this process."""
