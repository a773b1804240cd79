"""`FullyShardedDataParallel`: it flattens parameters, so that their shapes are not those of layers.

The structure of such a model cannot be read. A plan that was applied before it was wrapped goes on
to hold; its flags cannot change. `fully_shard` keeps shapes, and has none of this.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from unifreeze.backend import WeakIdentitySet

wrappers = WeakIdentitySet()
"""Every such wrapper that has been made."""
_CLASS = "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel"
CURE = "divide the model by fully_shard, or apply a plan without phases before FSDP wraps it"


def is_wrapper(module: Any) -> bool:
    """Return whether a module is such a wrapper; its package need not be imported."""
    kinds = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(module).__mro__)
    return _CLASS in kinds


def around(tensors: Iterable[torch.Tensor]) -> list[Any]:
    """Return the wrappers that divide some of these parameters among processes."""
    divided = [wrapper for wrapper in wrappers if _divides(wrapper)]
    wanted = set(map(id, tensors)) if divided else set()
    return [w for w in divided if any(id(p) in wanted for p in _parameters(w))]


def are_whole(tensors: Iterable[torch.Tensor]) -> bool:
    """Return whether some of these parameters are gathered now, by `summon_full_params`."""
    handles = (wrapper._handle for wrapper in around(tensors))
    return any(not handle.is_sharded(handle.flat_param) for handle in handles)


def _divides(wrapper: Any) -> bool:
    handle = getattr(wrapper, "_handle", None)
    return handle is not None and bool(handle.uses_sharded_strategy)


def _parameters(wrapper: Any) -> Iterable[Any]:
    flat = wrapper._handle.flat_param
    return (flat, *(getattr(flat, "_params", None) or ()))
