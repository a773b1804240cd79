"""A loss for any output: cross-entropy of seeded labels, or the distance from seeded targets.

It is computed here, in double precision, with its gradient by the output, so that every framework
trains on the same loss.
"""

from __future__ import annotations

import zlib
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unifreeze._numerics.projections import squeezed

Array = NDArray[Any]
LossKind = Literal["itself", "cross-entropy", "squared distance"]


class Graded(NamedTuple):
    """What a loss makes of an output.

    Attributes:
        loss: The loss.
        gradient: Its gradient by the output.
    """

    loss: float
    gradient: Array


def loss_kind(name: str, shape: tuple[int, ...]) -> LossKind:
    """Return which loss an output gets.

    >>> loss_kind("logits", (2, 7, 99)), loss_kind("loss", ()), loss_kind("output", (4, 5, 6))
    ('cross-entropy', 'itself', 'squared distance')
    """
    if prod(shape) == 1:
        return "itself"
    named = "logits" in name or "score" in name
    if shape[-1] > 1 and (len(shape) == 2 or named):
        return "cross-entropy"
    return "squared distance"


def grade(name: str, values: Array, seed: int) -> Graded:
    """Return the loss of an output, and its gradient by the output."""
    wide = np.asarray(values, np.float64)
    kind = loss_kind(name, wide.shape)
    if kind == "itself":
        return Graded(float(wide.reshape(())), np.ones(wide.shape))
    generator = np.random.default_rng([seed, zlib.crc32(name.encode()), 7])
    if kind == "squared distance":
        target = generator.standard_normal(squeezed(wide.shape)).reshape(wide.shape)
        apart = wide - target
        return Graded(float(np.mean(apart**2)), 2 * apart / wide.size)
    rows = wide.reshape(-1, wide.shape[-1])
    labels = generator.integers(0, rows.shape[1], len(rows))
    shifted = rows - rows.max(-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    numbers = np.arange(len(rows))
    gradient = np.exp(logs)
    gradient[numbers, labels] -= 1
    loss = -float(np.mean(logs[numbers, labels]))
    return Graded(loss, (gradient / len(rows)).reshape(wide.shape))
