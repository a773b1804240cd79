"""Small PyTorch models and the few things the PyTorch tests do with them, without the library."""

from __future__ import annotations

import torch
from torch import nn

SGD = torch.optim.SGD


class Block(nn.Module):
    """Two linear layers around a norm with running statistics; with dropout in between."""

    def __init__(self, width=6, *, affine=True, dropout=0.0):
        super().__init__()
        self.first = nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width, affine=affine)
        self.drop = nn.Dropout(dropout)
        self.second = nn.Linear(width, width)

    def forward(self, x):
        return x + self.second(self.drop(torch.tanh(self.norm(self.first(x)))))


class Stack(nn.Module):
    """A stem, a list of like blocks and a head."""

    def __init__(self, blocks=2, width=6, **block):
        super().__init__()
        self.stem = nn.Linear(width, width)
        self.blocks = nn.ModuleList([Block(width, **block) for _ in range(blocks)])
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def seeded(make, *args, **kwargs):
    """Build a model from one seed."""
    torch.manual_seed(0)
    return make(*args, **kwargs)


def rows(count=8, width=6, seed=0):
    """A batch of rows of normal values."""
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def backward(model, seed=0):
    """One forward and backward pass on rows, in whatever mode the model is."""
    model(rows(seed=seed)).square().sum().backward()


def raw(tensor):
    """A tensor's bytes, read without the library."""
    return bytes(tensor.detach().clone().contiguous().reshape(-1).view(torch.uint8).numpy())


def bits(model):
    """Every parameter's and buffer's bytes by name, aliases included."""
    named = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    return {name: raw(tensor) for name, tensor in named}


def moved(model, before):
    """Names whose bytes are not as they were."""
    after = bits(model)
    assert after.keys() == before.keys()
    return {name for name in after if after[name] != before[name]}


def statistics(model, prefix=""):
    """The bits of the running statistics under a prefix."""
    return {
        name: value
        for name, value in bits(model).items()
        if name.startswith(prefix) and name.endswith(("running_mean", "running_var"))
    }


@torch.no_grad()
def add(tensor, amount=0.5):
    """Write into a tensor, whatever its flag."""
    tensor.add_(amount)
