"""Phases under DistributedDataParallel.

Run from the root of the repository:
torchrun --nproc-per-node 2 -m examples.several_processes.ddp
"""

from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import unifreeze as uf
from examples.several_processes.model_and_data import Net, share

PLAN = uf.FreezePlan.load(Path(__file__).parent / "plan.yaml")


def train() -> None:
    """Train six epochs; every process calls everything."""
    inputs, labels = share(dist.get_rank(), dist.get_world_size())
    model = Net()
    handle = PLAN.apply(model)
    engine = DistributedDataParallel(model)
    optimizer = handle.optimizer(torch.optim.AdamW)
    val_loss = None
    for epoch in range(6):
        # Process 0 decides by its metric when a phase begins.
        handle.step(epoch=epoch, metrics={"val_loss": val_loss} if val_loss else None)
        if dist.get_rank() == 0:
            print(epoch, handle.phase.name, handle)
        loss = cross_entropy(engine(inputs), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        val_loss = float(mean) / dist.get_world_size()
    verified = handle.verify()
    if dist.get_rank() == 0:
        print(verified)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    train()
    dist.destroy_process_group()
