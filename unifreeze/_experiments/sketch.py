"""Run a model once on given values, and sketch its outputs and gradients.

All parameters train, all random layers are off, and the model computes in double precision where
the framework can, or in its own where that is asked for; its values, flags and modes are put back
bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np

from unifreeze._experiments.experiment_operations import ExperimentOperations, Outputs
from unifreeze._experiments.model_outputs import floating_outputs, no_gradient, seeded_weights
from unifreeze._experiments.nudging import nudge
from unifreeze._experiments.restoring import (
    drop_gradients,
    kept_attributes,
    python_random_state,
    restored,
)
from unifreeze._modules.tracing import trace_forward
from unifreeze._modules.walking import Walk
from unifreeze._numerics.outputs import Seen, caches_in, tensors_in
from unifreeze._numerics.projections import Sketch, sketch_flat, sketch_parts, sketch_table
from unifreeze._protocol.batches import Array
from unifreeze._protocol.live import Model
from unifreeze._protocol.sketch_data import Chosen, SketchConfig, SketchRun
from unifreeze._resolution import train_everything
from unifreeze._structure import ModelSpec
from unifreeze._undo import nothing
from unifreeze.errors import TargetError


def run_sketch(backend: ExperimentOperations, model: Model, config: SketchConfig) -> SketchRun:
    """Run a model once on given values and sketch it; the model is restored bit for bit."""
    walk = backend.walk(model)
    everything = train_everything(backend.describe(model))
    if backend.has_no_values(walk):
        raise TargetError("the model has no values yet", hint="initialise it first")
    with restored(backend, walk) as rewind, ExitStack() as stack:
        stack.enter_context(backend.random_state())
        stack.enter_context(python_random_state())
        rewind()
        stack.callback(backend.write(model, everything))
        stack.enter_context(kept_attributes(backend, walk))
        if config.double:
            stack.enter_context(backend.double(walk))
        stack.callback(drop_gradients, backend, walk)
        return _Sketching(backend, model, walk, config).run(everything.spec)


class _Sketching:
    """One sketched run under way."""

    def __init__(
        self, backend: ExperimentOperations, model: Model, walk: Walk, config: SketchConfig
    ) -> None:
        self.backend, self.model, self.walk, self.config = backend, model, walk, config
        self.batch = config.batch
        self.layers: dict[str, tuple[tuple[int, ...], Sketch]] = {}
        self.given: dict[Sketch, None] = {}
        self.caches: tuple[str, ...] = ()
        self.dtype = ""
        self.outputs: dict[str, Seen] = {}
        self.chosen: Chosen = {}

    def run(self, spec: ModelSpec) -> SketchRun:
        """Run the model forward and backward; return the sketches."""
        backend, walk, config = self.backend, self.walk, self.config
        tables = {row.path for row in spec.parameters if row.kind == "embedding"}
        self._assign()
        if config.nudge:
            self.batch = nudge(backend, self.model, spec, config.batch, double=config.double)
        backend.turn_random_off(walk)
        calls = trace_forward(backend, walk, self.model, self.batch).calls
        backend.turn_random_off(walk)
        gradient_pass = backend.forward_and_backward(walk, self._forward, self._weigh)
        if self.chosen and not gradient_pass.reached:
            raise no_gradient(gradient_pass.outputs)
        gradients: dict[str, Sketch] = {}
        for path, gradient in gradient_pass.gradients.items():
            array = backend.to_array(gradient)
            if path in tables:
                gradients[path] = sketch_table(array)
            else:
                gradients.update(sketch_parts(path, array, config.parts))
        rows = tuple((path, *row) for path, row in self.layers.items())
        returned = {sketch for _, sketch in self.layers.values()}
        passed = tuple(sketch for sketch in self.given if sketch not in returned)
        return SketchRun(
            self.dtype, self.outputs, self.chosen, gradients, calls, rows, passed, self.caches
        )

    def _forward(self) -> Outputs:
        backend = self.backend
        with self._sketched_layers():
            result = backend.run(self.model, self.batch)
        self.caches = tuple(caches_in(result, backend.is_tensor))
        return floating_outputs(backend, result, caches=True)

    def _weigh(self, outputs: Outputs) -> dict[str, Array]:
        arrays = {key: self.backend.to_array(tensor) for key, tensor in outputs.items()}
        self.dtype = next((str(array.dtype) for array in arrays.values()), "")
        self.outputs = {key: Seen(array.shape, sketch_flat(array)) for key, array in arrays.items()}
        choose = self.config.choose
        self.chosen = {key: key for key in outputs} if choose is None else choose(self.outputs)
        # A caller chooses nothing if another model has different outputs, and reports that.
        if not self.chosen and choose is None:
            raise no_gradient(outputs)
        return seeded_weights(outputs, self.chosen, self.config.seed)

    def _assign(self) -> None:
        """Put the given values into the model."""
        backend, walk = self.backend, self.walk
        named = [
            *zip(walk.first_paths(), walk.tensors, strict=True),
            *((state.path, tensor) for state, tensor in walk.states() if tensor is not None),
        ]
        for path, tensor in named:
            array = self.config.values(path, tuple(int(n) for n in tensor.shape))
            if array is not None and (backend.is_floating(tensor) or array.dtype.kind in "biu"):
                backend.copy_into(tensor, backend.from_array(array, tensor))

    @contextmanager
    def _sketched_layers(self) -> Iterator[None]:
        """Sketch the first floating tensor that each module gets, and that it returns."""
        walk = self.walk
        with ExitStack() as stack:
            for index, module in enumerate(walk.modules):
                if not walk.tree.repeats[index]:
                    after = partial(self._returned, walk.tree.paths[index])
                    stack.callback(self.backend.hook(module, nothing, after))
                    stack.callback(self.backend.around_forward(module, self._look))
            yield

    def _returned(self, path: str, result: Any) -> None:
        array = None if path in self.layers else self._first_of(result)
        if array is not None:
            self.layers[path] = array.shape, sketch_flat(without_copies(array))

    def _look(self, forward: Callable[..., Any], args: Any, named: Any) -> Any:
        array = self._first_of((*args, named))
        if array is not None:
            self.given[sketch_flat(without_copies(array))] = None
        return forward(*args, **named)

    def _first_of(self, values: Any) -> Array | None:
        backend = self.backend
        tensors = filter(backend.is_floating, tensors_in(values, backend.is_tensor))
        tensor = next(tensors, None)
        return None if tensor is None else backend.to_array(tensor)


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
