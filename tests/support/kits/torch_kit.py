"""The contract's three small models in PyTorch."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from unifreeze._protocol import Batch, load_backend
from unifreeze.testing import Example, Kit


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width)
        self.second = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(torch.tanh(self.norm(self.first(x))))


class Plain(nn.Module):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(width), Block(width)])
        self.head = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Tied(nn.Module):
    def __init__(self, words: int = 11, width: int = 6) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.middle = nn.Linear(width, width)
        self.output = nn.Linear(width, words)
        self.output.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.output(torch.tanh(self.middle(self.embedding(ids))))


class Loose(nn.Module):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.body = nn.Linear(width, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.body(x * self.scale)))


def _rows() -> Batch:
    return Batch((np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32),))


def _ids() -> Batch:
    return Batch((np.random.default_rng(0).integers(0, 11, (4, 5)),))


kit = Kit(
    load_backend("torch"), Example(Plain, _rows()), Example(Tied, _ids()), Example(Loose, _rows())
)
