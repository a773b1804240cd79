"""A framework in a few pages: tensors that remember how they came about, modules, optimizers.

It has its own words where it can (`learns`, `run`, `parts`), so that nothing fits by accident.
"""

from toynet.modules import (
    BatchNorm,
    Embedding,
    Linear,
    Module,
    ModuleDict,
    ModuleList,
    Sequential,
    Tanh,
)
from toynet.optimizers import SGD, AdamW, Optimizer
from toynet.tensors import Tensor, generator, no_gradient, seed

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "AdamW",
    "BatchNorm",
    "Embedding",
    "Linear",
    "Module",
    "ModuleDict",
    "ModuleList",
    "Optimizer",
    "Sequential",
    "Tanh",
    "Tensor",
    "generator",
    "no_gradient",
    "seed",
]
