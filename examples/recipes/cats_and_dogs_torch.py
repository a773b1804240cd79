"""Cats and dogs in three phases, the last of them annealed: a ResNet-18 on random pictures.

Run from the root of the repository: python -m examples.recipes.cats_and_dogs_torch
"""

from math import cos, pi
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

import unifreeze as uf
from examples.torchvision_on_cpu import import_torchvision

PLAN = uf.FreezePlan.load(Path(__file__).parent / "cats_and_dogs.yaml")
EPOCHS, ANNEALED_FROM = 20, 15


def annealing(epoch: int) -> float:
    """Return what the phase's rate is multiplied by: 1 at first, then half a cosine down to 0."""
    left = max(0, epoch - ANNEALED_FROM) / (EPOCHS - ANNEALED_FROM)
    return (1 + cos(pi * left)) / 2


def main() -> None:
    """Train on pictures of noise."""
    pictures, labels = torch.randn(4, 3, 32, 32), torch.arange(4) % 2
    model = import_torchvision().models.resnet18(num_classes=2)  # yours has weights=…
    handle = PLAN.apply(model)
    optimizer = handle.optimizer(torch.optim.AdamW)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, annealing)
    for epoch in range(EPOCHS):
        handle.step(epoch=epoch)
        print(f"{epoch:2} {handle.phase.name:10} {handle.phase.lr * annealing(epoch):.1e}", handle)
        model.train()
        cross_entropy(model(pictures), labels).backward()  # yours is a loop over batches
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    print(handle.verify())


if __name__ == "__main__":
    main()
