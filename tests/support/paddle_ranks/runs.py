"""One way to write a training run that several Paddle processes do, and one process alone."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import paddle
import paddle.distributed as dist
from paddle import nn

from tests.support.paddle_ranks.nets import Net, digests, loss_of


class Together:
    """This process's part of a run under DataParallel.

    Attributes:
        model: The bare model.
        wrapped: What `wrap` made of it.
        after: The digests of the parameters after each step.
    """

    def __init__(self, **settings: Any) -> None:
        paddle.seed(0)
        self.model = Net()
        self.wrapped: Any = None
        self.settings = settings
        self.after: list[dict[str, str]] = []

    def wrap(self) -> None:
        """Wrap the model."""
        self.wrapped = paddle.DataParallel(self.model, **self.settings)

    def evaluate(self, step: int) -> None:
        """Run forward with gradient, and never backward."""
        loss_of(self.wrapped, step, dist.get_rank())

    def backward(self, *steps: int) -> None:
        """Run backward on the rows of some steps; gradients are exchanged once."""
        for step in steps:
            with ExitStack() as stack:
                if step != steps[-1]:
                    stack.enter_context(self.wrapped.no_sync())
                loss_of(self.wrapped, step, dist.get_rank()).backward()

    def step(self, optimizer: Any, *steps: int) -> None:
        """Take a step of the optimizer on the rows of some steps."""
        self.backward(*steps)
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)
        self.after.append(digests(self.model))


class Alone(Together):
    """The same run in one process, which averages the gradients of all shards.

    Attributes:
        count: How many processes it stands for.
    """

    def __init__(self, count: int = 2, **settings: Any) -> None:
        super().__init__(**settings)
        self.count = count

    def wrap(self) -> None:
        """Leave the model as it is."""
        self.wrapped = self.model

    def evaluate(self, step: int) -> None:
        """Do nothing: a forward pass changes nothing."""

    def backward(self, *steps: int) -> None:
        """Run backward on each shard, and leave the average of their gradients."""
        before = _take_gradients(self.model)
        shards = []
        for rank in range(self.count):
            for name, gradient in before.items():
                self.model.get_parameter(name).grad = gradient.clone()
            for step in steps:
                loss_of(self.model, step, rank).backward()
            shards.append(_take_gradients(self.model))
        for name, tensor in self.model.named_parameters():
            if name in shards[0]:
                total = shards[0][name]
                for shard in shards[1:]:
                    total = total + shard[name]
                tensor.grad = total / self.count


def _take_gradients(model: nn.Layer) -> dict[str, paddle.Tensor]:
    """Return copies of the gradients of what trains, and drop them."""
    taken = {}
    for name, tensor in model.named_parameters():
        if tensor.grad is not None:
            taken[name] = tensor.grad.clone()
            tensor.clear_gradient(False)
    return taken
