"""Draw what a plan does to a ResNet-50, when, and how a run went."""

import sys
from pathlib import Path

import torch
from torchvision.models import resnet50

import unifreeze as uf

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
plan = (
    uf.FreezePlan()
    .phase("head", rules={"only": "head"}, lr=1e-3)
    .phase("top", at={"epoch": 3}, add=[{"train": "stages[-1]"}, {"freeze": "norm"}], lr=1e-4)
    .phase("all", after={"epochs": 4}, add={"train": "all"}, lr=1e-5)
)
model = resnet50()

before, now = plan.resolve(model, phase="head"), plan.resolve(model, phase="top")
now.to_svg(since=before).save(folder / "freeze-map.svg")
plan.timeline(model).to_svg().save(folder / "timeline.svg")

handle = plan.apply(model)
optimizer = handle.optimizer(torch.optim.SGD)
for epoch in range(10):
    measured = {"train_loss": 2 / (epoch + 1), "val_loss": 1 / 3 + 2 / (epoch + 2)}
    handle.step(epoch=epoch, metrics=measured if epoch else None)  # here you train
handle.report().to_svg().save(folder / "run.svg")
