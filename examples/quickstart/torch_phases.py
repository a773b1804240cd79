"""Train a ResNet-18's head, then its last stage too, then all of it once the loss has stalled."""

from pathlib import Path

import torch
from torchvision.models import resnet18

import unifreeze as uf

plan = uf.FreezePlan.load(Path(__file__).parent / "phases.yaml")
model = resnet18(num_classes=5)
handle = plan.apply(model)
optimizer = handle.optimizer(torch.optim.AdamW)  # holds what any phase trains, from the start

losses = [1.0, 0.8, 0.7, 0.71, 0.70, 0.70]  # what a validation would measure after each epoch
for epoch in range(7):
    handle.step(epoch=epoch, metrics={"val_loss": losses[epoch - 1]} if epoch else None)
    model.train()
    model(torch.randn(4, 3, 64, 64)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    print(epoch, handle.phase.name, handle)

print(handle.state_dict()["phase"], handle.verify())
