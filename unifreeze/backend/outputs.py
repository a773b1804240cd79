"""What a model returns, as the list of floating tensors that a loss can be made of."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from unifreeze.backend.protocol import Array

_CACHES = frozenset({"past_key_values", "past_key_value", "mems", "cache", "caches"})


def tensors_in(result: Any, is_tensor: Callable[[Any], bool]) -> Iterator[Any]:
    """Give the tensors in a model's result, in order, without key-value caches."""
    if is_tensor(result):
        yield result
    elif isinstance(result, Mapping):
        for key, value in result.items():
            if key not in _CACHES:
                yield from tensors_in(value, is_tensor)
    elif isinstance(result, tuple | list) and "Cache" not in type(result).__name__:
        for value in result:
            yield from tensors_in(value, is_tensor)


def output_ids(shapes: list[tuple[int, ...]]) -> list[str]:
    """Name outputs so that two frameworks agree: by shape, and which of that shape it is.

    >>> output_ids([(2, 3), (2,), (2, 3)])
    ['2x3#0', '2#0', '2x3#1']
    """
    seen: dict[tuple[int, ...], int] = {}
    ids = []
    for shape in shapes:
        number = seen[shape] = seen.get(shape, -1) + 1
        ids.append(f"{'x'.join(map(str, shape)) or 'scalar'}#{number}")
    return ids


def loss_weights(output: str, shape: tuple[int, ...], seed: int) -> Array:
    """Return the fixed weighting of one output: standard normal over the root of its size.

    It depends on the output's id and the seed alone, so both frameworks use the same.
    """
    generator = np.random.default_rng([seed, zlib.crc32(output.encode())])
    scale = 1 / np.sqrt(max(1, int(np.prod(shape))))
    return np.asarray(generator.standard_normal(shape) * scale)
