"""The mutants' network in PyTorch, and its wrong backends: `torch_side:Deaf` is `faults.Deaf`."""

from __future__ import annotations

import torch
from torch import nn

from tests.support.mutants import faults
from unifreeze_torch import TorchBackend


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, 2 * width)
        self.norm = nn.BatchNorm1d(2 * width)
        self.second = nn.Linear(2 * width, width)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.second(torch.tanh(self.norm(self.first(x)))))


class TiedLinear(nn.Module):
    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight
        self.bias = nn.Parameter(torch.zeros(len(weight)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.T + self.bias


class Network(nn.Module):
    def __init__(self, words: int = 11, width: int = 6) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width), requires_grad=False)
        self.table = nn.Embedding(words, width)
        self.blocks = nn.ModuleList([Block(width), Block(width)])
        self.words = TiedLinear(self.table.weight)
        self.label = nn.Linear(width, 3)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.table(ids) * self.scale + self.shift
        for block in self.blocks:
            x = block(x)
        return self.words(x), self.label(x)


class CutsActivations(faults.CutsActivations, TorchBackend):
    def cut(self, module):
        return module.register_forward_hook(lambda _module, _inputs, output: output.detach())


def __getattr__(name: str) -> type:
    return faults.on(TorchBackend, name)
