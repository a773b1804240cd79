"""Small language models of both frameworks, and loops over them, for plans on rows of a table."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import torch

import unifreeze as uf

WORDS, WIDTH, OLD = 12, 4, 9
RULE = f'rows("word_embeddings", {OLD}:)'
SIDES = {"torch": torch, "paddle": paddle}


def model(side: Any, *, tied: bool, sparse: bool = False, words: int = WORDS) -> Any:
    """Build a model with a table of words and a head, which may be the table itself."""
    base = torch.nn.Module if side is torch else paddle.nn.Layer

    class Net(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__()
            self.word_embeddings = side.nn.Embedding(words, WIDTH, sparse=sparse)
            self.middle = side.nn.Linear(WIDTH, WIDTH)
            self.lm_head = Head(side, words, self.word_embeddings.weight if tied else None)

        def forward(self, ids: Any) -> Any:
            return self.lm_head(side.tanh(self.middle(self.word_embeddings(ids))))

    net = Net()
    drawn = np.random.default_rng(0)
    for tensor in net.parameters():
        put(side, tensor, drawn.standard_normal(tuple(tensor.shape)).astype(np.float32) * 0.3)
    return net


def Head(side: Any, words: int, table: Any) -> Any:  # noqa: N802
    """Build a head over a table of its own, or over that of the words."""
    base = torch.nn.Module if side is torch else paddle.nn.Layer

    class Scores(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__()
            if table is not None:
                self.weight = table
            elif side is torch:
                self.weight = torch.nn.Parameter(torch.zeros(words, WIDTH))
            else:
                self.weight = self.create_parameter([words, WIDTH])

        def forward(self, x: Any) -> Any:
            return x @ self.weight.t() if side is torch else side.matmul(x, self.weight.T)

    return Scores()


def put(side: Any, tensor: Any, values: Any) -> None:
    """Write values into a tensor."""
    with side.no_grad():
        if side is torch:
            tensor.copy_(torch.tensor(values))
        else:
            tensor.set_value(values)


def values(tensor: Any) -> Any:
    """Return a copy of a tensor's values."""
    return np.array(tensor.detach().numpy())


def plan(*, tied: bool, rule: str = RULE) -> uf.FreezePlan:
    """Return a plan that trains some rows, and the head if it is another tensor."""
    rules = uf.FreezePlan().freeze("all") if tied else uf.FreezePlan().only("lm_head")
    return rules.train(rule)


def batch(side: Any, step: int) -> Any:
    """Return the words of a step, old and new ones."""
    ids = np.random.default_rng(step).integers(0, WORDS, (3, 5))
    return side.tensor(ids) if side is torch else side.to_tensor(ids)


def loss(net: Any, ids: Any) -> Any:
    """Return a loss that depends on every word."""
    return (net(ids) ** 2).mean() + net.word_embeddings(ids).sum() * 0.01


def clear(optimizer: Any) -> None:
    """Drop the gradients."""
    (
        optimizer.zero_grad
        if isinstance(optimizer, torch.optim.Optimizer)
        else optimizer.clear_grad
    )()


def train(side: Any, net: Any, optimizer: Any, steps: range) -> None:
    """Take some steps."""
    for step in steps:
        loss(net, batch(side, step)).backward()
        optimizer.step()
        clear(optimizer)
