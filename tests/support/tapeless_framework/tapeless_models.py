"""The contract's three small models in slopenet."""

from __future__ import annotations

import numpy as np
import slopenet

from unifreeze.backend import Batch, load_backend
from unifreeze.testing import Example, Kit


class Block(slopenet.Module):
    def __init__(self, width):
        super().__init__()
        self.first = slopenet.Linear(width, width)
        self.norm = slopenet.BatchNorm(width)
        self.bend = slopenet.Tanh()
        self.second = slopenet.Linear(width, width)

    def run(self, x):
        return x + self.second(self.bend(self.norm(self.first(x))))


class Plain(slopenet.Module):
    def __init__(self, width=6):
        super().__init__()
        self.blocks = slopenet.ModuleList([Block(width), Block(width)])
        self.head = slopenet.Linear(width, 3)

    def run(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Tied(slopenet.Module):
    def __init__(self, words=11, width=6):
        super().__init__()
        self.table = slopenet.Embedding(words, width)
        self.middle = slopenet.Linear(width, width)
        self.words = Words(self.table.weight)

    def run(self, ids):
        return self.words(self.middle(self.table(ids)).tanh())


class Words(slopenet.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight
        self.bias = slopenet.Weight(np.zeros(len(weight.data), np.float32))

    def run(self, x):
        return x @ self.weight.transpose() + self.bias


class Loose(slopenet.Module):
    def __init__(self, width=6):
        super().__init__()
        self.scale = slopenet.Weight(np.ones(width, np.float32))
        self.body = slopenet.Linear(width, width)
        self.head = slopenet.Linear(width, 3)

    def run(self, x):
        return self.head(self.body(x * self.scale).tanh())


def _rows():
    return Batch((np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32),))


def _ids():
    return Batch((np.random.default_rng(0).integers(0, 11, (4, 5)),))


kit = Kit(
    load_backend("slopenet"),
    Example(Plain, _rows()),
    Example(Tied, _ids()),
    Example(Loose, _rows()),
)
