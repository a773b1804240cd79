"""The contract's three small models in toynet."""

from __future__ import annotations

import numpy as np
import toynet

from unifreeze.backend import Batch, load_backend
from unifreeze.testing import Example, Kit


class Block(toynet.Module):
    def __init__(self, width):
        super().__init__()
        self.first = toynet.Linear(width, width)
        self.norm = toynet.BatchNorm(width)
        self.bend = toynet.Tanh()
        self.second = toynet.Linear(width, width)

    def run(self, x):
        return x + self.second(self.bend(self.norm(self.first(x))))


class Plain(toynet.Module):
    def __init__(self, width=6):
        super().__init__()
        self.blocks = toynet.ModuleList([Block(width), Block(width)])
        self.head = toynet.Linear(width, 3)

    def run(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Forgetful(Plain):
    """Computes with a copy of its head's weight, which no gradient finds."""

    def run(self, x):
        for block in self.blocks:
            x = block(x)
        return x @ toynet.Tensor(self.head.weight.data.copy()) + self.head.bias


class Tied(toynet.Module):
    def __init__(self, words=11, width=6):
        super().__init__()
        self.table = toynet.Embedding(words, width)
        self.middle = toynet.Linear(width, width)
        self.words = Words(self.table.weight)

    def run(self, ids):
        return self.words(self.middle(self.table(ids)).tanh())


class Words(toynet.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight
        self.bias = toynet.Tensor(np.zeros(len(weight.data), np.float32), learns=True)

    def run(self, x):
        return x @ self.weight.transpose() + self.bias


class Loose(toynet.Module):
    def __init__(self, width=6):
        super().__init__()
        self.scale = toynet.Tensor(np.ones(width, np.float32), learns=True)
        self.body = toynet.Linear(width, width)
        self.head = toynet.Linear(width, 3)

    def run(self, x):
        return self.head(self.body(x * self.scale).tanh())


def _rows():
    return Batch((np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32),))


def _ids():
    return Batch((np.random.default_rng(0).integers(0, 11, (4, 5)),))


kit = Kit(
    load_backend("toynet"), Example(Plain, _rows()), Example(Tied, _ids()), Example(Loose, _rows())
)
