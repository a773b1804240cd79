"""Engines that fix what they exchange when they are made: those of DeepSpeed.

DeepSpeed's ZeRO divides gradients and optimizer states among processes by the flags of that moment.
A plan that was applied before goes on to hold; its flags cannot change.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from unifreeze.backend import WeakIdentitySet

engines = WeakIdentitySet()
"""Every such engine that has been made."""
_CLASS = "deepspeed.runtime.engine.DeepSpeedEngine"
REASON = (
    "DeepSpeed has fixed the gradients that it exchanges when its engine was made",
    "apply the plan before deepspeed.initialize, without phases; for phases wrap the model in "
    "DistributedDataParallel, or divide it by fully_shard",
)


def is_engine(module: Any) -> bool:
    """Return whether a module is such an engine; its package need not be imported."""
    return any(f"{kind.__module__}.{kind.__qualname__}" == _CLASS for kind in type(module).__mro__)


def around(tensors: Iterable[torch.Tensor]) -> list[Any]:
    """Return the engines that hold some of these parameters."""
    wanted = set(map(id, tensors)) if engines else set()
    return [e for e in engines if any(id(p) in wanted for p in e.parameters())]
