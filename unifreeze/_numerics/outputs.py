"""What a model returns: tensors for a loss, and which output of two models is the same."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unifreeze._numerics.projections import LIMIT, Sketch, squeezed

_CACHES = frozenset({"past_key_values", "past_key_value", "mems", "cache", "caches"})
BARE = "output"
"""The key of an output that a model returns by itself, not in a tuple or mapping."""


def tensors_in(result: Any, is_tensor: Callable[[Any], bool]) -> Iterator[Any]:
    """Yield the tensors in a model's result, in order, without key-value caches."""
    return (tensor for _, tensor in _placed(result, is_tensor, ""))


def outputs_in(
    result: Any, is_tensor: Callable[[Any], bool], *, caches: bool = False
) -> dict[str, Any]:
    """Return the tensors in a model's result by where they are in it.

    Args:
        result: What a model returned.
        is_tensor: Returns True for a tensor.
        caches: Also tensors under a name of a cache.

    >>> outputs_in({"logits": 1, "states": (2, 3)}, lambda value: isinstance(value, int))
    {'logits': 1, 'states.0': 2, 'states.1': 3}
    """
    found: dict[str, Any] = {}
    for key, tensor in _placed(result, is_tensor, "", caches=caches):
        name, number = key or BARE, 1
        while name in found:
            number += 1
            name = f"{key}#{number}"
        found[name] = tensor
    return found


def caches_in(result: Any, is_tensor: Callable[[Any], bool], at: str = "") -> Iterator[str]:
    """Yield the places of key-value caches that hold more than one tensor in a model's result."""
    if is_tensor(result):
        return
    for key, value in _items(result):
        name = f"{at}.{key}" if at else str(key)
        if key not in _CACHES:
            yield from caches_in(value, is_tensor, name)
        elif value is not None and not is_tensor(value):
            yield name


def _placed(
    result: Any, is_tensor: Callable[[Any], bool], at: str, *, caches: bool = False
) -> Iterator[tuple[str, Any]]:
    if is_tensor(result):
        yield at, result
        return
    for key, value in _items(result):
        if key not in _CACHES or (caches and is_tensor(value)):
            # On the command line, commas separate outputs.
            name = str(key).replace(",", "_")
            yield from _placed(value, is_tensor, f"{at}.{name}" if at else name, caches=caches)


def is_cache(output: str) -> bool:
    """Return whether an output has a name of a cache."""
    return output.rpartition(".")[2] in _CACHES


def _items(result: Any) -> Iterator[tuple[Any, Any]]:
    """Yield what a result holds, by its keys, fields or numbers."""
    if isinstance(result, Mapping):
        yield from result.items()
    elif isinstance(result, tuple | list) and "Cache" not in type(result).__name__:
        names = getattr(result, "_fields", range(len(result)))
        yield from zip(names, result, strict=True)
    elif is_dataclass(result) and "Cache" not in type(result).__name__:
        yield from ((field.name, getattr(result, field.name)) for field in fields(result))


def loss_weights(output: str, shape: tuple[int, ...], seed: int) -> NDArray[Any]:
    """Return the fixed weighting of one output: standard normal over the root of its size.

    It depends on the output's name and the seed alone, so both frameworks use the same; axes of
    length 1 make no difference.
    """
    generator = np.random.default_rng([seed, zlib.crc32(output.encode())])
    scale = 1 / np.sqrt(max(1, int(np.prod(shape))))
    return np.asarray(generator.standard_normal(squeezed(shape)) * scale).reshape(shape)


class Seen(NamedTuple):
    """One output.

    Attributes:
        shape: Its shape.
        sketch: Of its values, where those are comparable between the two models.
    """

    shape: tuple[int, ...]
    sketch: Sketch | None = None

    def is_alike(self, other: Seen) -> bool:
        """Return whether two outputs have the same values."""
        if self.sketch is None or other.sketch is None:
            return True
        return self.sketch.gap(other.sketch) <= LIMIT


class Matched(NamedTuple):
    """Which output of one model is which of another.

    Attributes:
        names: For outputs of the second model, by their keys, the keys of the first.
        unsure: Groups of outputs that could be swapped: keys of the first, then of the second.
    """

    names: dict[str, str]
    unsure: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()


def match_outputs(first: Mapping[str, Seen], second: Mapping[str, Seen]) -> Matched:
    """Return which output of the first model is which of the second.

    Outputs are matched by key where both models return the same keys, or as many in a row. Others
    are matched by shape and values, and then by order, which is reported as unsure.
    """
    rows = [{key: squeezed(seen.shape) for key, seen in side.items()} for side in (first, second)]
    if rows[0] == rows[1] and not _in_another_order(first, second):
        return Matched({key: key for key in second})
    # A key that both models use for an output means the same output.
    names = {k: k for k in second if _is_name(k) and rows[0].get(k) == rows[1][k]}
    unsure = []
    for shape in dict.fromkeys(rows[1].values()):
        left = [key for key, size in rows[0].items() if size == shape and key not in names]
        right = [key for key, size in rows[1].items() if size == shape and key not in names]
        for same_left, same_right in _classes(left, right, first, second):
            names |= dict(zip(same_right, same_left, strict=False))
            if len(same_left) > 1 or len(same_right) > 1:
                unsure.append((tuple(same_left), tuple(same_right)))
        rest = [key for key in left if key not in names.values()]
        names |= dict(zip([key for key in right if key not in names], rest, strict=False))
    return Matched({key: names[key] for key in second if key in names}, tuple(unsure))


def _is_name(key: str) -> bool:
    return not all(piece.isdigit() for piece in key.split("."))


def _in_another_order(first: Mapping[str, Seen], second: Mapping[str, Seen]) -> bool:
    """Return whether outputs in a row are the same, but not in the same places."""
    differ = [key for key in second if not first[key].is_alike(second[key])]
    return bool(differ) and not any(map(_is_name, differ))


def _classes(
    left: list[str], right: list[str], first: Mapping[str, Seen], second: Mapping[str, Seen]
) -> Iterator[tuple[list[str], list[str]]]:
    """Yield groups of outputs of one shape and the same values that both models have."""
    done: set[str] = set()
    for key in left:
        same_left = [a for a in left if a not in done and first[a].is_alike(first[key])]
        same_right = [b for b in right if second[b].is_alike(first[key])]
        if key not in done and same_right:
            done.update(same_left)
            yield same_left, same_right
