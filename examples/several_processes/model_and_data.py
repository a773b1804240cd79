"""The model that the examples train, and each process's share of the data."""

import torch
from torch import nn


class Block(nn.Module):
    """Two linear layers beside a short cut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        """Add to the input."""
        return x + self.second(torch.relu(self.first(x)))


class Net(nn.Module):
    """A stem, blocks and a head."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Linear(8, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(3))
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        """Run all parts in order."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def share(rank: int, count: int):
    """Return the inputs and labels of one process."""
    inputs = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    return inputs[rank::count], torch.arange(32)[rank::count] % 2
