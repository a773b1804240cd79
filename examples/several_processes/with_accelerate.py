"""Phases under accelerate.

Run from the root of the repository:
accelerate launch --cpu --num_processes 2 -m examples.several_processes.with_accelerate
"""

from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import unifreeze as uf
from examples.several_processes.model_and_data import Net, share
from examples.torchvision_on_cpu import import_torchvision

import_torchvision()
from accelerate import Accelerator  # noqa: E402

PLAN = uf.FreezePlan.load(Path(__file__).parent / "plan.yaml")


def train() -> None:
    """Train six epochs; accelerate divides the data."""
    accelerator = Accelerator(cpu=True)
    model = Net()
    handle = PLAN.apply(model)
    optimizer = handle.optimizer(torch.optim.AdamW)
    loader = DataLoader(TensorDataset(*share(0, 1)), batch_size=8)
    engine, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for epoch in range(6):
        handle.step(epoch=epoch, metrics={"val_loss": 1.0} if epoch else None)
        accelerator.print(epoch, handle.phase.name, handle)
        for inputs, labels in loader:
            accelerator.backward(cross_entropy(engine(inputs), labels))
            optimizer.step()
            optimizer.zero_grad()
    accelerator.print(handle.verify())
    accelerator.end_training()


if __name__ == "__main__":
    train()
