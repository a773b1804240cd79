"""A forward pass that is watched: which calls gradient does not reach, and what they return."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias
from weakref import ReferenceType, ref

import numpy as np
import xxhash

from unifreeze._cache.module_calls import CallKey, Forward, Frames
from unifreeze._cache.nested_values import Form, take_apart, tensors_inside
from unifreeze._cache.operations import CacheOperations
from unifreeze._protocol.batches import Array
from unifreeze._protocol.live import LiveTensor

Returned: TypeAlias = tuple[CallKey, int]
"""Names one tensor that a call returns: the call, and the tensor's number in its result."""


class Observed(NamedTuple):
    """One call that gradient does not reach.

    Attributes:
        key: Which call it is.
        digest: Of the bits of all tensors that it returned.
        arrays: Their values; empty for calls inside another such call.
        likes: For each of them a tensor of one element, of the same type and place.
        form: What is around them.
        draws: True if it drew random numbers.
        changes: The type of an argument that it changed, such as a key-value cache; "" if none.
    """

    key: CallKey
    digest: str
    arrays: Sequence[Array]
    likes: Sequence[LiveTensor]
    form: Form
    draws: bool
    changes: str


class Observing:
    """A forward pass of which every call is looked at.

    Attributes:
        dead: Calls whose results gradient does not flow through, in the order in which they end.
        order: Keys of all calls, in the order in which they begin.
        used: Tensors that dead calls return, and that are passed on to calls that are not dead.
        passed_on: Tensors that dead calls return, and that are passed on to any call.
    """

    def __init__(
        self,
        backend: CacheOperations,
        among: Collection[CallKey] | None = None,
        *,
        draws: bool = False,
        values: bool = True,
    ) -> None:
        """Begin.

        Args:
            backend: The model's backend.
            among: The calls to look at; None for all that gradient does not reach.
            draws: Look whether calls draw random numbers, or change their arguments, too.
            values: Copy the values of what calls return; their digests are taken anyway.
        """
        self._draws, self._values = draws, values
        self.dead: dict[CallKey, Observed] = {}
        self.order: list[CallKey] = []
        self.used: set[Returned] = set()
        self.passed_on: set[Returned] = set()
        self._backend, self._among, self._frames = backend, among, Frames()
        # Not the tensors themselves: those that nobody else holds go, as in any forward pass.
        self._given: dict[int, tuple[ReferenceType[LiveTensor], Returned]] = {}

    def outermost(self) -> list[CallKey]:
        """Return the dead calls that are not inside another dead call."""
        return outermost(self.dead)

    def take(self, value: Any) -> None:
        """Note which dead calls returned what is in a value that live code gets."""
        self.used.update(self._returned(value))

    def _returned(self, value: Any) -> list[Returned]:
        """Return which of the tensors of dead calls are in a value."""
        inside = tensors_inside(value, self._backend.is_tensor)
        known = ((t, self._given.get(id(t))) for t in inside)
        return [given[1] for t, given in known if given is not None and given[0]() is t]

    def call(
        self, number: int, forward: Forward, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        """Run a call, and look at what it returns."""
        backend, key = self._backend, self._frames.next_key(number)
        self.order.append(key)
        handed = self._returned((args, kwargs))
        self.passed_on.update(handed)
        objects = _contents(backend, (args, kwargs)) if self._draws else {}
        before = generators(backend) if self._draws else ()
        with self._frames.inside(key):
            result = forward(*args, **kwargs)
        tensors, form = take_apart(result, backend.is_tensor, once=True)
        if self._is_dead(key, tensors, form):
            for inner in [k for k in self.dead if k[: len(key)] == key]:
                self.dead[inner] = self.dead[inner]._replace(arrays=())
            copied = tensors if self._values else ()
            arrays = [backend.to_array(tensor) for tensor in copied]
            likes = [one_of(backend, tensor) for tensor in copied]
            draws = self._draws and generators(backend) != before
            now = _contents(backend, (args, kwargs)) if self._draws else {}
            changed = next((name for name in now if now[name] != objects.get(name)), "")
            bits = bits_of(backend, tensors)
            self.dead[key] = Observed(key, bits, arrays, likes, form, draws, changed)
            self._given.update((id(t), (ref(t), (key, place))) for place, t in enumerate(tensors))
        else:
            self.used.update(handed)
        return result

    def _is_dead(self, key: CallKey, tensors: Sequence[LiveTensor], form: Form) -> bool:
        if self._among is not None:
            return key in self._among
        reached = any(map(self._backend.requires_gradient, tensors))
        return bool(tensors) and not form.opaque and not reached


def generators(backend: CacheOperations) -> tuple[Any, ...]:
    """Return what is the same as long as nothing draws: from the framework, Python or NumPy."""
    name, keys, place, *_ = np.random.get_state(legacy=True)
    numpy_bits = name, place, np.asarray(keys).tobytes()
    return backend.random_bits(), random.getstate(), numpy_bits


def outermost(keys: Iterable[CallKey]) -> list[CallKey]:
    """Return the keys of calls that are not inside another one of them."""
    present = set(keys)
    return [k for k in keys if not any(k[:n] in present for n in range(1, len(k)))]


def one_of(backend: CacheOperations, tensor: LiveTensor) -> LiveTensor:
    """Return a tensor of one element of another one, in memory of its own."""
    return backend.clone(tensor.reshape([-1])[:1])


def bits_of(backend: CacheOperations, tensors: Iterable[LiveTensor]) -> str:
    """Return a digest of the exact bits of tensors."""
    hasher = xxhash.xxh3_128()
    for tensor in tensors:
        payload = backend.payload(tensor)
        if payload is not None:
            hasher.update(f"{payload.dtype}{payload.shape}".encode())
            hasher.update(payload.data.data)
    return hasher.hexdigest()


def _contents(backend: CacheOperations, value: Any) -> dict[str, tuple[int, ...]]:
    """Return, for each object in arguments that is not plain data, which tensors it holds."""
    held: dict[str, tuple[int, ...]] = {}
    for item in _objects(value):
        inside = tensors_inside(item, backend.is_tensor, 6)
        held[type(item).__name__] = tuple(map(id, inside))
    return held


def _objects(value: Any) -> list[Any]:
    """Return the objects in arguments that can hold tensors under attributes of their own."""
    if isinstance(value, dict):
        return [item for part in value.values() for item in _objects(part)]
    if isinstance(value, tuple | list):
        return [item for part in value for item in _objects(part)]
    held = getattr(value, "__dict__", None)
    plain = isinstance(value, type) or callable(value) or not held
    return [] if plain or hasattr(value, "shape") else [value]
