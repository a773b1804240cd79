"""Run a model on all batches of some data, so that all rows are kept before training begins."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np

from unifreeze._cache.observing import bits_of
from unifreeze._cache.operations import CacheOperations
from unifreeze._cache.trial_passes import remember_generators
from unifreeze._protocol.live import Model
from unifreeze.errors import CacheError, UnifreezeError, brief


def fill(
    backend: CacheOperations,
    model: Model,
    batches: Iterable[Any],
    progress: Callable[[str, int, int], None] | None,
) -> None:
    """Run a model on each batch, and put its state back; raises as `CachedRun.fill` does."""
    total = len(batches) if isinstance(batches, Sized) else 0
    number = 0
    with _state_put_back(backend, model):
        for number, batch in enumerate(_each(batches), 1):
            _run(backend, model, batch, number)
            if progress is not None:
                progress("fill", number, max(total, number))
    if not number:
        raise CacheError("there is no batch to fill the cache with", hint="give some data")


def _run(backend: CacheOperations, model: Model, batch: Any, number: int) -> None:
    args, kwargs = _inputs(backend, model, batch)
    try:
        inspect.signature(backend.walk(model).root.forward).bind(*args, **kwargs)
        model(*args, **kwargs)
    except UnifreezeError:
        raise
    except Exception as error:
        raise CacheError(
            f"the model does not run on batch {number}: {type(error).__name__}: {error}",
            context=f"the batch is {_described(batch)}",
            hint="a batch is what the training loop calls the model with: a tuple holds its "
            "positional inputs, a dictionary its named ones; labels only if the model takes them",
        ) from error


@contextmanager
def _state_put_back(backend: CacheOperations, model: Model) -> Iterator[None]:
    """Put back running statistics of what trains, and generators: no training step was made."""
    kept = [
        (tensor, backend.clone(tensor), bits_of(backend, [tensor]))
        for _, tensor in backend.walk(model).states()
        if tensor is not None and backend.has_values(tensor)
    ]
    put_random_back = remember_generators(backend)
    try:
        yield
    finally:
        put_random_back()
        for tensor, before, bits in kept:
            if bits_of(backend, [tensor]) != bits:
                backend.copy_into(tensor, before)


def _each(batches: Iterable[Any]) -> Iterator[Any]:
    try:
        iterator = iter(batches)
    except TypeError:
        raise CacheError(
            f"{brief(batches)} is not a number of batches",
            hint="give what yields batches, such as a loader or a list",
        ) from None
    number = 0
    while True:
        number += 1
        try:
            yield next(iterator)
        except StopIteration:
            return
        except UnifreezeError:
            raise
        except Exception as error:
            raise CacheError(
                f"the data fails at batch {number}: {type(error).__name__}: {error}",
                hint="go through it in Python to see where it fails",
            ) from error


def _inputs(backend: CacheOperations, model: Model, batch: Any) -> tuple[Any, Mapping[str, Any]]:
    """Return positional and named inputs; arrays become tensors where the model is."""
    like = next((t for t in backend.walk(model).tensors if backend.has_values(t)), None)

    def tensor(value: Any) -> Any:
        return backend.from_input(value, like) if isinstance(value, np.ndarray) else value

    if isinstance(batch, Mapping):
        return (), {str(name): tensor(value) for name, value in batch.items()}
    if isinstance(batch, tuple | list):
        return tuple(map(tensor, batch)), {}
    return (tensor(batch),), {}


def _described(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"a dictionary of {', '.join(map(repr, batch))}"
    if isinstance(batch, tuple | list):
        return f"a {type(batch).__name__} of {len(batch)}"
    return f"of {type(batch).__name__}"
