"""The small network that several Paddle processes train, its rows and its loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.distributed.fleet.utils import recompute


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
    """A stem, blocks and a head.

    Attributes:
        recomputes: Recompute each block in the backward pass, so that frozen ones pass gradient.
        skipped: The number of a block that the next passes leave out.
    """

    def __init__(self, width: int = 16, depth: int = 3) -> None:
        super().__init__()
        self.stem = nn.Linear(8, width)
        self.blocks = nn.LayerList([Block(width) for _ in range(depth)])
        self.head = nn.Linear(width, 2)
        self.recomputes, self.skipped = False, -1

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return two numbers for each row."""
        x = self.stem(x)
        for number, block in enumerate(self.blocks):
            if number != self.skipped:
                x = recompute(block, x, use_reentrant=False) if self.recomputes else block(x)
        return self.head(x)


def batch(step: int, rank: int) -> paddle.Tensor:
    """Return the rows of one process at a step."""
    rows = np.random.default_rng([step, rank]).standard_normal((4, 8))
    return paddle.to_tensor(rows.astype("float32"))


def loss_of(model: Callable[..., Any], step: int, rank: int) -> paddle.Tensor:
    """Return a process's loss at a step."""
    return model(batch(step, rank)).square().mean()


def digests(model: nn.Layer) -> dict[str, str]:
    """Return a digest of each parameter's values."""
    return {name: tensor._md5sum() for name, tensor in model.named_parameters()}
