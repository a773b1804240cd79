"""Small PaddlePaddle models and the few things the PaddlePaddle tests do with them."""

from __future__ import annotations

from functools import partial

import paddle
from paddle import nn

from tests.support.kits.paddle_layers import bits, floats

SGD = paddle.optimizer.SGD


class Block(nn.Layer):
    """Two linear layers around a norm with running statistics; with dropout in between."""

    def __init__(self, width, norm, dropout):
        super().__init__()
        self.first = nn.Linear(width, width)
        self.norm = norm(width)
        self.drop = nn.Dropout(dropout)
        self.second = nn.Linear(width, width)

    def forward(self, x):
        return x + self.second(self.drop(paddle.tanh(self.norm(self.first(x)))))


class Stack(nn.Layer):
    """A stem, a list of like blocks and a head."""

    def __init__(self, blocks=2, width=6, norm=nn.BatchNorm1D, dropout=0.0, *, affine=True):
        super().__init__()
        if not affine:
            norm = partial(norm, weight_attr=False, bias_attr=False)
        paddle.seed(0)
        self.stem = nn.Linear(width, width)
        self.blocks = nn.LayerList([Block(width, norm, dropout) for _ in range(blocks)])
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def rows(count=8, width=6):
    return paddle.to_tensor(floats(count, width))


def loss_of(model):
    return (model(rows()) ** 2).mean()


def backward(model):
    """One forward and backward pass on rows, in whatever mode the model is."""
    loss_of(model).backward()


def train(model, optimizer, steps=2):
    """A training loop's epoch: it calls `model.train()` first."""
    model.train()
    for _ in range(steps):
        loss_of(model).backward()
        optimizer.step()
        optimizer.clear_grad()


def moved(model, before):
    """Names of the parameters and buffers whose bits have changed."""
    after = bits(model)
    return {name for name in after if after[name] != before[name]}


def statistics(model, prefix=""):
    """The bits of the running statistics under a prefix."""
    return {
        name: value
        for name, value in bits(model).items()
        if name.startswith(prefix) and name.endswith(("_mean", "_variance"))
    }


def add(tensor, amount=0.5):
    """Write into a tensor, whatever its flag."""
    tensor.set_value(tensor + amount)
