"""Exchanges gradients in place of DDP's reducer: once at the end of each backward pass.

It uses public calls alone, for a PyTorch whose DDP is built in an unknown way.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from unifreeze.backend import WeakIdentityDict

_taken_over: WeakIdentityDict[list[Any]] = WeakIdentityDict()
"""The hooks on the parameters of each wrapper."""


def take_over(engine: Any) -> None:
    """Exchange the gradients of a DDP wrapper here, for the parameters that train now."""
    handles = _taken_over.setdefault(engine, [])
    while handles:
        handles.pop().remove()
    engine.require_backward_grad_sync = False  # its reducer does nothing from now on
    exchange = _Exchange(engine)
    for parameter in exchange.parameters:
        handles.append(parameter.register_post_accumulate_grad_hook(exchange.arrived))


class _Exchange:
    """Averages the gradients of some parameters over a group of processes.

    After a backward pass under `no_sync`, the average is taken anyway: an average of sums is the
    sum of averages.
    """

    def __init__(self, engine: Any) -> None:
        self.group = engine.process_group
        self.parameters = [p for p in engine.module.parameters() if p.requires_grad]
        self._queued = False

    def arrived(self, _parameter: torch.Tensor) -> None:
        """Queue the exchange for the end of this backward pass."""
        if not self._queued:
            self._queued = True
            torch.autograd.Variable._execution_engine.queue_callback(partial(self._average))

    def _average(self) -> None:
        self._queued = False
        count = torch.distributed.get_world_size(self.group)
        for parameter in self.parameters:
            if parameter.grad is None:  # another process may have used it
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.div_(count)
        work = [
            torch.distributed.all_reduce(p.grad, group=self.group, async_op=True)
            for p in self.parameters
        ]
        for each in work:
            each.wait()
