"""What the comparison of two processes costs, beside a step of training: milliseconds, medians.

python benchmarks/agreement.py
"""

from __future__ import annotations

import os
import socket
import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import unifreeze as uf
from unifreeze._protocol import backend_for
from unifreeze._protocol.processes import agree

ROUNDS = 300


def median(call: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Return the median time of a call in milliseconds; all processes begin each call together."""
    times = []
    for _ in range(rounds):
        dist.barrier()
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def measure(rank: int, port: int) -> None:
    """Measure in one of two processes."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(256, 256) for _ in range(12)))
    uf.FreezePlan().only("head").apply(model)
    engine = DistributedDataParallel(model)
    rows = torch.randn(32, 256)
    processes = backend_for(model).processes(model)
    text = "plan 0123456789ab, 12 parameters train (decisions 0123456789ab)"

    def compare() -> None:
        agree(processes, "benchmark", text, "compare", "they differ")

    def step() -> None:
        engine(rows).square().mean().backward()

    agreement, training = median(compare), median(step, 50)
    if rank == 0:
        print(f"comparing what was written, once after each change: {agreement:.2f} ms")
        print(f"a step of a head of 12 layers of 256: {training:.2f} ms")


def main() -> None:
    """Start two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(measure, args=(port,), nprocs=2)


if __name__ == "__main__":
    main()
