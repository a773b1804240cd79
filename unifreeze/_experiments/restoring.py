"""Put a model back after an experiment: values, flags, guards, modes, gradients, attributes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from unifreeze._modules.module_backend import ModuleBackend
from unifreeze._modules.walking import Walk


@contextmanager
def restored(backend: ModuleBackend, walk: Walk) -> Iterator[Callable[[], None]]:
    """Keep values, flags, guards, modes and gradients; yields what puts the values back."""
    values = [(tensor, backend.clone(tensor)) for tensor in walk.tensors]
    gradients = [(tensor, backend.kept_gradient(tensor)) for tensor in walk.tensors]
    flags = [backend.get_flag(tensor) for tensor in walk.tensors]
    guards, modes = backend.get_guards(walk), _modes_asked_for(backend, walk)
    with ExitStack() as stack:
        drop_gradients(backend, walk)

        def rewind() -> None:
            stack.close()
            stack.enter_context(backend.unchanged_state(walk))
            for tensor, clone in values:
                backend.copy_into(tensor, clone)
            for tensor, flag in zip(walk.tensors, flags, strict=True):
                backend.set_flag(tensor, flag)

        def put_modes_back() -> None:
            backend.set_guards(walk, {})
            backend.set_modes(walk, modes)
            backend.set_guards(walk, guards)

        def put_gradients_back() -> None:
            for tensor, gradient in gradients:
                backend.set_gradient(tensor, gradient)

        # Each is done even if another fails.
        with ExitStack() as last:
            last.callback(put_gradients_back)
            last.callback(put_modes_back)
            last.callback(rewind)
            yield rewind


def _modes_asked_for(backend: ModuleBackend, walk: Walk) -> list[bool]:
    """Return each module's training flag as the training loop set it, guards apart."""
    guards = backend.get_guards(walk)
    backend.set_guards(walk, {})
    modes = backend.modes(walk)
    backend.set_guards(walk, guards)
    return modes


def drop_gradients(backend: ModuleBackend, walk: Walk) -> None:
    """Drop the gradient of every parameter."""
    for tensor in walk.tensors:
        backend.set_gradient(tensor, None)


@contextmanager
def python_random_state() -> Iterator[None]:
    """Put back the generators of Python and NumPy, from which models draw too."""
    python, array = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(array)


@contextmanager
def kept_attributes(backend: ModuleBackend, walk: Walk) -> Iterator[None]:
    """Put back what a forward pass binds to a module: tables made on the first call, new buffers.

    What it changes inside a list or dictionary of its own stays changed.
    """
    live: list[Any] = [vars(module) for module in walk.modules]
    live += [backend.reader.dicts(module)[2] for module in walk.modules]
    kept = [(attributes, dict(attributes)) for attributes in live]
    try:
        yield
    finally:
        for attributes, before in kept:
            for name in attributes.keys() - before.keys():
                del attributes[name]
            changed = {n: value for n, value in before.items() if attributes.get(n) is not value}
            attributes.update(changed)
