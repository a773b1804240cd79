"""One small decoder, with its projections apart in PyTorch and fused in Paddle, in any layout.

It has fewer heads of keys than of queries; `rows` says where in a fused projection each part lies.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np

WIDTH, SIZE, HEADS, PAIRS, INNER = 12, 4, 4, 2, 10
"""Width; size of a head; heads of queries; heads of keys and values; width of the inner layer."""

SIZES = {"q": HEADS * SIZE, "k": PAIRS * SIZE, "v": PAIRS * SIZE, "gate": INNER, "up": INNER}


def rows(order: str, groups: int) -> dict[str, Any]:
    """Return where each part lies along the fused axis.

    Args:
        order: The parts in order, as "q k v".
        groups: How many times they follow each other, each time with an equal share.

    >>> {name: found.tolist() for name, found in rows("gate up", 5).items()}["up"]
    [2, 3, 6, 7, 10, 11, 14, 15, 18, 19]
    """
    found: dict[str, list[int]] = {name: [] for name in order.split()}
    place = 0
    for _ in range(groups):
        for name in found:
            share = SIZES[name] // groups
            found[name] += range(place, place + share)
            place += share
    return {name: np.array(places) for name, places in found.items()}


def torch_apart(*, key_bias: bool = True) -> Any:
    """Build the decoder in PyTorch: five projections a block."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.att = nn.ModuleDict(
                {n: nn.Linear(WIDTH, SIZES[n], bias=n != "k" or key_bias) for n in "kqv"}
            )
            self.att["o"] = nn.Linear(SIZES["q"], WIDTH)
            self.mlp = nn.ModuleDict(
                {name: nn.Linear(WIDTH, INNER, bias=False) for name in ("gate", "up")}
            )
            self.mlp["down"] = nn.Linear(INNER, WIDTH)

        def forward(self, x: Any) -> Any:
            y = self.norm(x)
            q, k, v = (
                self.att[name](y).unflatten(-1, (-1, SIZE)).transpose(1, 2) for name in "qkv"
            )
            k, v = (t.repeat_interleave(HEADS // PAIRS, 1) for t in (k, v))
            mixed = torch.softmax(q @ k.transpose(2, 3) / sqrt(SIZE), -1) @ v
            x = x + self.att["o"](mixed.transpose(1, 2).flatten(2))
            y = self.norm2(x)
            gate = nn.functional.silu(self.mlp["gate"](y))
            return x + self.mlp["down"](gate * self.mlp["up"](y))

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.blocks = nn.Embedding(11, WIDTH), nn.ModuleList([Block(), Block()])
            self.head = nn.Linear(WIDTH, 3)

        def forward(self, ids: Any) -> Any:
            x = self.words(ids)
            for block in self.blocks:
                x = block(x)
            return self.head(x[:, 0])

    return Decoder()


def paddle_fused(
    qkv: str = "q k v", heads: int = 1, ffn: str = "gate up", pieces: int = 1, *, odd: bool = False
) -> Any:
    """Build the decoder in Paddle: two fused projections a block.

    Args:
        qkv: Order of the parts of the first.
        heads: Groups in which they lie.
        ffn: Order of the parts of the second.
        pieces: Groups in which they lie.
        odd: Every part is stored backwards, which no layout is.
    """
    import paddle
    from paddle import nn

    places = rows(qkv, heads) | rows(ffn, pieces)
    order = {name: (found[::-1].copy() if odd else found) for name, found in places.items()}

    class Block(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.first_norm, self.second_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.mixed = nn.Linear(WIDTH, sum(SIZES[name] for name in "qkv"))
            self.out = nn.Linear(SIZES["q"], WIDTH)
            self.wide = nn.Linear(WIDTH, 2 * INNER, bias_attr=False)
            self.narrow = nn.Linear(INNER, WIDTH)

        def forward(self, x: Any) -> Any:
            y = self.mixed(self.first_norm(x))
            q, k, v = (
                y.index_select(paddle.to_tensor(order[name]), axis=-1)
                .reshape([0, 0, -1, SIZE])
                .transpose([0, 2, 1, 3])
                for name in "qkv"
            )
            k, v = (t.repeat_interleave(HEADS // PAIRS, 1) for t in (k, v))
            scores = nn.functional.softmax(q @ k.transpose([0, 1, 3, 2]) / sqrt(SIZE), -1)
            x = x + self.out((scores @ v).transpose([0, 2, 1, 3]).flatten(2))
            y = self.wide(self.second_norm(x))
            gate, up = (
                y.index_select(paddle.to_tensor(order[name]), axis=-1) for name in ("gate", "up")
            )
            return x + self.narrow(nn.functional.silu(gate) * up)

    class Writer(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.stack = nn.Embedding(11, WIDTH), nn.LayerList([Block(), Block()])
            self.answer = nn.Linear(WIDTH, 3)

        def forward(self, ids: Any) -> Any:
            x = self.tokens(ids)
            for block in self.stack:
                x = block(x)
            return self.answer(x[:, 0])

    return Writer()
