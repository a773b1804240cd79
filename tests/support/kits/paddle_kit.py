"""The contract's three small models in PaddlePaddle."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn

from unifreeze._protocol import Batch, load_backend
from unifreeze.testing import Example, Kit


class Block(nn.Layer):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.norm = nn.BatchNorm1D(width)
        self.second = nn.Linear(width, width)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x + self.second(paddle.tanh(self.norm(self.first(x))))


class Plain(nn.Layer):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.blocks = nn.LayerList([Block(width), Block(width)])
        self.head = nn.Linear(width, 3)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Tied(nn.Layer):
    def __init__(self, words: int = 11, width: int = 6) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.middle = nn.Linear(width, width)
        self.output = Output(self.embedding.weight, words)

    def forward(self, ids: paddle.Tensor) -> paddle.Tensor:
        return self.output(paddle.tanh(self.middle(self.embedding(ids))))


class Output(nn.Layer):
    def __init__(self, weight: paddle.Tensor, words: int) -> None:
        super().__init__()
        self.weight = weight
        self.bias = self.create_parameter([words], is_bias=True)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return paddle.matmul(x, self.weight, transpose_y=True) + self.bias


class Loose(nn.Layer):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.scale = self.create_parameter(
            [width], default_initializer=nn.initializer.Constant(1.0)
        )
        self.body = nn.Linear(width, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.head(paddle.tanh(self.body(x * self.scale)))


def _rows() -> Batch:
    return Batch((np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32),))


def _ids() -> Batch:
    return Batch((np.random.default_rng(0).integers(0, 11, (4, 5)),))


kit = Kit(
    load_backend("paddle"), Example(Plain, _rows()), Example(Tied, _ids()), Example(Loose, _rows())
)
