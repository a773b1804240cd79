"""Runs under `paddle.DataParallel`, each compared with one process that averages the shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import nn

import unifreeze as uf

PHASES = """
unifreeze: 1
phases:
  - {name: head, rules: [{only: head}], lr: 0.01}
  - {name: top, at: {step: 5}, rules: [{only: "blocks[-1:] | head"}]}
  - {name: again, at: {step: 10}, rules: [{only: head}]}
  - {name: all, at: {step: 15}, rules: [{train: all}], lr: 0.005}
"""
STEPS = 20


class Block(nn.Layer):
    """A residual block with a norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return the block's output."""
        return self.norm(x + self.second(nn.functional.relu(self.first(x))))


class Net(nn.Layer):
    """A stem, blocks and a head."""

    def __init__(self, width: int = 16, depth: int = 3) -> None:
        super().__init__()
        self.stem = nn.Linear(8, width)
        self.blocks = nn.LayerList([Block(width) for _ in range(depth)])
        self.head = nn.Linear(width, 2)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return two numbers for each row."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def batch(step: int, rank: int) -> paddle.Tensor:
    """Return the rows of one process at a step."""
    rows = np.random.default_rng([step, rank]).standard_normal((4, 8))
    return paddle.to_tensor(rows.astype("float32"))


def loss_of(model: Callable[..., Any], step: int, rank: int) -> paddle.Tensor:
    """Return a process's loss at a step."""
    return model(batch(step, rank)).square().mean()


def values(model: nn.Layer) -> dict[str, str]:
    """Return a digest of each parameter."""
    return {name: tensor._md5sum() for name, tensor in model.named_parameters()}


def alone(count: int, plan: str = PHASES, seed: int = 0) -> list[dict[str, str]]:
    """Train in one process that averages the gradients of all shards; return values by step."""
    paddle.seed(seed)
    model = Net()
    handle = uf.FreezePlan.from_yaml(plan).apply(model)
    optimizer = handle.optimizer(paddle.optimizer.AdamW, lr=0.01, weight_decay=0.01)
    after = []
    for step in range(STEPS):
        handle.step(step=step)
        gradients: list[dict[str, Any]] = []
        for rank in range(count):
            loss_of(model, step, rank).backward()
            trained = {n: t for n, t in model.named_parameters() if not t.stop_gradient}
            gradients.append({n: t.grad.clone() for n, t in trained.items()})
            optimizer.clear_grad(set_to_zero=False)
        for name, tensor in trained.items():
            total = gradients[0][name]
            for more in gradients[1:]:
                total = total + more[name]
            tensor.grad = total / count
        optimizer.step()
        optimizer.clear_grad()
        after.append(values(model))
    return after


def together(*, after_wrapping: bool = False, **settings: Any) -> list[dict[str, str]]:
    """Train under DataParallel; return values by step."""
    dist.init_parallel_env()
    paddle.seed(0)
    model = Net()
    plan = uf.FreezePlan.from_yaml(PHASES)
    wrapped = None
    if after_wrapping:
        wrapped = paddle.DataParallel(model, **settings)
    handle = plan.apply(model)
    wrapped = wrapped or paddle.DataParallel(model, **settings)
    optimizer = handle.optimizer(paddle.optimizer.AdamW, lr=0.01, weight_decay=0.01)
    after = []
    for step in range(STEPS):
        handle.step(step=step)
        loss_of(wrapped, step, dist.get_rank()).backward()
        assert handle.check_gradients() == ()
        optimizer.step()
        optimizer.clear_grad()
        after.append(values(model))
    handle.verify()
    return after
