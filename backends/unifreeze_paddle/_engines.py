"""Knows what has been wrapped around a model to train it in several processes.

A plan may be applied to the bare model, which does not know its wrappers. So every wrapper is
noticed when it is made, and those that are older than this module are looked for once.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from itertools import count
from typing import Any

import paddle
from paddle.distributed.fleet.meta_parallel.meta_parallel_base import MetaParallelBase

from unifreeze.backend import LiveTensor, WeakIdentitySet

_CLASSES = (paddle.DataParallel, MetaParallelBase)
_NUMBER = "_unifreeze_number"

_engines = WeakIdentitySet()
"""The wrappers of this process."""
_numbers = count(1)


def are_ready() -> bool:
    """Return whether this process is one of several."""
    return bool(paddle.distributed.get_world_size() > 1 and paddle.distributed.is_initialized())


def engines_around(tensors: Iterable[LiveTensor]) -> Iterator[Any]:
    """Yield the wrappers that hold any of some parameters."""
    engines = list(_engines)
    wanted = set(map(id, tensors)) if engines else set()
    for engine in engines:
        if any(id(tensor) in wanted for tensor in engine.parameters()):
            yield engine


def number_of(engine: Any) -> int:
    """Return a wrapper's number: those that were made later have larger numbers."""
    return int(vars(engine)[_NUMBER])


def divides(engine: Any) -> bool:
    """Return whether processes divide what an optimizer keeps for a wrapper's parameters."""
    if isinstance(engine, paddle.DataParallel):
        return False
    return bool(engine._hcg.get_sharding_parallel_world_size() > 1)


def notice(engine: Any) -> None:
    """Take in a wrapper that was made just now, and has given all processes equal values."""
    if _NUMBER not in vars(engine):
        vars(engine)[_NUMBER] = next(_numbers)
        _engines.add(engine)


def call_after(cls: type, name: str, call: Callable[[Any], None]) -> Callable[[Any], None]:
    """Call a function with each object of a class after a method of it; return that method."""
    method: Callable[..., None] = getattr(cls, name)

    @wraps(method)
    def with_call(self: Any, *args: Any, **kwargs: Any) -> None:
        method(self, *args, **kwargs)
        call(self)

    setattr(cls, name, with_call)
    return method


def older() -> Iterator[Any]:
    """Yield the wrappers that were made before this module was imported."""
    if paddle.distributed.get_world_size() > 1:
        for value in gc.get_objects():
            # `isinstance` would ask proxies, whose answers may run any code.
            if issubclass(type(value), _CLASSES):
                yield value


call_after(MetaParallelBase, "__init__", notice)
for _engine in older():
    notice(_engine)
