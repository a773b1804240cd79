"""What a change of phase costs in several processes: messages and bytes, counted.

python -c "from tests.support.at_scale import main; main()"     count, and print
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import unifreeze as uf
from tests.support import paddle_processes, processes

COUNTS = {"PyTorch": (2, 4, 8), "Paddle": (2,)}
"""How many processes; more than two Paddle processes often hang while gloo makes their group."""
WIDTH = 128
PLAN = uf.FreezePlan.from_yaml("""
unifreeze: 1
phases:
  - {name: head, rules: [{only: head}]}
  - {name: all, at: {step: 2}, rules: [{train: all}]}
""")


class Cost(NamedTuple):
    """What one process sends.

    Attributes:
        questions: How often it asks the store at a change of phase.
        told: The bytes of keys and values in these.
        head: The bytes that it writes in a step of the head phase.
        full: The bytes that it writes in a step that trains everything.
    """

    questions: int
    told: int
    head: float
    full: float


class Counted:
    """A store that counts what it is asked."""

    def __init__(self, store: Any) -> None:
        self._store, self.questions, self.told = store, 0, 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        def call(*arguments: Any) -> Any:
            answer = method(*arguments)
            if name != "wait":  # that depends on who comes first
                self.questions += 1
                self.told += sum(_size(each) for each in (*arguments, answer))
            return answer

        return call


def _size(value: Any) -> int:
    if isinstance(value, list):
        return sum(map(_size, value))
    return len(value) if isinstance(value, str | bytes) else 0


def _written() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


def _cost(handle: uf.Handle, train: Callable[[int], None], place: Any) -> list[float]:
    """Go through two phases; count what this process sends."""
    handle.step(step=0)
    train(0)
    before = _written()
    train(1)
    head = _written() - before
    kept, counted = place._store, Counted(place._store())
    place._store = lambda: counted
    try:
        handle.step(step=2)
        train(2)
    finally:
        place._store = kept
    before = _written()
    train(3)
    return [*Cost(counted.questions, counted.told, head, _written() - before)]


def torch_part(rank: int, count: int) -> list[float]:
    """Count in one of several PyTorch processes."""
    import os

    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from tests.support.torch_processes import Net
    from unifreeze_torch import _processes as place

    store = f"file://{os.environ['STORE']}"
    dist.init_process_group("gloo", store, rank=rank, world_size=count)
    torch.manual_seed(0)
    model = Net(width=WIDTH)
    handle = PLAN.apply(model)
    wrapped = DistributedDataParallel(model)
    optimizer = handle.optimizer(torch.optim.SGD, lr=0.1)

    def train(step: int) -> None:
        optimizer.zero_grad()
        wrapped(torch.ones(4, 8)).square().mean().backward()
        optimizer.step()

    return _cost(handle, train, place)


def paddle_part() -> list[float]:
    """Count in one of several Paddle processes."""
    import paddle
    import paddle.distributed as dist

    from tests.support.paddle_ranks.nets import Net
    from unifreeze_paddle import _processes as place

    dist.init_parallel_env()
    paddle.seed(0)
    model = Net(width=WIDTH)
    handle = PLAN.apply(model)
    wrapped = paddle.DataParallel(model)
    optimizer = handle.optimizer(paddle.optimizer.SGD, lr=0.1)

    def train(step: int) -> None:
        wrapped(paddle.ones([4, 8])).square().mean().backward()
        optimizer.step()
        optimizer.clear_grad()

    return _cost(handle, train, place)


def count(framework: str, number: int) -> list[Cost]:
    """Return what each of some processes sends."""
    if framework == "PyTorch":
        rows = processes.in_processes(torch_part, number, timeout=300)
    else:
        rows = paddle_processes.in_processes("tests.support.at_scale:paddle_part", number)
    return [Cost(int(row[0]), int(row[1]), *row[2:]) for row in rows]


def main() -> None:
    """Print what each framework sends."""
    for framework, numbers in COUNTS.items():
        for number in numbers:
            first = count(framework, number)[0]
            print(framework, number, *first, sep=" | ", flush=True)
