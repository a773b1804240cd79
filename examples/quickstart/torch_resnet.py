"""Freeze all of ResNet-50 but its head and last stage, train two steps, know that it held."""

import torch
from torchvision.models import resnet50

import unifreeze as uf

model = resnet50()
plan = uf.FreezePlan().only("head | stages[-1]").freeze("norm")
print(plan.resolve(model))

handle = plan.apply(model)
optimizer = handle.optimizer(torch.optim.AdamW, lr=1e-3, weight_decay=0.01)
for _ in range(2):
    model.train()
    model(torch.randn(4, 3, 64, 64)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()

print(handle)
print(handle.verify())
