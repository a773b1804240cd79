"""A stand-in for DeepSpeed's engine, which is not installed where these tests run.

It has the name and the attributes of the real one by which it is known, and does with gradients
what ZeRO does: those of what requires a gradient when it is made are averaged, and no others; the
optimizer is built over the same. It is of one process.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class DeepSpeedEngine(nn.Module):
    """Wraps a model as `deepspeed.initialize` does.

    Attributes:
        module: The model.
        exchanged: The parameters whose gradients are exchanged, fixed from now on.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        super().__init__()
        self.module, self.optimizer = model, optimizer
        self.exchanged = [p for p in model.parameters() if p.requires_grad]

    def forward(self, *inputs: Any) -> Any:
        """Run the model."""
        return self.module(*inputs)

    def backward(self, loss: torch.Tensor) -> None:
        """Compute gradients; only what was trainable at the beginning has any afterwards."""
        loss.backward()
        kept = set(map(id, self.exchanged))
        for parameter in self.module.parameters():
            if id(parameter) not in kept:
                parameter.grad = None

    def step(self) -> None:
        """Take a step, and drop gradients."""
        self.optimizer.step()
        self.optimizer.zero_grad()


DeepSpeedEngine.__module__ = "deepspeed.runtime.engine"
