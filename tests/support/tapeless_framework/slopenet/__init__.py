"""A framework without a tape: gradients come from transforming a function, by path.

Nothing is remembered of how an array was computed, and no array holds a gradient. A module keeps
its parts, weights, statistics and settings in one dictionary.
"""

from slopenet.arrays import Array, State, Weight, generator, pullback, seed
from slopenet.modules import (
    BatchNorm,
    Embedding,
    Linear,
    Module,
    ModuleDict,
    ModuleList,
    Tanh,
    value_and_gradients,
)
from slopenet.optimizers import SGD, AdamW, Optimizer

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "AdamW",
    "Array",
    "BatchNorm",
    "Embedding",
    "Linear",
    "Module",
    "ModuleDict",
    "ModuleList",
    "Optimizer",
    "State",
    "Tanh",
    "Weight",
    "generator",
    "pullback",
    "seed",
    "value_and_gradients",
]
