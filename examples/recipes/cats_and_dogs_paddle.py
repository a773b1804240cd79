"""Cats and dogs in three phases, the last of them annealed: a ResNet-18 on random pictures.

Run from the root of the repository: python -m examples.recipes.cats_and_dogs_paddle
"""

from math import cos, pi
from pathlib import Path

import paddle
from paddle.nn.functional import cross_entropy
from paddle.vision.models import resnet18

import unifreeze as uf

PLAN = uf.FreezePlan.load(Path(__file__).parent / "cats_and_dogs.yaml")
EPOCHS, ANNEALED_FROM = 20, 15


def annealing(epoch: int) -> float:
    """Return what the phase's rate is multiplied by: 1 at first, then half a cosine down to 0."""
    left = max(0, epoch - ANNEALED_FROM) / (EPOCHS - ANNEALED_FROM)
    return (1 + cos(pi * left)) / 2


def main() -> None:
    """Train on pictures of noise."""
    pictures, labels = paddle.randn([4, 3, 32, 32]), paddle.arange(4) % 2
    model = resnet18(num_classes=2)  # yours has pretrained=True
    handle = PLAN.apply(model)
    scheduler = paddle.optimizer.lr.LambdaDecay(PLAN.phases[0].lr, annealing)
    optimizer = handle.optimizer(paddle.optimizer.AdamW, lr=scheduler)
    for epoch in range(EPOCHS):
        handle.step(epoch=epoch)
        print(f"{epoch:2} {handle.phase.name:10} {handle.phase.lr * annealing(epoch):.1e}", handle)
        model.train()
        cross_entropy(model(pictures), labels).backward()  # yours is a loop over batches
        optimizer.step()
        optimizer.clear_grad()
        scheduler.step()
    print(handle.verify())


if __name__ == "__main__":
    main()
