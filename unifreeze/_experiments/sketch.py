"""Running a model once on values that are given, and sketching what comes out of it.

All parameters train, all random layers are off, the arithmetic is in double precision where the
framework has it; the model's own values, flags and modes come back bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from unifreeze._experiments.probe import (
    floating_outputs,
    no_gradient,
    python_random_state,
    restored,
    weighted_backward,
)
from unifreeze._modules.tracing import trace_forward
from unifreeze._modules.walking import Walk
from unifreeze._numerics.outputs import Seen, caches_in, tensors_in
from unifreeze._numerics.projections import Sketch, sketch_flat, sketch_parts, sketch_table
from unifreeze._protocol.protocol import Array, SketchConfig, SketchRun
from unifreeze._resolution import train_everything
from unifreeze._structure import ModelSpec
from unifreeze.errors import TargetError

if TYPE_CHECKING:
    from unifreeze._modules.module_backend import ModuleBackend


def run_sketch(backend: ModuleBackend, model: Any, config: SketchConfig) -> SketchRun:
    """Run a model once on given values and sketch it; the model is restored bit for bit."""
    walk = backend.walk(model)
    everything = train_everything(backend.describe(model))
    if backend.has_no_values(walk):
        raise TargetError("the model has no values yet", hint="initialise it first")
    with restored(backend, walk) as rewind, backend.random_state(), python_random_state():
        rewind()
        undo = backend.write(model, everything)
        try:
            with kept_attributes(walk), backend.double(walk):
                try:
                    return _run(backend, model, walk, config, _tables(everything.spec))
                finally:
                    for tensor in walk.tensors:
                        backend.set_gradient(tensor, None)
        finally:
            undo()


def _run(
    backend: ModuleBackend, model: Any, walk: Walk, config: SketchConfig, tables: set[str]
) -> SketchRun:
    first = _first_paths(walk)
    _assign(backend, walk, first, config.values)
    backend.turn_random_off(walk)
    calls = trace_forward(backend, walk, model, config.batch).calls
    backend.turn_random_off(walk)
    layers: dict[str, tuple[tuple[int, ...], Sketch]] = {}
    given: dict[Sketch, None] = {}
    with _sketched_layers(backend, walk, layers, given):
        result = backend.run(model, config.batch)
    found = floating_outputs(backend, result, caches=True)
    arrays = {key: backend.to_array(tensor) for key, tensor in found.items()}
    outputs = {key: Seen(array.shape, sketch_flat(array)) for key, array in arrays.items()}
    chosen = {key: key for key in found} if config.choose is None else config.choose(outputs)
    # None may be chosen: another model's outputs are none of these, and that is to be told.
    nothing = not chosen and config.choose is None
    if nothing or (chosen and not weighted_backward(backend, found, chosen, config.seed)):
        raise no_gradient(found)
    gradients: dict[str, Sketch] = {}
    for path, tensor in zip(first, walk.tensors, strict=True):
        gradient = backend.get_gradient(tensor)
        if gradient is not None:
            array = backend.to_array(gradient)
            if path in tables:
                gradients[path] = sketch_table(array)
            else:
                gradients.update(sketch_parts(path, array, config.parts))
    dtype = next((str(array.dtype) for array in arrays.values()), "")
    rows = tuple((path, *row) for path, row in layers.items())
    returned = {sketch for _, sketch in layers.values()}
    passed = tuple(sketch for sketch in given if sketch not in returned)
    caches = tuple(caches_in(result, backend.is_tensor))
    return SketchRun(dtype, outputs, chosen, gradients, calls, rows, passed, caches)


@contextmanager
def kept_attributes(walk: Walk) -> Iterator[None]:
    """Put back what a forward pass binds to a module: tables made on the first call, new buffers.

    What it changes inside a list or dictionary of its own stays changed.
    """
    live = [vars(module) for module in walk.modules]
    live += [own["_buffers"] for own in live if isinstance(own.get("_buffers"), dict)]
    kept = [(own, dict(own)) for own in live]
    try:
        yield
    finally:
        for own, before in kept:
            for name in own.keys() - before.keys():
                del own[name]
            own.update((n, value) for n, value in before.items() if own.get(n) is not value)


def _first_paths(walk: Walk) -> list[str]:
    """Return each parameter's first native path."""
    paths: dict[int, str] = {}
    for path, tensor in zip(walk.tree.names, walk.tree.tensor_of, strict=True):
        paths.setdefault(tensor, path)
    return [paths[number] for number in range(len(walk.tensors))]


def _tables(spec: ModelSpec) -> set[str]:
    """Return the paths of what is looked up by index."""
    return {one.path for one in spec.parameters if one.kind == "embedding"}


def _assign(
    backend: ModuleBackend,
    walk: Walk,
    first: list[str],
    values: Callable[[str, tuple[int, ...]], Array | None],
) -> None:
    named = [
        *zip(first, walk.tensors, strict=True),
        *((state.path, tensor) for state, tensor in walk.states() if tensor is not None),
    ]
    for path, tensor in named:
        array = values(path, tuple(int(n) for n in tensor.shape))
        if array is not None and (backend.is_floating(tensor) or array.dtype.kind in "biu"):
            backend.copy_into(tensor, backend.from_array(array, tensor))


@contextmanager
def _sketched_layers(
    backend: ModuleBackend,
    walk: Walk,
    layers: dict[str, tuple[tuple[int, ...], Sketch]],
    given: dict[Sketch, None],
) -> Iterator[None]:
    """Sketch the first floating tensor that each module gets, and that it returns."""

    def first_of(values: Any) -> Array | None:
        tensors = filter(backend.is_floating, tensors_in(values, backend.is_tensor))
        tensor = next(tensors, None)
        return None if tensor is None else backend.to_array(tensor)

    def listen(path: str, module: Any) -> Any:
        def after(result: Any) -> None:
            array = None if path in layers else first_of(result)
            if array is not None:
                layers[path] = array.shape, sketch_flat(without_copies(array))

        return backend.hook(module, lambda: None, after)

    def look(forward: Callable[..., Any], args: Any, named: Any) -> Any:
        array = first_of((*args, named))
        if array is not None:
            given[sketch_flat(without_copies(array))] = None
        return forward(*args, **named)

    with ExitStack() as stack:
        for index, module in enumerate(walk.modules):
            if not walk.tree.repeats[index]:
                stack.callback(listen(walk.tree.paths[index], module))
                stack.callback(backend.around_forward(module, look))
        yield


def without_copies(array: Array) -> Array:
    """Leave out what only repeats: of an axis along which all values are the same, keep one.

    One port adds a table of positions to every row of a batch, the other repeats it first.

    >>> without_copies(np.array([[1, 2], [1, 2], [1, 2]])).tolist()
    [[1, 2]]
    """
    for axis, size in enumerate(array.shape):
        first = array.take([0], axis) if size > 1 else array
        if size > 1 and np.array_equal(first, array.take([1], axis)) and np.all(array == first):
            array = first
    return array
