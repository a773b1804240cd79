"""One small transformer and one small convolutional network, each written for both frameworks.

The two ports of one call nothing by the same name and register nothing in the same order; every
matrix of the transformer's blocks is square, so that no shape tells which way round it is stored.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

WIDTH = 8


def torch_text(*, vocabulary: int = 11, relu: bool = False, idle: bool = False) -> Any:
    """Build the transformer in PyTorch: keys, values, queries; norms before linears."""
    import torch
    from torch import nn

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.k, self.v = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
            self.q, self.o = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Any) -> Any:
            scores = self.q(x) @ self.k(x).transpose(1, 2) / sqrt(WIDTH)
            return self.o(torch.softmax(scores, -1) @ self.v(x))

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.att_norm, self.out_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.att = Attention()
            self.up, self.down = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Any) -> Any:
            x = self.att_norm(x + self.att(x))
            act = torch.relu if relu else torch.nn.functional.gelu
            return self.out_norm(x + self.down(act(self.up(x))))

    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.places = nn.Embedding(vocabulary, WIDTH), nn.Embedding(9, WIDTH)
            self.layers = nn.ModuleList([Layer(), Layer()])
            self.answer = nn.Linear(WIDTH, 3)
            if idle:
                self.pooler = nn.Linear(WIDTH, WIDTH)

        def forward(self, ids: Any) -> Any:
            x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
            for layer in self.layers:
                x = layer(x)
            return self.answer(x[:, 0])

    return Text()


def paddle_text(*, vocabulary: int = 11) -> Any:
    """Build the transformer in Paddle: queries, keys, values; linears before norms."""
    import paddle
    from paddle import nn

    class SelfAttention(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
            self.value, self.dense = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Any) -> Any:
            scores = self.query(x) @ self.key(x).transpose([0, 2, 1]) / sqrt(WIDTH)
            return self.dense(nn.functional.softmax(scores, -1) @ self.value(x))

    class Block(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.attention = SelfAttention()
            self.linear1, self.linear2 = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
            self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

        def forward(self, x: Any) -> Any:
            x = self.norm1(x + self.attention(x))
            return self.norm2(x + self.linear2(nn.functional.gelu(self.linear1(x))))

    class Reader(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(WIDTH, 3)
            self.position, self.word = nn.Embedding(9, WIDTH), nn.Embedding(vocabulary, WIDTH)
            self.stack = nn.LayerList([Block(), Block()])

        def forward(self, ids: Any) -> Any:
            x = self.word(ids) + self.position(paddle.arange(ids.shape[1]))
            for block in self.stack:
                x = block(x)
            return self.head(x[:, 0])

    return Reader()


def torch_image() -> Any:
    """Build the convolutional network in PyTorch: two branches, whose biases add up."""
    from torch import nn

    class Unit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.short, self.short_norm = nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)
            self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)

        def forward(self, x: Any) -> Any:
            return (self.norm(self.conv(x)) + self.short_norm(self.short(x))).relu()

    class Image(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.units = nn.Conv2d(3, 4, 3), nn.ModuleList([Unit(), Unit()])
            self.fc = nn.Linear(4, 5)

        def forward(self, x: Any) -> Any:
            x = self.stem(x)
            for unit in self.units:
                x = unit(x)
            return self.fc(x.mean((2, 3)))

    return Image()


def paddle_image() -> Any:
    """Build the convolutional network in Paddle."""
    from paddle import nn

    class Cell(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.main = nn.Conv2D(4, 4, 3, padding=1, bias_attr=False)
            self.side = nn.Conv2D(4, 4, 1, bias_attr=False)
            self.main_bn, self.side_bn = nn.BatchNorm2D(4), nn.BatchNorm2D(4)

        def forward(self, x: Any) -> Any:
            return nn.functional.relu(self.main_bn(self.main(x)) + self.side_bn(self.side(x)))

    class Picture(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.cells, self.first = nn.LayerList([Cell(), Cell()]), nn.Conv2D(3, 4, 3)
            self.out = nn.Linear(4, 5)

        def forward(self, x: Any) -> Any:
            x = self.first(x)
            for cell in self.cells:
                x = cell(x)
            return self.out(x.mean([2, 3]))

    return Picture()
