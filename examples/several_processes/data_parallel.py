r"""Phases under `paddle.DataParallel`.

Run from the root of the repository:
PYTHONPATH=. python -m paddle.distributed.launch --nproc_per_node 2 \
    examples/several_processes/data_parallel.py
"""

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import nn

import unifreeze as uf

PLAN = uf.FreezePlan.from_yaml("""
unifreeze: 1
phases:
  - {name: head, rules: [{only: head}], lr: 0.01}
  - {name: top, at: {epoch: 2}, add: [{train: "blocks[-1]"}]}
  - {name: all, at: {epoch: 4}, rules: [{train: all}], lr: 0.001}
  - {name: head again, at: {epoch: 5}, like: head}
""")


class Block(nn.Layer):
    """Two linear layers beside a path around them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return the block's output."""
        return x + self.second(nn.functional.relu(self.first(x)))


class Net(nn.Layer):
    """A stem, blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 16)
        self.blocks = nn.LayerList([Block() for _ in range(3)])
        self.head = nn.Linear(16, 2)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return two numbers for each row."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def rows(epoch: int) -> paddle.Tensor:
    """Return this process's rows."""
    draw = np.random.default_rng([epoch, dist.get_rank()])
    return paddle.to_tensor(draw.standard_normal((16, 8)).astype("float32"))


def main() -> None:
    """Train six epochs; every process calls everything."""
    dist.init_parallel_env()
    model = Net()
    handle = PLAN.apply(model)
    wrapped = paddle.DataParallel(model)  # before the plan or after it: both are right
    optimizer = handle.optimizer(paddle.optimizer.AdamW)
    for epoch in range(6):
        handle.step(epoch=epoch)
        if dist.get_rank() == 0:
            print(epoch, handle.phase.name, handle, flush=True)
        wrapped(rows(epoch)).square().mean().backward()
        optimizer.step()
        optimizer.clear_grad()
    verified = handle.verify()
    if dist.get_rank() == 0:
        print(verified, flush=True)


if __name__ == "__main__":
    main()
