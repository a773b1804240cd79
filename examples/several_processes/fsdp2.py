"""Phases under fully_shard, and one file of what was trained.

Run from the root of the repository:
torchrun --nproc-per-node 2 -m examples.several_processes.fsdp2
"""

from pathlib import Path
from tempfile import gettempdir

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy

import unifreeze as uf
from examples.several_processes.model_and_data import Net, share

PLAN = uf.FreezePlan.load(Path(__file__).parent / "plan.yaml")


def train() -> None:
    """Train six epochs; every process calls everything, also what verifies and saves."""
    inputs, labels = share(dist.get_rank(), dist.get_world_size())
    torch.manual_seed(0)  # each process keeps its part of the values that it has made
    model = Net()
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    handle = PLAN.apply(model)
    optimizer = handle.optimizer(torch.optim.AdamW)
    for epoch in range(6):
        handle.step(epoch=epoch, metrics={"val_loss": 1.0} if epoch else None)
        if dist.get_rank() == 0:
            print(epoch, handle.phase.name, handle)
        cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    verified = handle.verify()
    file = Path(gettempdir()) / "trained.safetensors"
    handle.save_trained(file)  # all processes gather it, and process 0 writes it
    if dist.get_rank() == 0:
        print(verified)
        file.unlink()


if __name__ == "__main__":
    dist.init_process_group("gloo")
    train()
    dist.destroy_process_group()
